"""Tables, codes, windows, the 32-bit coder and metrics are those of an independent implementation, to the bit."""

import numpy as np
import pytest

from tests.golden import golden_json
from tests.tokenization.equal_info import fixed
from tokenry.tokenization.equal_info import (
    EqualInfoCodec,
    bits_per_byte,
    compression_report,
    flops_per_byte,
    interval_code,
    quantize_pmf,
    windows_of_tokens,
    wnc_decode,
    wnc_encode,
    wrong_windows,
)
from tokenry.tokenization.equal_info.quantised import cumulative_table

REFERENCE = golden_json("28-equal-info", "dev-equal-info.json")
CASES = REFERENCE["coder"]
WINDOWS = [(case, window) for case in CASES for window in case["windows"]]
NAMES = [f"V{case['vocab_size']}-W{window['W']}" for case, window in WINDOWS]


def tables(case):
    """The table before each symbol, where nothing begins anew."""
    m1 = fixed(case["freqs"])
    return cumulative_table(
        m1.after([case["seq"][:place] for place in range(len(case["seq"]))]), case["precision"]
    )


@pytest.mark.parametrize("case", CASES)
def test_codes_of_intervals_are_the_reference(case):
    low, width, lengths = 0, 1, [0]
    for place, table in enumerate(tables(case)[:40]):
        start, end = table[case["seq"][place]], table[case["seq"][place] + 1]
        low, width = low * 2 ** case["precision"] + width * int(start), width * int(end - start)
        bits, value = interval_code(low, width, place + 1, case["precision"])
        lengths.append(bits)
    assert lengths == case["exact_code_len_by_prefix"]
    assert format(value, f"0{bits}b") == case["exact_code_first40"]


@pytest.mark.parametrize("end", ["greedy", "delay"])
@pytest.mark.parametrize(("case", "window"), WINDOWS, ids=NAMES)
def test_windows_are_the_reference(case, window, end):
    size, expected = window["W"], window[end]
    codec = EqualInfoCodec(fixed(case["freqs"]), size, case["precision"], end)
    coded = codec.encode(case["seq"])
    assert list(coded.n_symbols) == expected["n_symbols"]
    assert [format(code, f"0{size}b") for code in coded.codes] == expected["bits"]
    assert coded.bits() == "".join(expected["bits"])
    assert codec.decode_windows(coded.codes) == expected["decoded_by_rule"]
    for token_bits in (8, 16):
        tokens = coded.to_tokens(token_bits)
        assert tokens.tolist() == expected[f"tokens_{token_bits}bit"]
        assert windows_of_tokens(tokens, token_bits, size)[: len(coded.codes)] == list(coded.codes)
    report = compression_report("", coded.to_tokens(8), 8, len(case["seq"]))
    assert report.bit_ratio == pytest.approx(expected["bit_ratio_vs_8bit_symbols"], rel=1e-12)
    wrong = wrong_windows(codec, coded, case["seq"])
    assert (~wrong[:-1]).tolist() == expected["roundtrip_ok"][:-1]


@pytest.mark.parametrize("case", CASES)
def test_the_32_bit_coder_is_the_reference_and_gives_the_text_back(case):
    along, places = tables(case), np.arange(len(case["seq"]))
    starts = along[places, case["seq"]]
    frequencies = along[places, np.array(case["seq"]) + 1] - starts
    bits = wnc_encode(starts.tolist(), frequencies.tolist(), case["precision"])
    assert bits == case["wnc32_bits"]
    back = wnc_decode(bits, len(places), lambda text: along[len(text)], case["precision"])
    assert back == case["seq"]


@pytest.mark.parametrize("case", REFERENCE["quantize"])
def test_frequencies_are_the_reference(case):
    assert quantize_pmf(case["p"], case["precision"]).tolist() == case["freqs"]


@pytest.mark.parametrize("case", REFERENCE["metrics"])
def test_metrics_are_the_reference(case):
    tokens, size = case["output_tokens"], case["input_bytes"]
    found = bits_per_byte(case["loss_nats_per_token"], tokens, size)
    assert found == pytest.approx(case["bits_per_byte"], rel=1e-12)
    flops = flops_per_byte(case["m2_params"], tokens, size, case["m1_params"])
    assert flops == pytest.approx(case["flops_per_byte"], rel=1e-12)
    assert size / tokens == pytest.approx(case["token_compression_ratio"], rel=1e-12)
