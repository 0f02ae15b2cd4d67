"""The recipe of zero-shot transfer: every way is measured, and verdicts follow the measurements in both directions."""

import copy
import json

import numpy as np
import pytest

from tests.recipes.check_recipe import check_recipe
from tests.tiny.tokenizers import CODE, byte_level
from tests.tokenization.transfer.zett.tiny import TEXTS, causal, config, tokenizer
from tokenry.core.text.bits_per_byte import TextLoss
from tokenry.core.text.passages import passages
from tokenry.recipes import zett
from tokenry.recipes.testbeds.docstring_model import bpe_tokenizer, small_model, train_language_model
from tokenry.recipes.testbeds.docstring_transfer import TokenizerTransfer
from tokenry.recipes.zett import (
    BASE_THERE,
    FVT,
    ORIGINAL,
    PLAIN,
    RANDOM,
    RESIDUAL,
    VARIANT,
    VARIANT_FVT,
    VARIANT_ORIGINAL,
    judge,
    measure,
)

BITS = {
    ORIGINAL: 2.0,
    RANDOM: 4.0,
    FVT: 2.9,
    PLAIN: 2.6,
    RESIDUAL: 2.58,
    VARIANT_ORIGINAL: 2.3,
    VARIANT_FVT: 3.2,
    VARIANT: 2.9,
    BASE_THERE: 3.1,
}


def loss(bits):
    """Ten texts of 100 bytes, alike but for a little."""
    return TextLoss(np.log(2) * 100 * (bits + 1e-4 * np.arange(10)), np.full(10, 25), np.full(10, 100))


def verdicts(after_warm_up=3.4, **changed):
    bits = BITS | {globals()[name]: value for name, value in changed.items()}
    losses = {name: loss(value) for name, value in bits.items()}
    curves = {PLAIN: {0: loss(after_warm_up)}, RESIDUAL: {0: loss(bits[FVT])}}
    return [claim.verdict == "shown" for claim in judge(losses, curves)]


@pytest.fixture(scope="module")
def subject():
    old, new = tokenizer(), byte_level([*CODE, *TEXTS], 400)
    texts = [" ".join(TEXTS[:3]), " ".join(TEXTS[4:9])]
    model = causal()
    return TokenizerTransfer(
        model,
        copy.deepcopy(model),
        old,
        new,
        TEXTS,
        texts,
        texts,
        config(steps=10, identity_steps=2, warmup_steps=3),
        {"layers": 1, "hidden_size": 16, "heads": 2},
        32,
        "tiny",
    )


@pytest.fixture(scope="module")
def measured(subject):
    before = copy.deepcopy(subject.model.state_dict())
    return before, *measure(subject, lambda what, share: None)


def test_every_way_is_measured_and_the_model_stays_as_it_was(subject, measured):
    before, losses, curves, report = measured
    assert set(losses) == set(BITS)
    assert all(before[name].equal(each) for name, each in subject.model.state_dict().items())
    assert {name: min(curve) for name, curve in curves.items()} == {PLAIN: 0, RESIDUAL: 0}
    assert max(curves[PLAIN]) == max(curves[RESIDUAL]) == 8
    assert report["tokens"] == len(subject.new)


def test_the_residual_form_begins_where_the_mean_of_pieces_is(measured):
    _, losses, curves, _ = measured
    start = curves[RESIDUAL][0].bits_per_byte.value
    assert start == pytest.approx(losses[FVT].bits_per_byte.value, rel=1e-3)


def test_a_run_leaves_a_picture_and_its_settings(subject, measured, tmp_path, monkeypatch):
    monkeypatch.setattr(zett, "measure", lambda subject, progress: measured[1:])
    check_recipe("zett", lambda progress: subject, tmp_path)
    stored = json.loads((tmp_path / "result.json").read_text())
    assert set(stored["settings"]["bits_per_byte"]) == set(BITS)
    assert stored["settings"]["steps"] == {"warm-up": 2, "all": 10}


def test_what_the_sheet_expects_is_shown_and_closeness_to_the_original_is_not():
    assert verdicts() == [False, True, True, True, True]


def test_a_model_close_to_the_original_would_be_shown():
    assert verdicts(RESIDUAL=2.05)[0]


@pytest.mark.parametrize(
    ("changed", "claim"),
    [
        ({"PLAIN": 2.8}, 1),
        ({"RESIDUAL": 2.76}, 2),
        ({"after_warm_up": 2.9}, 3),
        ({"VARIANT": 3.2}, 4),
        ({"VARIANT": 3.1}, 4),
    ],
)
def test_each_claim_can_fail(changed, claim):
    assert not verdicts(**changed)[claim]


def test_passages_are_cut_at_spaces_and_lose_at_most_a_short_end():
    text = " ".join(f"word{number}" for number in range(100))
    found = passages([text, "short"], 50)
    assert all(50 <= len(each) + 1 < 60 for each in found[:-2])
    assert found[-1] == "short"
    assert text.startswith(" ".join(found[:-1]))


def test_the_small_model_learns_and_its_texts_begin_with_a_token():
    cut = bpe_tokenizer(TEXTS, 300)
    assert cut("the cat")["input_ids"][0] == cut.bos_token_id
    model = small_model(len(cut))
    ids = {"input_ids": cut(TEXTS[0], return_tensors="pt").input_ids}
    before = float(model(**ids, labels=ids["input_ids"]).loss.detach())
    train_language_model(model, cut, TEXTS, 15, batch_size=4, window=16)
    assert float(model(**ids, labels=ids["input_ids"]).loss.detach()) < before
