"""Labels of a large model's answers: against plain loops, with each verifier, and what is refused."""

import numpy as np
import pytest
import torch

from tests import tiny
from tests.tiny.tokenizers import character_tokenizer
from tokenry.core.errors import UserError
from tokenry.decoding.r2r.features import Response, ResponseRows, read_features
from tokenry.decoding.r2r.labelling import (
    SENTENCES,
    label_divergence,
    label_responses,
    write_responses,
)
from tokenry.decoding.r2r.labels import find_mismatches
from tokenry.decoding.r2r.sentence_context import real_continuation, stop_token_ids
from tokenry.decoding.r2r.verifiers import (
    Divergence,
    ExactVerifier,
    JudgeVerifier,
    LogProbGap,
    agreement,
    parse_verdict,
)
from tokenry.models.text_model import Generated

TOKENIZER = character_tokenizer()
SIZE = {
    "vocab_size": len(TOKENIZER),
    "initializer_range": 0.5,
    "eos_token_id": 1,
    "max_position_embeddings": 256,
}
PROMPTS = ("a+b=", "Why? ", "12", "no, yes")


@pytest.fixture(scope="module")
def pair():
    return tiny.llama(seed=3, **SIZE), tiny.llama(seed=4, hidden_size=48, **SIZE)


@pytest.fixture(scope="module")
def responses(pair):
    """Answers of the large model that end somewhere, cut where it would go on."""
    ids = [TOKENIZER(prompt)["input_ids"] for prompt in PROMPTS]
    written = [greedy(pair[1], prompt, 9) for prompt in ids]
    return [Response(prompt, [*answer, 1]) for prompt, answer in zip(ids, written, strict=True)]


def greedy(model, ids, limit):
    found = model.generate(
        torch.tensor([ids]), max_new_tokens=limit, do_sample=False, eos_token_id=1, pad_token_id=0
    )
    return found[0, len(ids) :].tolist()


def predictions(small, responses):
    with torch.no_grad():
        rows = [small(torch.tensor([response.ids])).logits[0].argmax(-1) for response in responses]
    return torch.cat(rows)


def outcome(text, answer):
    """The sum of the tokens is odd."""
    return (text, sum(answer) % 2)


def test_labels_of_an_exact_verifier_are_those_of_a_loop(pair, responses):
    small, large = pair
    found = label_divergence(
        large, TOKENIZER, responses, predictions(small, responses), ExactVerifier(outcome)
    )
    row = 0
    for text, response in enumerate(responses):
        begin = len(response.prompt_ids)
        for place, _ in enumerate(response.ids):
            with torch.no_grad():
                token = int(small(torch.tensor([response.ids[: place + 1]])).logits[0, -1].argmax())
            differs = (
                place + 1 < len(response.ids) and begin <= place + 1 and token != response.ids[place + 1]
            )
            divergent = 0
            if differs:
                after = [] if token == 1 else greedy(large, [*response.ids[: place + 1], token], 16)
                answer = [*response.ids[begin : place + 1], token, *after]
                divergent = int(outcome(text, answer) != outcome(text, response.token_ids))
            assert found.mismatch[row] == differs
            assert found.divergent[row] == divergent
            assert found.mask[row] == (place >= begin - 1)
            row += 1
    assert 0 < found.divergent.sum() < found.mismatch.sum()


def test_the_gap_is_the_difference_of_the_large_models_log_probabilities(pair, responses):
    seen = []

    class Looking(LogProbGap):
        def __call__(self, divergences):
            seen.extend(divergences)
            return super().__call__(divergences)

    found = label_divergence(
        pair[1], TOKENIZER, responses, predictions(pair[0], responses), Looking(4.0), batch_size=3
    )
    for divergence in seen:
        with torch.no_grad():
            logits = pair[1](torch.tensor([divergence.response.ids[: divergence.position]])).logits[0, -1]
        gap = float(logits[divergence.large_token] - logits[divergence.small_token])
        assert divergence.gap == pytest.approx(gap, abs=1e-4)
    assert int(found.divergent.sum()) == sum(divergence.gap > 4 for divergence in seen)
    assert 0 < int(found.divergent.sum()) < len(seen)


def test_sentences_go_through_two_stop_tokens(pair, responses):
    seen = []

    class Looking(JudgeVerifier):
        def __call__(self, divergences):
            seen.extend(divergences)
            return [0] * len(divergences)

    label_divergence(
        pair[1], TOKENIZER, responses[:2], predictions(pair[0], responses[:2]), Looking(Script(), TOKENIZER)
    )
    stops = set(stop_token_ids(TOKENIZER))
    assert stops
    for divergence in seen:
        begun = [*divergence.response.ids[: divergence.position], divergence.small_token]
        whole = [] if begun[-1] == 1 else greedy(pair[1], begun, 128)
        expected = real_continuation([0, *whole], 0, stops, None, 128, SENTENCES)
        assert divergence.small == [token for token in expected if token != 1]
        assert divergence.large == real_continuation(
            divergence.response.ids, divergence.position, stops, 1, 128, SENTENCES
        )
    assert any(sum(token in stops for token in divergence.small) == SENTENCES for divergence in seen)


