"""Models of windows: one symbol after the other they say what they say along a whole window, in every precision, for every architecture."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from tests.decoding.byte_level.cutters import KnownTexts, byte_level
from tests.tokenization.equal_info import NGRAM, TEXT
from tokenry.core.errors import UserError
from tokenry.core.text.byte_models import END, NextByteModel
from tokenry.tokenization.equal_info import (
    CausalWindowModel,
    EqualInfoCodec,
    NextByteWindows,
    WittenBellModel,
    quantize_pmf,
)

BYTE_MODEL = {"vocab_size": 260, "initializer_range": 0.4}


def of_bytes(model):
    return CausalWindowModel(model, start_id=256, symbols=256)


def read_one_by_one(model, window):
    """What a reader of two windows says before each symbol, of which the first ends at once."""
    reader = model.reader()
    rows = [reader.begin(2)[0]]
    for place, symbol in enumerate(window[:-1]):
        kept = [1] if place else [0, 1]
        rows.append(
            reader.extend(kept if len(kept) == 2 else [1 if place == 1 else 0], [symbol] * len(kept))[-1]
        )
    return np.stack(rows)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("made", [tiny.llama, tiny.gpt2])
def test_tables_are_the_same_for_one_symbol_after_the_other(made, dtype):
    model = of_bytes(made(**BYTE_MODEL).to(dtype))
    window = TEXT[:40]
    along = model.along([b"a", window, b"of another length"])[1:41]
    assert np.array_equal(quantize_pmf(along), quantize_pmf(read_one_by_one(model, window)))
    assert np.array_equal(quantize_pmf(along), quantize_pmf(model.along([window])))


def test_the_model_itself_stays_as_it_is():
    model = tiny.llama(**BYTE_MODEL).train()
    of_bytes(model).after([b"a"])
    assert next(model.parameters()).dtype == torch.float32
    assert model.training


def test_a_model_without_a_cache_reads_each_window_anew():
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=260, hidden_size=16, num_hidden_layers=1, state_size=4, pad_token_id=None)
    model = of_bytes(tiny.made(MambaForCausalLM, config))
    codec = EqualInfoCodec(model)
    assert bytes(codec.decode(codec.encode(TEXT[:20]))) == TEXT[:20]


def test_windows_end_where_a_model_has_no_more_positions():
    codec = EqualInfoCodec(of_bytes(tiny.gpt2(vocab_size=260, n_positions=6)), 128)
    coded = codec.encode(TEXT[:30])
    assert set(coded.n_symbols) == {5}
    assert bytes(codec.decode(coded)) == TEXT[:30]


def test_tokens_are_coded_as_they_are():
    model = CausalWindowModel(tiny.llama(vocab_size=300), start_id=1)
    codec = EqualInfoCodec(model)
    assert codec.decode(codec.encode([299, 0, 5, 5, 17])) == [299, 0, 5, 5, 17]


def test_another_model_has_another_fingerprint():
    prints = {of_bytes(tiny.llama(seed, **BYTE_MODEL)).fingerprint for seed in (0, 0, 1)}
    assert len(prints | {CausalWindowModel(tiny.llama(**BYTE_MODEL), 257, 256).fingerprint}) == 3


def test_a_tokenized_model_read_byte_by_byte_is_a_model_of_windows():
    model = KnownTexts(byte_level("gpt2"), "at é", longest=3, seed=0).byte_lm()
    assert isinstance(model, NextByteModel)
    windows = NextByteWindows(model, "known")
    row = windows.after([b"", b"a", b"a"])
    assert np.allclose(row.sum(axis=1), 1)
    said = np.exp(model.next_byte_logprobs(b"a"))
    assert row[1] == pytest.approx(said[:END] / said[:END].sum())
    codec = EqualInfoCodec(windows)
    assert bytes(codec.decode(codec.encode("té".encode()))) == "té".encode()


@settings(max_examples=20, deadline=None)
@given(st.binary(max_size=6))
def test_counted_distributions_add_up_and_no_byte_is_impossible(context):
    row = NGRAM.after([context])[0]
    assert row.sum() == pytest.approx(1)
    assert row.min() > 0


def test_the_interpolation_is_that_of_witten_and_bell():
    model = WittenBellModel(b"abab", order=2)
    bytes_alone = np.full(256, 2 / 256)
    bytes_alone[[97, 98]] += 2
    bytes_alone /= 6
    assert model.after([b""])[0] == pytest.approx(bytes_alone)
    after_a = bytes_alone.copy()
    after_a[98] += 2
    assert model.after([b"xa"])[0] == pytest.approx(after_a / 3)
    assert model.after([b"z"])[0] == pytest.approx(bytes_alone)


def test_only_the_last_bytes_of_a_window_count():
    assert np.array_equal(NGRAM.after([b"zzzthe"]), NGRAM.after([b"the"]))


def test_a_text_of_nothing_is_uniform():
    assert WittenBellModel(b"").after([b"a"])[0] == pytest.approx(np.full(256, 1 / 256))


# --- what is refused --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [0, 9])
def test_an_order_that_cannot_be_is_refused(order):
    with pytest.raises(UserError, match=f"order must be from 1 to 8, got {order}"):
        WittenBellModel(TEXT, order)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "a window begins with a token, and the model has none: give start_id, from 0 to 63"),
        ({"start_id": 64}, "the model has no token 64"),
        (
            {"start_id": 0, "symbols": 65},
            "symbols must be at most 64, the token ids that the model knows, got 65",
        ),
        ({"start_id": 0, "symbols": 1}, "symbols must be at least 2, got 1"),
    ],
)
def test_a_model_that_cannot_predict_symbols_is_refused(options, words):
    with pytest.raises(UserError) as refused:
        CausalWindowModel(tiny.llama(), **options)
    assert words in str(refused.value)


def test_an_encoder_is_refused():
    from transformers import BertForMaskedLM

    with pytest.raises(UserError):
        CausalWindowModel(tiny.bert(BertForMaskedLM), start_id=0)


def test_many_tokens_need_a_precision_and_a_window_above_it():
    model = CausalWindowModel(tiny.llama(vocab_size=5000), start_id=1)
    with pytest.raises(
        UserError,
        match=r"precision must be at least 15 bits for the 5,000 symbols of this model \(log2 V \+ 2\), got 14",
    ):
        EqualInfoCodec(model, 16)
    with pytest.raises(
        UserError,
        match="window_bits must be at least 17, got 16: one of 5,000 symbols at precision 16 can need 17 bits",
    ):
        EqualInfoCodec(model, 16, 16)
