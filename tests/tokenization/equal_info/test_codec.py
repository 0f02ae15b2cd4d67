"""Every byte string comes back by `free` and `delay`, whatever the model; greedy failures are counted; what cannot be coded is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden import golden_json
from tests.tokenization.equal_info import NGRAM, TEXT, fixed
from tokenry.core.errors import UserError
from tokenry.tokenization.equal_info import (
    CodedWindows,
    EqualInfoCodec,
    FunctionWindows,
    WindowModel,
    bits_of_symbols,
    bits_of_words,
    compression_report,
    quantize_pmf,
    window_report,
    windows_of_tokens,
    wrong_windows,
)
from tokenry.tokenization.equal_info.byte_models import WindowReader
from tokenry.tokenization.equal_info.interval_code import code_of, intervals_that_fit

LOSSLESS = ("free", "delay")
FEW = settings(max_examples=10, deadline=None)
NEAR_CERTAIN = [1, 1, 2**14 - 2]


@FEW
@given(st.binary(max_size=60), st.sampled_from(LOSSLESS), st.sampled_from([15, 16, 31, 64]))
def test_every_byte_string_comes_back(text, end, window_bits):
    codec = EqualInfoCodec(NGRAM, window_bits, end_of_window=end)
    coded = codec.encode(text)
    assert bytes(codec.decode(coded)) == text
    assert sum(coded.n_symbols) == coded.length == len(text)
    again = windows_of_tokens(coded.to_tokens(16), 16, window_bits)[: len(coded.codes)]
    assert bytes(codec.decode(CodedWindows(window_bits, tuple(again), len(text), coded.escaped))) == text


@pytest.mark.parametrize("end", LOSSLESS)
def test_every_byte_value_comes_back_in_one_batch_with_others(end):
    every = bytes(range(256))
    texts = [*(every[place : place + 32] for place in range(0, 256, 32)), b"", b"\0" * 40, TEXT[:50]]
    codec = EqualInfoCodec(NGRAM, end_of_window=end)
    assert [bytes(text) for text in codec.decode_many(codec.encode_many(texts))] == texts


@FEW
@given(st.data())
def test_any_model_and_any_text_come_back(data):
    symbols = data.draw(st.integers(2, 6))
    precision = data.draw(st.integers(max(3, (symbols - 1).bit_length()), 8))
    window_bits = data.draw(st.integers(precision + 1, 24))
    masses = data.draw(
        st.lists(
            st.lists(st.floats(0, 1), min_size=symbols, max_size=symbols).filter(any),
            min_size=symbols + 1,
            max_size=symbols + 1,
        )
    )
    text = data.draw(st.lists(st.integers(0, symbols - 1), max_size=40))
    m1 = fixed(quantize_pmf(np.array(masses), precision))
    for end in LOSSLESS:
        codec = EqualInfoCodec(m1, window_bits, precision, end)
        coded = codec.encode(text, self_test=False)
        assert codec.decode(coded) == text


@FEW
@given(st.binary(max_size=40), st.integers(1, 5))
def test_texts_in_a_batch_are_coded_as_alone(text, copies):
    codec = EqualInfoCodec(NGRAM)
    together = codec.encode_many([text, TEXT, *[text] * copies])
    assert together[0] == together[-1] == codec.encode(text)
    assert together[1] == codec.encode(TEXT)


@FEW
@given(st.lists(st.integers(0, 2), max_size=60))
def test_a_code_never_gets_shorter_and_is_near_the_information(text):
    frequencies = np.array([1, 5, 10])
    starts = np.cumsum([0, *frequencies])
    path = list(intervals_that_fit(starts[text].tolist(), frequencies[text].tolist(), 4, 1000))
    lengths = [code_of(interval)[0] for interval in path]
    information = np.cumsum([0.0, *(4 - np.log2(frequencies[text]))])
    assert len(path) == len(text) + 1
    assert lengths == sorted(lengths)
    assert all(bits <= np.ceil(known) + 1 for bits, known in zip(lengths, information, strict=True))


@pytest.mark.parametrize("text", [[], [2], [0], [2] * 40, [2, 0] * 3, [2] * 300 + [1]])
def test_a_symbol_of_probability_near_1_fills_long_windows(text):
    for end in LOSSLESS:
        codec = EqualInfoCodec(fixed(NEAR_CERTAIN), 16, 14, end)
        coded = codec.encode(text)
        assert codec.decode(coded) == text
        assert (len(coded.codes) == 0) == (text == [])


def test_windows_in_which_nothing_is_free_are_named_and_come_back():
    case = golden_json("28-equal-info", "dev-equal-info.json")["coder"][3]
    codec = EqualInfoCodec(fixed(case["freqs"]), 16, case["precision"])
    coded = codec.encode(case["seq"])
    assert coded.escaped == (0,)
    assert codec.decode(coded) == case["seq"]
    with pytest.raises(UserError, match="window 0 is not a codeword"):
        codec.decode_windows([coded.codes[0] ^ 1], {0}, coded.length)


def test_two_symbols_and_a_text_that_ends_with_a_window():
    codec = EqualInfoCodec(fixed([1, 1]), 4, 1)
    coded = codec.encode([0, 1, 1, 0] * 2)
    assert coded.codes == (0b0110, 0b0110)
    assert codec.decode(coded) == [0, 1, 1, 0] * 2


def test_greedy_failures_are_counted():
    text = TEXT[:100] + b"quite other words, with digits 0123456789 " * 4
    greedy = EqualInfoCodec(NGRAM, end_of_window="greedy")
    coded = greedy.encode(text)
    report = window_report("greedy", coded, wrong_windows(greedy, coded, text), 8, len(text))
    assert report.wrong > 0
    assert report.wrong_share == report.wrong / len(coded.codes)
    free = EqualInfoCodec(NGRAM)
    assert not wrong_windows(free, free.encode(text), text).any()


def test_free_windows_hold_almost_as_much_as_greedy_ones_and_more_than_delayed_ones():
    text = TEXT[:150] + b"quite other words " * 10
    windows = {
        end: len(EqualInfoCodec(NGRAM, 16, 14, end).encode(text).codes) for end in ("greedy", "free", "delay")
    }
    assert windows["greedy"] <= windows["free"] < windows["delay"]


def test_a_function_of_probabilities_and_one_of_their_frequencies_are_one_model():
    masses = np.array([0.1, 0.2, 0.7])
    codecs = [
        EqualInfoCodec(lambda window, row=row: row, 16, 14) for row in (masses, quantize_pmf(masses, 14))
    ]
    assert codecs[0].encode([0, 1, 2, 2, 0]) == codecs[1].encode([0, 1, 2, 2, 0])


def test_what_is_cut_is_told():
    told = []
    EqualInfoCodec(NGRAM).encode_many([TEXT, TEXT[:50]], progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1


def test_the_bits_of_words_are_those_of_their_windows():
    coded = EqualInfoCodec(NGRAM).encode(TEXT[:40])
    words = bits_of_words(TEXT[:40], bits_of_symbols(coded))
    assert b"".join(word for word, _ in words) == TEXT[:40]
    assert sum(bits for _, bits in words) == pytest.approx(16 * len(coded.codes))
    assert words[1][0] == b" cat"
    assert bits_of_words(b"", np.zeros(0)) == []


# --- what is refused --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"window_bits": 14},
            "window_bits must be at least 15, got 14: one of 256 symbols at precision 14 can need 15 bits",
        ),
        ({"precision": 7}, "256 symbols need a precision of at least 8 bits, got 7"),
        ({"precision": 0}, "precision must be at least 1, got 0"),
        ({"precision": 31, "window_bits": 40}, "precision must be at most 30 bits, got 31"),
        ({"end_of_window": "lazy"}, "end_of_window must be one of greedy, delay, free, got 'lazy'"),
    ],
)
def test_a_codec_that_cannot_be_is_refused(options, words):
    with pytest.raises(UserError) as refused:
        EqualInfoCodec(NGRAM, **options)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([0.5, -0.1, 0.6], "probabilities must be finite and at least 0"),
        ([0.5, np.nan, 0.6], "probabilities must be finite and at least 0"),
        ([0.0, 0.0, 0.0], "a distribution is 0 for every symbol"),
    ],
)
def test_distributions_that_are_none_are_refused(row, words):
    with pytest.raises(UserError) as refused:
        EqualInfoCodec(lambda window: np.array(row), 16, 14).encode([0, 1])
    assert words in str(refused.value)


def test_frequencies_that_do_not_add_up_are_refused():
    with pytest.raises(UserError, match="add up to 2\\^14 = 16384"):
        EqualInfoCodec(fixed([1, 2, 3]), 16, 14).encode([0])


@pytest.mark.parametrize("text", [[3], [0, -1]])
def test_symbols_that_the_model_does_not_know_are_refused(text):
    with pytest.raises(UserError, match=f"the symbols of this model are 0 to 2, got {text[-1]}"):
        EqualInfoCodec(fixed(NEAR_CERTAIN), 16, 14).encode(text)


def test_bits_that_no_text_has_are_no_codeword():
    codec = EqualInfoCodec(fixed([1, 1, 2, 12]), 8, 4, "delay")
    known = {
        code
        for text in ([a, b, c] for a in range(4) for b in range(4) for c in range(4))
        for code in codec.encode(text).codes
    }
    unknown = next(code for code in range(255, -1, -1) if code not in known and not _matches(codec, code))
    with pytest.raises(
        UserError, match="window 0 is not a codeword of this model: it was coded with a different M1"
    ):
        codec.decode_windows([unknown])


def _matches(codec, code):
    try:
        return bool(codec.decode_windows([code]))
    except UserError:
        return False


def test_windows_of_another_size_are_refused():
    coded = EqualInfoCodec(NGRAM, 32).encode(b"cat")
    with pytest.raises(UserError, match="the windows have 32 bits and this codec reads 16"):
        EqualInfoCodec(NGRAM).decode(coded)
    with pytest.raises(UserError, match="a window has 16 bits, got the number 65536"):
        EqualInfoCodec(NGRAM).decode_windows([1 << 16])


@pytest.mark.parametrize(("tokens", "bits"), [([256], 8), ([-1], 8)])
def test_tokens_beyond_their_bits_are_refused(tokens, bits):
    with pytest.raises(UserError, match="a token of 8 bits is a number from 0 to 255"):
        windows_of_tokens(np.array(tokens), bits, 16)


def test_a_token_size_that_cannot_be_is_refused():
    coded = EqualInfoCodec(NGRAM).encode(b"cat")
    with pytest.raises(UserError, match="token_bits must be at most 24, got 32"):
        coded.to_tokens(32)
    with pytest.raises(UserError, match="token_bits must be at least 1, got 0"):
        coded.to_tokens(0)


def test_an_empty_text_has_no_report():
    with pytest.raises(UserError, match="an empty text has no compression ratio"):
        compression_report("", np.zeros(0, np.int64), 8, 0)


class _OtherAnswers(WindowModel):
    """Says something else for a window that is read symbol by symbol."""

    symbols, fingerprint = 3, "other"

    def after(self, windows):
        return np.array([[1, 1, 14]] * len(windows))

    def reader(self):
        return WindowReader(fixed([14, 1, 1]))


def test_a_model_that_answers_otherwise_when_it_decodes_is_found_out():
    with pytest.raises(
        UserError, match="text 0 decodes to something else from symbol 0 on: M1 answers otherwise"
    ):
        EqualInfoCodec(_OtherAnswers(), 8, 4).encode([2, 2, 2, 0])


def test_a_function_is_known_by_its_name():
    first, other = (FunctionWindows(lambda window: np.ones(3), name) for name in ("a", "b"))
    assert first.fingerprint != other.fingerprint
