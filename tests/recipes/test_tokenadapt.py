"""The recipe of TokenAdapt: all methods on the same texts, and verdicts that follow the measurements in both directions."""

import importlib.util
import json

import numpy as np
import pytest

from tests.recipes.check_recipe import check_recipe
from tests.tiny.models import tiny_model
from tests.tiny.tokenizers import CODE, ENGLISH, byte_level
from tokenry.core.text.bits_per_byte import TextLoss
from tokenry.recipes.testbeds.prose import read_story
from tokenry.recipes.testbeds.tokenizer_swap import (
    DOCSTRINGS,
    PROSE,
    TokenizerSwap,
    passages_of_length,
    train_byte_level_bpe,
)
from tokenry.recipes.tokenadapt import (
    HYBRID,
    LOCAL,
    MEAN,
    METHODS,
    ORIGINAL,
    RANDOM,
    RETOK,
    judge,
    measure,
)

BITS = {ORIGINAL: 1.0, RANDOM: 2.0, MEAN: 1.5, RETOK: 1.3, LOCAL: 1.29, HYBRID: 1.28}


def loss(bits, tokens=25):
    """Ten texts of 100 bytes, alike but for a little."""
    return TextLoss(np.log(2) * 100 * (bits + 1e-4 * np.arange(10)), np.full(10, tokens), np.full(10, 100))


def verdicts(tokens=None, **changed):
    bits = BITS | {globals()[name]: value for name, value in changed.items()}
    losses = {
        name: {kind: loss(value, (tokens or {}).get(name, 25)) for kind in (DOCSTRINGS, PROSE)}
        for name, value in bits.items()
    }
    return [claim.verdict == "shown" for claim in judge(losses)]


@pytest.fixture
def subject():
    old, new = byte_level(), byte_level(CODE)
    texts = {DOCSTRINGS: CODE[:3], PROSE: ENGLISH[:3]}
    return TokenizerSwap(tiny_model(len(old)), old, new, texts, "characters", "tiny")


def test_every_method_is_measured_and_the_model_is_not_used_up(subject):
    losses, reports = measure(subject, lambda what, share: None)
    assert set(losses) == {ORIGINAL, *METHODS}
    assert set(reports) == set(METHODS)
    assert subject.model.config.vocab_size == len(subject.old)
    again = measure(subject, lambda what, share: None)[0]
    assert all((losses[name][PROSE].nll == again[name][PROSE].nll).all() for name in losses)


def test_a_run_writes_its_plot_and_its_result(subject, tmp_path):
    result = check_recipe("tokenadapt", lambda progress: subject, tmp_path)
    assert {claim.verdict for claim in result.claims} == {"too few"}
    settings = json.loads((tmp_path / "result.json").read_text())["settings"]
    assert settings["transplants"][HYBRID]["counts"]["copied"] > 0


def test_what_the_sheet_expects_is_shown_and_the_two_fold_gain_is_not():
    assert verdicts() == [False, True, True, True]


def test_a_two_fold_gain_would_be_shown():
    # 100 bytes in 25 tokens: a quarter of a bit per byte is one bit per token.
    assert verdicts(HYBRID=1.3 - 0.26)[0]
    assert not verdicts(HYBRID=1.3 - 0.24)[0]


@pytest.mark.parametrize(
    ("changed", "claim"),
    [
        ({"MEAN": 2.1}, 1),
        ({"RETOK": 1.6}, 1),
        ({"LOCAL": 1.31}, 2),
        ({"LOCAL": 1.3}, 2),
        ({"HYBRID": 1.31}, 3),
        ({"HYBRID": 1.3}, 3),
    ],
)
def test_each_claim_can_fail(changed, claim):
    assert not verdicts(**changed)[claim]


def test_the_new_tokenizer_has_the_special_tokens_of_the_old_one():
    old = byte_level(bos_token="<s>", eos_token="</s>", mask_token="<mask>")
    new = train_byte_level_bpe(CODE, 300, old)
    assert (new.bos_token, new.eos_token, len(new)) == ("<s>", "</s>", 300)
    assert new.convert_tokens_to_ids("<mask>") == old.convert_tokens_to_ids("<mask>")
    assert new.tokenize("1234") == ["1", "2", "3", "4"]


def test_passages_are_of_one_length_spread_over_the_text_and_begin_with_a_word():
    words = [" ".join(f"word{number}" for number in range(1000))]
    passages = passages_of_length(words, 5, 60)
    assert {len(passage) for passage in passages} == {60}
    assert len(set(passages)) == 5
    assert all(passage.startswith("word") for passage in passages)


@pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is None, reason="needs the extra demo")
def test_the_prose_is_the_story_without_its_frame():
    story = " ".join(read_story())
    assert story.startswith("Little though they seem")
    assert "Project Gutenberg" not in story
    assert len(story) > 30_000
