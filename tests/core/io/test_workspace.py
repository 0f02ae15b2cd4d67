"""Fingerprints tell runs apart and are those of earlier versions; a folder belongs to one set of settings."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from tokenry.core.errors import UserError
from tokenry.core.io.workspace import Workspace, fingerprint
from tokenry.core.tensors.fingerprints import model_fingerprint
from tokenry.evaluation.held_out import _item_hash
from tokenry.finetuning.nll_cache import IndexedSample
from tokenry.recipes.testbeds.digits_vit import DigitsViTSetting
from tokenry.verbs._tune.material import Material


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab", "c"), ("a", "bc")),
        (({"a": 1},), ({"a": 2},)),
        ((torch.tensor([1.0]),), (torch.tensor([2.0]),)),
        ((np.array([1, 2]),), (np.array([2, 1]),)),
        ((b"a",), ("a",)),
    ],
)
def test_every_part_counts(one, other):
    assert fingerprint(*one) != fingerprint(*other)


def test_the_order_of_settings_does_not_count_and_half_a_character_is_no_mistake():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert len(fingerprint("\udc80", length=16)) == 16


# The digests of the first versions: by these their folders, caches and results are still found.


def test_the_texts_of_a_grid_are_found():
    assert fingerprint("the cat", "東京", length=16) == "41581b816242efa0"


def test_the_items_of_a_measurement_are_found():
    assert _item_hash(torch.tensor([1, 2, 3]), torch.tensor([-100, 2, 3])) == "d7692112895905ff"


def test_the_losses_of_a_sample_and_of_a_model_are_found():
    sample = IndexedSample(np.array([1, 2, 3]), np.array([False, True, True]), range(3))
    assert sample.key.hex() == "3e57e09b45c4d9ea740561203727e152"
    model = torch.nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.copy_(torch.arange(6.0).view(2, 3))
        model.bias.fill_(0.5)
    assert model_fingerprint(model) == "1acc1eaf07aaeb2d1f44f52d"


def test_the_data_of_a_comparison_is_found():
    data = Dataset.from_dict({"input_ids": [[1, 2, 3], [4, 5]], "labels": [[-100, 2, 3], [-100, 5]]})
    assert Material(data, None, data, []).fingerprint == "be4fd60950cf6aebaa9f3801"


def test_a_trained_digits_model_is_found(monkeypatch):
    config = {"hidden_size": 48}
    monkeypatch.setattr("tokenry.recipes.testbeds.digits_vit.vit_config", lambda setting: Configured(config))
    assert DigitsViTSetting().fingerprint == "4246e128e8f4a2cc"


class Configured:
    def __init__(self, values):
        self.values = values

    def to_diff_dict(self):
        return self.values


# --- folders -------------------------------------------------------------------------------------------------------------------------


def test_a_folder_resumes_its_own_settings_and_refuses_others(tmp_path):
    folder = tmp_path / "run"
    Workspace(folder, {"sizes": (1, 2)}, "run.json").claim("never")
    Workspace(folder, {"sizes": [1, 2]}, "run.json").claim("never")
    with pytest.raises(UserError, match="holds another run"):
        Workspace(folder, {"sizes": (1, 3)}, "run.json").claim(f"{folder} holds another run.")


def test_a_folder_with_damaged_settings_is_refused(tmp_path):
    (tmp_path / "run.json").write_text('{"siz')
    with pytest.raises(UserError, match=r"run\.json is not valid JSON"):
        Workspace(tmp_path, {}, "run.json").claim("never")
