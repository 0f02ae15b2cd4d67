"""Zero-shot scores against the released codes, and what they do not depend on: padding, batches, window cuts."""

import math

import numpy as np
import pytest
import torch

from tests import tiny
from tests.golden import golden_arrays
from tests.tiny.tokenizers import byte_level, character_tokenizer, permuted
from tokenry.core.errors import UserError
from tokenry.data import ZeroShotDetector, zero_shot_scores
from tokenry.models import LocalText

SLUG = "24-ai-text-detection"
TEXTS = [
    "the cat sat on the mat, and the dog sat on the log",
    "a naïve café",
    "x",
    "",
    "other towers and other cats",
]


@pytest.fixture(scope="module")
def case():
    arrays = golden_arrays(SLUG, "dev-zero-shot.npz")
    return arrays | {name: arrays[name].double() for name in ("observer_logits", "performer_logits")}


def scores_of(case, reference="observer_logits", **options):
    other = None if reference is None else case[reference]
    return zero_shot_scores(
        case["performer_logits"], other, case["input_ids"], case["attention_mask"], **options
    )


# --- reference numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["likelihood", "rank", "logrank", "entropy", "fast_detectgpt"])
def test_scores_are_those_of_the_released_code(case, name):
    torch.testing.assert_close(scores_of(case)[name], case[name], rtol=1e-7, atol=0)


def test_one_model_is_its_own_reference(case):
    found = scores_of(case, None)
    torch.testing.assert_close(found["fast_detectgpt"], case["fast_detectgpt_same"], rtol=1e-7, atol=0)
    same = scores_of(case, "performer_logits")["fast_detectgpt"]
    torch.testing.assert_close(found["fast_detectgpt"], same, rtol=1e-9, atol=1e-9)
    assert "binoculars" not in found


def test_binoculars_is_the_released_score_in_compat_and_its_negative(case):
    found = scores_of(case, compat=True)["binoculars"]
    torch.testing.assert_close(-found, case["bino_score"].double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(scores_of(case)["likelihood"], -case["bino_ppl"].double(), rtol=1e-5, atol=0)


def test_binoculars_takes_the_mean_over_the_predicted_tokens_by_default(case):
    performer, observer = case["performer_logits"].log_softmax(-1), case["observer_logits"].softmax(-1)
    cross = -(observer * performer).sum(-1)
    length = case["attention_mask"].sum(-1)
    expected = [
        -case["bino_ppl"][row].double() / cross[row, : length[row] - 1].mean() for row in range(len(length))
    ]
    torch.testing.assert_close(scores_of(case)["binoculars"], torch.stack(expected), rtol=1e-5, atol=0)


# --- what nothing depends on -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compat", [False, True])
def test_padding_on_either_side_and_the_order_of_the_batch_change_nothing(case, compat):
    expected = scores_of(case, compat=compat)
    shifts = case["attention_mask"].shape[1] - case["attention_mask"].sum(-1)
    left = {
        name: torch.stack([row.roll(int(shift), 0) for row, shift in zip(case[name], shifts, strict=True)])
        for name in ("performer_logits", "observer_logits", "input_ids", "attention_mask")
    }
    order = torch.tensor([2, 0, 1])
    for changed in (left, {name: value[order] for name, value in case.items()}):
        found = scores_of(changed, compat=compat)
        for name, values in expected.items():
            torch.testing.assert_close(found[name], values[order] if changed is not left else values)


def test_of_two_vocabularies_the_smaller_one_counts(case):
    wider = torch.nn.functional.pad(case["observer_logits"], (0, 4), value=3.0)
    found = zero_shot_scores(case["performer_logits"], wider, case["input_ids"], case["attention_mask"])
    expected = scores_of(case)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values)


def test_a_model_that_is_certain_scores_0_and_a_single_token_has_no_score():
    logits = torch.full((1, 4, 5), -1e4).double()
    ids = torch.tensor([[1, 2, 3, 4]])
    logits[0, torch.arange(3), ids[0, 1:]] = 1e4
    found = zero_shot_scores(logits, None, ids, torch.ones_like(ids))
    assert found["fast_detectgpt"].item() == 0
    alone = zero_shot_scores(logits[:, :1], None, ids[:, :1], torch.ones(1, 1, dtype=torch.long))
    assert all(math.isnan(value.item()) for value in alone.values())


# --- the detector ------------------------------------------------------------------------------------------------------


