"""The curve beside random words: what is judged, by which units, and what is refused."""

import numpy as np
import pytest
import torch

from tests import tiny
from tests.compression.text.test_scorers import BYTES, CLASSIFIER, TOKENIZER, WRITER
from tokenry.compression.text import (
    AnswerLikelihood,
    KeepCurve,
    LabelKept,
    PromptCompressor,
    PromptScorer,
    RandomScorer,
    ScoredText,
    SelfInformation,
    keep_curve,
)
from tokenry.core.errors import UserError
from tokenry.core.text.token_counts import text_token_counts
from tokenry.core.text.words import word_spans
from tokenry.models import TextClassifier

TEXTS = [f"the key {number} is under the mat of the old house by the river" for number in range(10)]


class Key(PromptScorer):
    """Knows which word matters: the number."""

    def score(self, texts):
        spans = [tuple(word_spans(text)) for text in texts]
        return [
            ScoredText(text, own, torch.tensor([float(text[a:b].isdigit()) for a, b in own]))
            for text, own in zip(texts, spans, strict=True)
        ]


def has_number(numbers, texts):
    return np.array([float(str(number) in text) for number, text in zip(numbers, texts, strict=True)])


def test_a_scorer_that_knows_what_matters_beats_random_words():
    curve = keep_curve(TEXTS, PromptCompressor(Key()), has_number, shares=(0.8, 0.2), draws=4)
    assert curve.full.tolist() == [1] * 10
    assert curve.scorer.tolist() == [[1] * 10] * 2
    assert curve.bottom.tolist() == [[0] * 10] * 2
    assert curve.random.shape == (2, 4, 10)
    assert 0 < curve.quality("random")[1].mean() < curve.quality("random")[0].mean() < 1
    assert curve.verdict == "shown"
    assert curve.area.samples == curve.difference(0.2).samples == 10
    loser = keep_curve(TEXTS, PromptCompressor(RandomScorer(7)), has_number, shares=(0.5,), draws=4)
    assert loser.verdict != "shown"


def test_of_one_prompt_the_units_are_the_random_choices():
    curve = keep_curve(TEXTS[:1], PromptCompressor(Key()), has_number, shares=(0.5,), draws=9)
    assert curve.difference(0.5).samples == 9
    assert curve.difference(0.5).value == pytest.approx(1 - curve.random.mean())


def test_the_area_ends_at_the_whole_prompt_where_all_are_alike():
    full, one = np.ones(8), np.ones((1, 8))
    curve = KeepCurve((0.5,), full, one, np.zeros((1, 1, 8)), one, np.ones(1))
    assert curve.area.value == pytest.approx(0.5)


def test_random_words_fill_as_many_tokens_of_the_target():
    seen = []
    curve = keep_curve(
        TEXTS[:3], PromptCompressor(SelfInformation(WRITER, BYTES), tokenizer=BYTES, protect="numbers"),
        lambda numbers, texts: seen.append(list(texts)) or np.zeros(len(texts)), shares=(0.5,), draws=3,
    )  # fmt: skip
    _, ours, *others = [text_token_counts(BYTES, texts) for texts in seen]
    assert all((counts <= ours).all() and counts.mean() > ours.mean() - 1.5 for counts in others)
    assert curve.tokens[0] == ours.mean()
    assert all(str(number) in texts[number] for texts in seen for number in range(3))


def test_where_more_is_protected_than_a_share_that_is_kept():
    curve = keep_curve(TEXTS[:1], PromptCompressor(Key(), protect=r"\w+"), has_number, shares=(0.2,), draws=1)
    assert curve.tokens[0] == len(word_spans(TEXTS[0]))


@pytest.mark.parametrize("batch_size", [1, 8])
def test_an_answer_is_judged_by_the_mean_log_probability_of_its_tokens(batch_size):
    texts, answers, endings = ["What is it?", ""], [" 42", " Yes or no"], ["\nSo", " A"]
    found = AnswerLikelihood(WRITER, BYTES, answers, endings, batch_size)([0, 1], texts)
    for value, text, answer, ending in zip(found, texts, answers, endings, strict=True):
        prompt = BYTES(text + ending)["input_ids"]
        target = BYTES(answer, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            log_p = WRITER(input_ids=torch.tensor([prompt + target])).logits[0].log_softmax(-1)
        expected = [log_p[len(prompt) - 1 + place, token] for place, token in enumerate(target)]
        assert value == pytest.approx(float(torch.stack(expected).mean()), rel=1e-4)


def test_a_label_is_judged_by_whether_it_is_the_expected_one():
    classifier = TextClassifier(CLASSIFIER, TOKENIZER)
    labels = classifier.probabilities(TEXTS[:3]).argmax(1)
    assert LabelKept(classifier, labels)([0, 1, 2], TEXTS[:3]).tolist() == [1, 1, 1]
    assert LabelKept(classifier, (labels + 1) % 3)([2], TEXTS[2:3]).tolist() == [0]


@pytest.mark.parametrize(
    ("judged", "words"),
    [
        (lambda: keep_curve([], PromptCompressor(Key()), has_number), "at least one prompt and one share"),
        (lambda: keep_curve(TEXTS, PromptCompressor(Key()), has_number, shares=(1.5,)), "shares must be in (0, 1], got 1.5"),
        (lambda: keep_curve(TEXTS, PromptCompressor(Key()), has_number, draws=0), "draws must be at least 1"),
        (lambda: AnswerLikelihood(WRITER, BYTES, [" a", ""]), "answer 1 has no tokens"),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_refused(judged, words):
    with pytest.raises(UserError) as refused:
        judged()
    assert words in str(refused.value)


def test_models_in_half_precision_score_too():
    model = tiny.llama(vocab_size=len(BYTES)).to(torch.bfloat16)
    scored = SelfInformation(model, BYTES).score(TEXTS[:2])
    assert all(text.scores.dtype == torch.float32 and bool(text.scores.isfinite().all()) for text in scored)
    whole = SelfInformation(WRITER, BYTES).score(TEXTS[:2])
    torch.testing.assert_close(scored[0].scores, whole[0].scores, rtol=0.1, atol=0.1)