def test_all_that_a_router_learns_from_comes_together(pair, responses):
    labelled, divergences, verdicts = label_responses(*pair, TOKENIZER, responses, LogProbGap(4.0), top_k=7)
    rows = ResponseRows(responses)
    own = predictions(pair[0], responses)
    assert torch.equal(labelled.features.tokens, own[rows.types > 0])
    assert labelled.features.top_logits.shape == (len(labelled.divergent), 7)
    assert len(divergences) == len(verdicts) == int(labelled.mismatch.sum())
    assert len(divergences) == len(find_mismatches(own, rows.ids, rows.types, texts=rows.texts))
    assert labelled.small != labelled.large
    alone = [read_features(pair[0], [response], 7) for response in responses]
    np.testing.assert_allclose(
        torch.cat([features.hidden for features in alone]), labelled.features.hidden, atol=1e-5
    )
    np.testing.assert_allclose(
        torch.cat([features.entropy for features in alone]), labelled.features.entropy, atol=1e-5
    )


def test_answers_that_do_not_end_are_left_out():
    large = tiny.llama(seed=4, hidden_size=48, **SIZE)
    ids = [TOKENIZER(prompt)["input_ids"] for prompt in PROMPTS]
    ends = {row[3] for row in (greedy(large, prompt, 4) for prompt in ids[:1])}
    large.generation_config.eos_token_id = [1, *ends]
    found = write_responses(large, TOKENIZER, ids, 4)
    assert 0 in found
    assert all(response.prompt_ids == ids[number] for number, response in found.items())
    assert all(response.token_ids[-1] in {1, *ends} for response in found.values())
    with pytest.raises(UserError, match="none of 4 answers of the large model ends within 1 tokens"):
        write_responses(large, TOKENIZER, ids, 1)


# --- judges ------------------------------------------------------------------------------------------------------------


class Script:
    """A text model that says what it is told to, and remembers what it was asked."""

    name = "script"

    def __init__(self, *answers):
        self.answers, self.asked = answers, []

    def generate(self, prompts, sampling):
        self.asked += [prompt[0]["content"] for prompt in prompts]
        assert (sampling.temperature, sampling.max_new_tokens) == (0, 16)
        return [Generated(answer, None, 1, 1) for answer in self.answers]


def divergence(before, small, large, then_small, then_large):
    prompt, ids = "Q\n", lambda text: TOKENIZER(text)["input_ids"]
    response = Response(ids(prompt), [*ids(before), *ids(large), *ids(then_large), 1])
    return Divergence(
        0, response, len(ids(prompt + before)), ids(small)[0], ids(then_small), ids(then_large), 0.0
    )


def test_a_judge_reads_the_common_context_and_both_sentences():
    judge = Script("Output: 1", "0", "Output: 7")
    verifier = JudgeVerifier(judge, TOKENIZER)
    cases = [
        divergence("One is one. It is ", "3", "4", ". So? Yes.", " now. So what? No."),
        divergence("One.\n", "\n", " ", "Done. Yes.", "Done so. No."),
        divergence("One. It is ", "3", "4", ".", "."),
    ]
    assert verifier(cases) == [1, 0, -1]
    assert (
        "Context:\nQ\nOne is one. \n\nSentence A:\nIt is <<3>>. \n\nSentence B:\nIt is <<4>> now. "
        in judge.asked[0]
    )
    assert "Sentence A:\n>>Done. " in judge.asked[1], (
        "two ends of sentences in a row: the next one is compared"
    )
    assert "Sentence B:\n<< >>Done so. " in judge.asked[1]


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Output: 1", 1),
        ("Between 1 and 2, the OUTPUT is: 0.", 0),
        ("0, as both say the same", 0),
        ("1", 1),
        ("I cannot say", -1),
        ("Output: 3", -1),
        ("", -1),
    ],
)
def test_verdicts_are_parsed(text, verdict):
    assert parse_verdict(text) == verdict


def test_agreement_is_beyond_chance():
    found = agreement([1, 1, 0, 0, -1, 1], [1, 0, 0, 0, 1, -1])
    assert (found.count, found.share) == (4, 0.75)
    assert found.kappa == pytest.approx((0.75 - 0.5) / 0.5)
    assert found.divergent == (0.5, 0.25)
    assert np.isnan(agreement([1, 1], [1, 1]).kappa)
    assert np.isnan(agreement([-1], [1]).share)
    with pytest.raises(UserError, match="2 verdicts against 1: give those of both verifiers"):
        agreement([1, 0], [1])


def test_what_cannot_be_labelled_is_refused(pair):
    short = [Response([5], [6, 1])]
    with pytest.raises(UserError, match="the prompt of response 0 has fewer than 2 tokens"):
        label_divergence(pair[1], TOKENIZER, short, torch.tensor([1, 1, 1]), LogProbGap())
    with pytest.raises(UserError, match="4 predictions and 3 types for 3 tokens"):
        label_divergence(
            pair[1], TOKENIZER, [Response([5, 6], [1])], torch.tensor([1, 1, 1, 1]), LogProbGap()
        )
    with pytest.raises(UserError, match="threshold must be at least 0, got -1"):
        LogProbGap(-1)