def local(seed=0, batch_size=8, tokenizer=None, **settings):
    tokenizer = tokenizer or character_tokenizer()
    size = {"vocab_size": len(tokenizer), "initializer_range": 0.5, "max_position_embeddings": 64}
    return LocalText(
        tiny.llama(seed, **(size | settings)), tokenizer, batch_size=batch_size, name=f"tiny-{seed}"
    )


@pytest.mark.parametrize("two", [False, True])
def test_a_batch_scores_as_its_texts_do_one_by_one(two):
    reference = local(1, vocab_size=120) if two else None
    batch = ZeroShotDetector(local(), reference).score(TEXTS)
    single = ZeroShotDetector(local(batch_size=1), reference).score(TEXTS)
    assert next(iter(batch)) == ("binoculars" if two else "fast_detectgpt")
    for name, values in batch.items():
        np.testing.assert_allclose(values, single[name], rtol=1e-4, atol=1e-5)
        assert np.isnan(values).tolist() == [False, False, True, True, False]


def test_the_detector_scores_what_the_models_own_logits_say():
    scorer, reference = local(), local(1)
    ids = torch.tensor([scorer.tokenizer(TEXTS[0])["input_ids"]])
    with torch.no_grad():
        logits = [model.model(ids).logits for model in (scorer, reference)]
    expected = zero_shot_scores(*logits, ids, torch.ones_like(ids))
    found = ZeroShotDetector(scorer, reference).score(TEXTS[:1])
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name].numpy(), rtol=1e-4)


def test_a_long_text_has_the_mean_of_its_windows_by_their_tokens():
    whole = ZeroShotDetector(local(), max_tokens=20)
    text = TEXTS[0]
    windows = [text[:17], text[17:34], text[34:]]
    parts = ZeroShotDetector(local()).score(windows)["likelihood"]
    weights = np.array([len(window) - 1 for window in windows])
    expected = (parts * weights).sum() / weights.sum()
    assert whole.score([text])["likelihood"][0] == pytest.approx(expected, rel=1e-5)
    assert whole.measure([text]).tokens.tolist() == [len(text)]


def test_the_first_token_is_scored_where_the_tokenizer_begins_a_text_with_a_token_of_its_own():
    detector = ZeroShotDetector(local(tokenizer=character_tokenizer(adds_bos=True)))
    assert not np.isnan(detector.score(["x"])["likelihood"][0])
    assert np.isnan(detector.score([""])["likelihood"][0])


def test_spans_join_to_the_text_and_a_wide_one_has_the_score_of_the_text():
    detector = ZeroShotDetector(local(tokenizer=byte_level(), max_position_embeddings=256))
    for text in TEXTS[:2]:
        found = detector.spans(text, tokens=1000)
        assert "".join(piece for piece, _ in found) == text
        expected = detector.score([text])["fast_detectgpt"][0]
        assert [score for _, score in found] == pytest.approx([expected] * len(found), rel=1e-4)
    narrow = [score for _, score in detector.spans(TEXTS[0], tokens=4)]
    assert len(set(narrow)) > 5
    assert detector.spans("") == []


def test_normalised_look_alikes_score_as_the_text_they_look_like():
    detector, plain = (ZeroShotDetector(local(), normalise=choice) for choice in (True, False))
    attacked = "thе cаt sat"
    assert detector.score([attacked])["likelihood"] == plain.score(["the cat sat"])["likelihood"]
    assert plain.score([attacked])["likelihood"] != plain.score(["the cat sat"])["likelihood"]


@pytest.mark.parametrize(("make", "words"), [
    (lambda: ZeroShotDetector(local(), scores=("binoculars",)), "binoculars compares two models: give a reference"),
    (lambda: ZeroShotDetector(local(), scores=("perplexity",)), "a zero-shot score must be one of fast_detectgpt, binoculars"),
    (lambda: ZeroShotDetector(local(), scores=("entropy", "rank")), "entropy cannot decide"),
    (lambda: ZeroShotDetector(local(), max_tokens=1), "max_tokens must be at least 2, got 1"),
    (lambda: ZeroShotDetector(local(), local(1, tokenizer=permuted(character_tokenizer()))), "the reference tiny-1 has another tokenizer"),
    (lambda: ZeroShotDetector(LocalText(tiny.gpt2(n_positions=8, vocab_size=120), character_tokenizer(), name="g")).score(TEXTS),
     "the texts: a sample takes 50 positions and g has 8"),
])  # fmt: skip
def test_what_cannot_score_is_refused(make, words):
    with pytest.raises(UserError) as raised:
        make()
    assert words in str(raised.value)
