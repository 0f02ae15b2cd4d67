"""Adapters whose tokens are not those of their base model: loaded as they were trained, or refused with both sizes."""

import json

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from tests import tiny
from tokenry.core.errors import UserError
from tokenry.models import load_model

ROWS = 16
WHOLE_ENDS = {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}
ADAPTERS = {
    "beside resized ends": {"target_modules": ["q_proj"]},
    "whole ends": WHOLE_ENDS,
    "whole embeddings": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "on both ends": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "some tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [3, 11]},
}
ONE_END = {
    "on the embeddings": {"target_modules": ["embed_tokens"]},
    "on the head": {"target_modules": ["lm_head"]},
    "on the head, with magnitudes": {"target_modules": ["lm_head"], "use_dora": True},
}


@pytest.fixture(autouse=True)
def _quiet():
    transformers.logging.set_verbosity_error()


def write_adapter(folder, adapter, rows, tied):
    """An adapter, trained on a base model of `ROWS` tokens that was given `rows`; returns its folder and its logits."""
    plain = tiny.llama(vocab_size=ROWS, num_hidden_layers=1, tie_word_embeddings=tied, initializer_range=0.5)
    plain.save_pretrained(folder / "base")
    base = load_model(folder / "base")
    base.resize_token_embeddings(rows)
    model = get_peft_model(base, LoraConfig(r=2, init_lora_weights=False, **adapter)).eval()
    model.save_pretrained(folder / "adapter")
    with torch.no_grad():
        return folder / "adapter", model(torch.arange(rows)[None]).logits


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("rows", [ROWS + 3, ROWS - 4, ROWS])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.newer("peft")) if name == "on both ends" else name
        for name in ADAPTERS
    ],
)
def test_an_adapter_says_what_it_said_when_it_was_trained(name, rows, tied, tmp_path):
    folder, expected = write_adapter(tmp_path, ADAPTERS[name], rows, tied)
    model = load_model(folder).eval()
    assert model.config.vocab_size == rows
    with torch.no_grad():
        torch.testing.assert_close(model(torch.arange(rows)[None]).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [pytest.param(ROWS + 3, marks=pytest.mark.newer("peft")), ROWS])
@pytest.mark.parametrize("name", ONE_END)
def test_an_adapter_on_one_of_two_tied_ends_changes_that_one_only(name, rows, tmp_path):
    folder, expected = write_adapter(tmp_path, ONE_END[name], rows, tied=True)
    model = load_model(folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(torch.arange(rows)[None]).logits, expected, atol=1e-5, rtol=1e-5)
    model.save_pretrained(tmp_path / "merged")
    with torch.no_grad():
        again = load_model(tmp_path / "merged").eval()
        torch.testing.assert_close(again(torch.arange(rows)[None]).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ONE_END)
def test_an_adapter_that_does_not_hold_the_rows_its_base_lacks_is_refused(name, tmp_path):
    folder, _ = write_adapter(tmp_path, ONE_END[name], ROWS + 3, tied=False)
    with pytest.raises(
        UserError,
        match=r"was trained with 19 rows of tokens and its base model .* has 16, and it does not hold",
    ):
        load_model(folder)


def test_an_adapter_of_two_sizes_is_refused(tmp_path):
    folder, _ = write_adapter(tmp_path, WHOLE_ENDS, ROWS + 3, tied=False)
    weights = load_file(folder / "adapter_model.safetensors")
    cut = {name: value[:-1].contiguous() if "lm_head" in name else value for name, value in weights.items()}
    save_file(cut, folder / "adapter_model.safetensors")
    with pytest.raises(
        UserError, match=r"was trained with 18 and 19 rows of tokens and its base model .* has 16"
    ):
        load_model(folder)


def test_a_tensor_of_another_size_is_named_with_both_sizes(tmp_path):
    folder, _ = write_adapter(tmp_path, {"target_modules": ["q_proj"]}, ROWS, tied=False)
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({name: torch.zeros(3, 5) for name in weights}, folder / "adapter_model.safetensors")
    with pytest.raises(
        UserError, match=r"does not fit its base model .*: size mismatch for .*\[3, 5\].*\[2, \d+\]"
    ):
        load_model(folder)


def test_a_trained_token_that_the_base_model_lacks_is_refused(tmp_path):
    folder, _ = write_adapter(tmp_path, ADAPTERS["some tokens"], ROWS, tied=False)
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"trainable_token_indices": [3, 99]}))
    with pytest.raises(UserError, match=r"does not fit its base model .*: index 99 is out of bounds"):
        load_model(folder)
