"""What a transplant says of itself: errors that are zero where nothing was lost, texts that do not come back."""

import json

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from tests.tiny.models import tiny_model
from tests.tiny.tokenizers import CODE, byte_level
from tokenry.core.text.bits_per_byte import text_loss
from tokenry.tokenization.probes import round_trip_failures
from tokenry.tokenization.transfer.transplant.apply import transplant_tokenizer
from tokenry.tokenization.transfer.transplant.report import LeaveOneOut

TEXTS = ["the cat sat on the towers", "def add(first, second):"]


def report(method="tokenadapt", new=None, **settings):
    old = byte_level()
    model = tiny_model(len(old))
    new = byte_level(CODE) if new is None else new
    settings = {"auxiliary": "characters", **settings}
    return old, transplant_tokenizer(model, old, new, method, **settings)


def test_bits_per_byte_before_and_after_are_those_of_the_two_models():
    old, (model, found) = report(texts=TEXTS)
    new = byte_level(CODE)
    assert found.before.bits_per_byte == text_loss(tiny_model(len(old)), old, TEXTS).bits_per_byte
    assert found.after.bits_per_byte == text_loss(model, new, TEXTS).bits_per_byte


def test_rows_that_are_right_have_no_error():
    true = torch.randn(4, 6)
    found = LeaveOneOut.of(torch.arange(4), tuple("abcd"), true.clone(), true, true.mean(dim=0))
    assert found.cosine_error.abs().max() < 1e-6
    assert found.relative_error.max() == 0
    assert found.mean_row_relative_error.min() > 0


def test_the_errors_are_one_minus_cosine_and_distance_by_norm():
    found = LeaveOneOut.of(
        torch.tensor([9]),
        ("nine",),
        torch.tensor([[0.0, 2.0]]),
        torch.tensor([[1.0, 0.0]]),
        torch.tensor([1.0, 0.0]),
    )
    assert found.cosine_error.item() == pytest.approx(1)
    assert found.relative_error.item() == pytest.approx(5**0.5)
    assert found.summary() == {
        "tokens": 1,
        "median_cosine_error": pytest.approx(1),
        "median_relative_error": pytest.approx(5**0.5),
        "median_mean_row_cosine_error": pytest.approx(0),
        "median_mean_row_relative_error": pytest.approx(0),
    }


def test_every_token_that_was_left_out_is_named_with_its_error_the_worst_first():
    _, (_, found) = report()
    errors = found.as_json()["leave_one_out"]["cosine_error_of"]
    names = byte_level(CODE).convert_ids_to_tokens(found.leave_one_out.tokens.tolist())
    assert set(errors) == set(names)
    assert list(errors.values()) == sorted(errors.values(), reverse=True)
    assert errors[names[0]] == pytest.approx(found.leave_one_out.cosine_error[0].item(), abs=1e-4)


@pytest.mark.parametrize("method", ["tokenadapt", "retok", "focus", "omp"])
def test_every_informed_method_says_how_well_it_composes_shared_tokens(method):
    _, (_, found) = report(method)
    errors = found.leave_one_out
    assert len(errors.tokens) == len(errors.cosine_error) > 10
    assert errors.cosine_error.isfinite().all()


@pytest.mark.parametrize("method", ["mean", "random"])
def test_the_controls_have_no_error_of_their_own(method):
    _, (_, found) = report(method)
    assert found.leave_one_out is None


def test_without_tokens_to_leave_out_there_are_no_errors():
    _, (_, found) = report(leave_one_out=0)
    assert found.leave_one_out is None
    assert found.as_json()["leave_one_out"] is None


def test_a_report_is_json_and_names_its_settings():
    _, (_, found) = report(texts=TEXTS)
    written = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert written["settings"]["auxiliary"] == "characters"
    assert set(written["bits_per_byte"]) == {"before", "after"}
    assert written["bits_per_byte"]["after"]["texts"] == 2
    assert written["leave_one_out"]["tokens"] > 0


def test_a_report_of_a_single_text_has_no_standard_error():
    _, (_, found) = report(texts=TEXTS[:1])
    assert found.as_json()["bits_per_byte"]["before"]["standard_error"] is None


def test_texts_that_a_tokenizer_changes_are_listed():
    tokenizer = byte_level()
    assert round_trip_failures(tokenizer) == ()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert round_trip_failures(tokenizer, ["The cat", "the cat"]) == ("The cat",)


def test_a_text_that_a_tokenizer_has_no_tokens_for_does_not_come_back():
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"cat": 0})))
    assert round_trip_failures(words, ["cat", "dog"]) == ("dog",)


def test_a_printed_report_says_what_became_of_the_tokens_on_one_line():
    _, (_, found) = report(texts=TEXTS)
    printed = str(found).splitlines()[0]
    assert len(printed) < 200
    assert f"{found.counts['copied']:,} copied" in printed
    assert f"bits per byte {found.before.bits_per_byte.value:.3f} before" in printed
