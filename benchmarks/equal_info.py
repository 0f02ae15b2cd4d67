"""Equal-info windows: all windows decoded in one batch against one after the other, and an arithmetic code through constriction.

M1 is a random Llama of bytes, two layers of 64 channels in float64, with a sharp output head so that windows hold several bytes; both decoders
read with a cache, and give the same text. The integer loop is the 32-bit coder of Witten, Neal and Cleary in plain Python; both encode the same symbols,
from the frequencies that M1 has at every place.
"""

from collections.abc import Iterator

import numpy as np
import torch
from _measure import interleaved
from _report import Result, run, speedup
from transformers import LlamaConfig, LlamaForCausalLM

from tokenry.tokenization.equal_info import (
    CausalWindowModel,
    EqualInfoCodec,
    quantize_pmf,
    range_encode,
    wnc_encode,
)
from tokenry.tokenization.equal_info.quantised import cumulative_table

PRECISION = 14


def measure(smoke: bool) -> Iterator[Result]:
    """The two ratios, in CPU time of one thread."""
    yield decoding(smoke)
    yield coding(smoke)


def decoding(smoke: bool) -> Result:
    """All windows in one batch against one window after the other."""
    layers, width, symbols, rounds = (1, 16, 40, 1) if smoke else (2, 64, 3000, 2)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        bos_token_id=256,
    )
    model = LlamaForCausalLM(config).double().eval()
    model.lm_head.weight.data *= 20
    m1 = CausalWindowModel(model, start_id=256, symbols=256)
    codec = EqualInfoCodec(m1)
    text = written(m1, symbols)
    coded = codec.encode(text, self_test=False)

    def batch() -> list[list[int]]:
        return codec.decode_windows(coded.codes, most=coded.length)

    def one_by_one() -> list[list[int]]:
        return [codec.decode_windows([code], most=coded.length)[0] for code in coded.codes]

    assert batch() == one_by_one()
    seconds = interleaved({"batch": batch, "one by one": one_by_one}, rounds, threads=1)
    return speedup(
        "decoding equal-info windows: one after the other / all in one batch",
        seconds["one by one"].cpu / seconds["batch"].cpu,
        20,
        threads=1,
        windows=len(coded.codes),
        bytes=symbols,
        layers=layers,
        width=width,
        rounds=rounds,
        cpu_seconds={name: round(found.cpu, 3) for name, found in seconds.items()},
    )


def written(m1: CausalWindowModel, symbols: int) -> bytes:
    """Text that the model itself writes, window after window of eight bytes."""
    draw, text = np.random.default_rng(0), bytearray()
    rows = -(-symbols // 8)
    reader = m1.reader()
    law = np.repeat(reader.begin(rows), rows, axis=0)
    columns = []
    for _ in range(8):
        columns.append([int(draw.choice(256, p=row)) for row in law])
        law = reader.extend([*range(rows)], columns[-1])
    for window in zip(*columns, strict=True):
        text += bytes(window)
    return bytes(text[:symbols])


def coding(smoke: bool) -> Result:
    """Constriction's range coder against our integer loop, for the same symbols and frequencies."""
    symbols, rounds = (300, 1) if smoke else (20_000, 3)
    draw = np.random.default_rng(0)
    laws = draw.dirichlet(np.full(256, 0.1), symbols)
    known = quantize_pmf(laws, PRECISION)
    text = (laws.cumsum(axis=1) < draw.random((symbols, 1))).sum(axis=1).clip(0, 255)
    places = np.arange(symbols)

    def constriction() -> int:
        return 8 * len(range_encode([(text.tolist(), known)]))

    def integers() -> int:
        table = cumulative_table(known, PRECISION)
        starts, ends = table[places, text], table[places, text + 1]
        return len(wnc_encode(starts.tolist(), (ends - starts).tolist(), PRECISION))

    bits = {"constriction": constriction(), "integer loop": integers()}
    assert abs(bits["constriction"] - bits["integer loop"]) < 64 + bits["integer loop"] // 1000
    seconds = interleaved({"constriction": constriction, "integer loop": integers}, rounds, threads=1)
    return speedup(
        "an arithmetic code: integer loop / constriction",
        seconds["integer loop"].cpu / seconds["constriction"].cpu,
        20,
        threads=1,
        symbols=symbols,
        rounds=rounds,
        bits=bits,
        cpu_milliseconds={name: round(1000 * found.cpu, 2) for name, found in seconds.items()},
    )


if __name__ == "__main__":
    run(measure, str(__doc__))
