"""Losses of documents: what is scored, in which windows, and what does not matter."""

import math

import numpy as np
import pytest
import torch

from tests import tiny
from tests.tiny.tokenizers import character_tokenizer
from tokenry.core.errors import UserError
from tokenry.core.tensors.depth import at_depth
from tokenry.core.text.bits_per_byte import scored_spans
from tokenry.data import document_bpc

TEXTS = ["a short one", "x", "", "another document, which is longer than a window of sixteen", "Ünicode é"]


@pytest.fixture(scope="module")
def tokenizer():
    return character_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny.llama(vocab_size=len(tokenizer))


def by_hand(model, ids, scored=1):
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, :-1].float()
    return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")[scored - 1 :]


def test_every_document_is_read_by_itself(model, tokenizer):
    nll, chars, bpc = document_bpc(model, tokenizer, TEXTS, window=100)
    for text, found in zip(TEXTS, nll, strict=True):
        ids = [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        expected = by_hand(model, ids).sum().item() if text else math.nan
        assert found == pytest.approx(expected, rel=1e-4, nan_ok=True)
    assert chars.tolist() == [len(text) for text in TEXTS]
    np.testing.assert_allclose(bpc, nll / (np.maximum(chars, 1) * math.log(2)))


def test_neither_company_nor_order_nor_batches_change_a_loss(model, tokenizer):
    whole = document_bpc(model, tokenizer, TEXTS, window=16, stride=5).nll
    turned = document_bpc(model, tokenizer, TEXTS[::-1], window=16, stride=5, batch_tokens=20).nll[::-1]
    alone = [document_bpc(model, tokenizer, [text], window=16, stride=5).nll[0] for text in TEXTS]
    np.testing.assert_allclose(turned, whole, rtol=1e-5)
    np.testing.assert_allclose(alone, whole, rtol=1e-5)


def test_a_window_sees_the_end_of_the_one_before(model, tokenizer):
    ids = [tokenizer.bos_token_id, *tokenizer(TEXTS[3], add_special_tokens=False)["input_ids"]]
    spans = scored_spans(len(ids), 17, 5)
    expected = sum(
        by_hand(model, ids[begin:end], scored - begin).sum().item() for begin, end, scored in spans
    )
    assert document_bpc(model, tokenizer, [TEXTS[3]], window=16, stride=5).nll[0] == pytest.approx(
        expected, rel=1e-4
    )


def test_packed_documents_are_one_stream_without_its_beginning_and_its_end(model, tokenizer):
    texts = [text for text in TEXTS if text]
    encoded = [tokenizer(text)["input_ids"] for text in texts]
    stream = [token for ids in encoded for token in ids]
    losses = np.full(len(stream), math.nan)
    for begin, end, scored in scored_spans(len(stream), 17, 5, whole=True):
        losses[scored:end] = by_hand(model, stream[begin:end], scored - begin).numpy()
    parts = np.split(losses, np.cumsum([len(ids) for ids in encoded])[:-1])
    expected = [np.nansum(part) if np.isfinite(part).any() else math.nan for part in parts]
    found = document_bpc(model, tokenizer, texts, window=16, stride=5, packed=True).nll
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert np.isnan(losses[0])
    assert np.isnan(losses[-1])


def test_too_little_for_one_packed_window_has_no_loss(model, tokenizer):
    assert np.isnan(document_bpc(model, tokenizer, ["ab", "c"], window=16, packed=True, stride=5).nll).all()


def test_half_precision_is_scored_in_single(model, tokenizer):
    half = tiny.llama(vocab_size=len(tokenizer)).bfloat16()
    found = document_bpc(half, tokenizer, TEXTS, window=100).nll
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, document_bpc(model, tokenizer, TEXTS, window=100).nll, rtol=0.02)


def test_no_text_at_all_has_no_loss(model, tokenizer):
    assert np.isnan(document_bpc(model, tokenizer, ["", ""]).bpc).all()


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2])
def test_a_depth_is_the_model_of_that_many_layers_for_a_while(make):
    model, ids = make(), torch.tensor([[5, 6, 7, 8]])
    before = model(ids).logits
    with at_depth(model, 1):
        shallow = model(ids, use_cache=False).logits
        assert model.config.num_hidden_layers == 1
    assert not torch.allclose(shallow, before)
    assert torch.equal(model(ids).logits, before)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 0}, "window must be at least 1, got 0"),
        ({"batch_tokens": 0}, "batch_tokens must be at least 1"),
        ({"window": 10, "stride": 11}, "stride must be from 1 to the window, 10, got 11"),
        ({"stride": 0}, "stride must be from 1 to the window, 1900, got 0"),
    ],
)
def test_settings_are_checked(model, tokenizer, options, words):
    with pytest.raises(UserError, match=words):
        document_bpc(model, tokenizer, TEXTS, **options)


def test_a_depth_that_is_not_there_is_refused(model):
    with pytest.raises(UserError, match=r"a depth must be from 1 to 2.*got 3"), at_depth(model, 3):
        pass
