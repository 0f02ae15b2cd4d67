"""The recipe of exact byte probabilities: every method on the same cuts, and verdicts that follow the answers in both directions."""

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from tests import tiny
from tests.decoding.byte_level.cutters import byte_level
from tests.recipes.check_recipe import check_recipe, check_verdicts
from tokenry.decoding.byte_level.byte_lm import ByteLM
from tokenry.recipes import byte_probabilities
from tokenry.recipes.byte_probabilities import (
    ENSEMBLE,
    EXACT,
    HEALED,
    NAIVE,
    ByteSizes,
    WordAnswer,
    cuts_inside_words,
    judge,
    measure,
)

STORY = [
    "the cat sat on the mat and there was a dog in the fog, and then there were naïve cats on all the mats in town"
] * 3


@pytest.fixture(scope="module")
def lm():
    model = tiny.llama(vocab_size=400, hidden_size=16, num_hidden_layers=1, initializer_range=0.5)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level("gpt2"))
    return ByteLM(model, tokenizer, context_ids=[3], eos_token_ids=[2])


def answers(bits, first=24, completed=24):
    """Of 24 cuts the first so many are right."""
    return [WordAnswer(bits + 0.01 * number, number < first, number < completed) for number in range(24)]


def verdicts(**changed):
    given = {
        EXACT: answers(0.1),
        HEALED: answers(1.0, 10, 8),
        NAIVE: answers(4.0, 3, 1),
    } | {globals()[name]: value for name, value in changed.items()}
    return [claim.verdict for claim in judge(given)]


def test_a_cut_is_inside_a_word_and_about_fifty_bytes_into_its_text():
    for cut in cuts_inside_words(STORY, 20):
        assert 50 <= len(cut.prompt) <= 65
        assert cut.prompt[-1].isalpha()
        assert cut.rest[0].isalpha()
        assert cut.prompt + cut.rest in STORY[0]


def test_every_method_answers_every_cut_and_exact_answers_are_those_of_the_model(lm):
    cuts = cuts_inside_words(STORY, 4)
    found = measure([lm], cuts, lambda what, share: None)
    assert found.keys() == {EXACT, HEALED, NAIVE}
    expected = lm.next_byte_logprobs([cut.prompt.encode() for cut in cuts])
    for answer, cut, row in zip(found[EXACT], cuts, expected, strict=True):
        assert 2**-answer.bits == pytest.approx(torch.tensor(row[ord(cut.rest[0])]).exp().item(), rel=1e-4)


def test_several_models_are_measured_as_an_ensemble_too(lm):
    found = measure([lm, lm], cuts_inside_words(STORY, 3), lambda what, share: None)
    assert [each.bits for each in found[ENSEMBLE]] == pytest.approx(
        [each.bits for each in found[EXACT]], abs=1e-4
    )


def test_a_run_writes_its_plot_and_its_result(lm, tmp_path, monkeypatch):
    monkeypatch.setattr(byte_probabilities, "read_story", lambda: STORY)
    monkeypatch.setattr(byte_probabilities, "load_model", lambda name, dtype: torch.nn.Identity())
    monkeypatch.setattr(byte_probabilities, "load_tokenizer", lambda name: None)
    monkeypatch.setattr(byte_probabilities, "ByteLM", lambda model, tokenizer: lm)
    result = check_recipe("byte-probabilities", ByteSizes(("embedded",), 4), tmp_path)
    assert {claim.verdict for claim in result.claims} == {"too few"}


def test_each_claim_can_be_shown_and_can_fail():
    check_verdicts(verdicts, [
        ({}, set()),
        ({"HEALED": answers(1.0, 10, 23)}, {0}),
        ({"EXACT": answers(1.0)}, {1, 4}),
        ({"HEALED": answers(4.0, 10, 8)}, {2}),
        ({"HEALED": answers(1.0, 24, 8)}, {3}),
        ({"EXACT": answers(0.6)}, {4}),
    ])  # fmt: skip


def test_five_wins_are_too_few_to_be_more_than_chance():
    won = {"HEALED": answers(1.0, 10, 19)}
    assert verdicts(**won)[0] == "not shown"
    assert verdicts(HEALED=answers(1.0, 10, 18))[0] == "shown"


def test_an_ensemble_is_judged_against_the_single_model():
    assert verdicts(ENSEMBLE=answers(0.01)) == ["shown"] * 6
    assert verdicts(ENSEMBLE=answers(0.2))[5] != "shown"
