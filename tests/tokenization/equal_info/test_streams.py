"""Streams beside windows: they give the text back, cost what M1 says, and say what they need."""

import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from tests.tokenization.equal_info import NGRAM, TEXT
from tokenry.core.errors import UserError
from tokenry.tokenization.equal_info import (
    ArithmeticCodec,
    CausalWindowModel,
    EqualInfoCodec,
    WittenBellModel,
    coder_resets,
    gzip_stream,
    stream_tokens,
    symbol_intervals,
)


@settings(max_examples=20, deadline=None)
@given(st.binary(max_size=80))
def test_an_arithmetic_code_gives_every_byte_string_back(text):
    codec = ArithmeticCodec(NGRAM)
    assert bytes(codec.decode(codec.encode(text), len(text))) == text


def test_a_model_with_few_positions_goes_on_from_the_half_of_them():
    model = CausalWindowModel(tiny.gpt2(vocab_size=260, n_positions=12), start_id=256, symbols=256)
    codec = ArithmeticCodec(model)
    assert bytes(codec.decode(codec.encode(TEXT[:40]), 40)) == TEXT[:40]


def test_an_arithmetic_code_costs_what_the_model_says():
    _, frequencies = symbol_intervals(NGRAM, TEXT)
    bits = float((14 - np.log2(frequencies)).sum())
    assert bits <= 8 * len(ArithmeticCodec(NGRAM).encode(TEXT)) <= bits + 64


def test_chunks_of_a_long_text_change_nothing(monkeypatch):
    whole = symbol_intervals(NGRAM, TEXT)
    monkeypatch.setattr("tokenry.tokenization.equal_info.streams._CHUNK", 7)
    assert all(np.array_equal(*pair) for pair in zip(whole, symbol_intervals(NGRAM, TEXT), strict=True))


def test_a_model_that_reads_on_makes_other_windows_of_all_symbols():
    coded = coder_resets(NGRAM, TEXT)
    assert sum(coded.n_symbols) == len(TEXT)
    assert coded.codes != EqualInfoCodec(NGRAM, end_of_window="greedy").encode(TEXT).codes
    long = coder_resets(WittenBellModel(b"a" * 5000), b"a" * 3000, 64)
    assert max(long.n_symbols) > 32


def test_bytes_alone_are_an_arithmetic_code_of_order_1():
    static = ArithmeticCodec(WittenBellModel(TEXT, order=1)).encode(TEXT)
    assert len(ArithmeticCodec(NGRAM).encode(TEXT)) < len(static) < len(TEXT)


def test_gzip_keeps_header_and_footer():
    assert zlib.decompress(gzip_stream(TEXT)) == TEXT
    assert stream_tokens(gzip_stream(TEXT), 8).tolist() == list(gzip_stream(TEXT))
    assert stream_tokens(b"\x01\x02\x03", 16).tolist() == [0x0102, 0x0300]


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(
        UserError,
        match=r"arithmetic codes need constriction, which is not installed: pip install 'tokenry\[codec\]'",
    ):
        ArithmeticCodec(NGRAM)


def test_a_window_below_the_precision_is_refused():
    with pytest.raises(UserError, match=r"window_bits must be at least 15, precision \+ 1, got 14"):
        coder_resets(NGRAM, TEXT, 14)
