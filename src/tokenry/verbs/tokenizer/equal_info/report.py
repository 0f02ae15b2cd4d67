"""What a text becomes as windows of equal information, beside other codes of the same text."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenry.core.errors import require_at_least
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, option, plan_settings
from tokenry.report.blocks import Block, Column, Heatmap, Piece, Section, Segmentation, Table, Text, Token
from tokenry.report.result import Result
from tokenry.verbs._output import OptionalOutput
from tokenry.verbs.tokenizer.equal_info._coding import NGRAM, NGRAM_MODEL, SymbolModel, read_data

if TYPE_CHECKING:
    import numpy as np

    from tokenry.tokenization.equal_info import CodedWindows, EqualInfoCodec
    from tokenry.tokenization.equal_info.byte_models import Symbols
    from tokenry.tokenization.equal_info.units import SymbolUnits

ENDS = ("free", "greedy", "delay")
COUNTED_BYTES, MODEL_BYTES = 20_000, 500
SHOWN = 400


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Show a text cut into windows of equal information, and what it costs by every rule beside arithmetic codes and gzip.

    Attributes:
        file: file of the text.
        window_bits: bits of a window, more than the precision.
        token_bits: bits of a token of the streams: 8 or 16.
        most: bytes of the file that are coded; by default 20,000, for a language model 500.
        shown: bytes that are drawn.
    """

    file: Path = argument()
    m1: SymbolModel = NGRAM_MODEL
    window_bits: int = option(16, flag="--window", metavar="BITS")
    token_bits: int = 8
    most: int | None = None
    shown: int = SHOWN

    def __post_init__(self) -> None:
        require_at_least(1, token_bits=self.token_bits, most=self.most, shown=self.shown)


def run(plan: Plan, progress: Progress) -> Result:
    """Code the text by every rule.

    Raises:
        UserError: a file or model that cannot be read, or a window that is too small.
    """
    from tokenry.tokenization.equal_info import (
        EqualInfoCodec,
        compression_report,
        window_report,
        wrong_windows,
    )

    data = read_data(plan.file)
    most = plan.most or (COUNTED_BYTES if plan.m1.model == NGRAM else MODEL_BYTES)
    text = data[:most] if plan.m1.units == "bytes" else data[:most].decode(errors="ignore").encode()
    progress("reading the model", 0.0)
    codec, units = plan.m1.codec(plan.window_bits, ENDS[0])
    (symbols,) = units.parts(text, len(text))
    streams, pieces, free = [], {}, None
    for number, end in enumerate(ENDS):
        progress(f"coding, {end}", 0.1 + 0.2 * number)
        rule = EqualInfoCodec(codec.m1, codec.window_bits, codec.precision, end)
        coded = rule.encode(symbols, self_test=False)
        free = free or coded
        wrong = wrong_windows(rule, coded, symbols)
        name = f"EqualInfo[{codec.window_bits}], {end}"
        report = window_report(name, coded, wrong, plan.token_bits, len(text))
        streams.append(_stream(report, coded.to_tokens(plan.token_bits)))
        pieces[end] = _pieces(coded, wrong, symbols, units, plan.shown)
    assert free is not None
    progress("coding, other streams", 0.7)
    for name, tokens in _others(plan, codec, symbols, text):
        streams.append(_stream(compression_report(name, tokens, plan.token_bits, len(text)), tokens))
    found = {
        "kind": "equal-info report",
        "file": str(plan.file),
        "model": plan.m1.model,
        "bytes": len(text),
        "of_bytes": len(data),
        "symbols": len(symbols),
        "window_bits": codec.window_bits,
        "precision": codec.precision,
        "streams": streams,
        "pieces": pieces,
        "words": _words(codec, free, symbols, units, text, plan.shown),
        "settings": plan_settings(plan),
    }
    return Result(f"{plan.file.name} in windows of {codec.window_bits} bits", found, lay_out(found))


def _others(
    plan: Plan, codec: "EqualInfoCodec", symbols: "Symbols", text: bytes
) -> "Iterator[tuple[str, np.ndarray]]":
    """The tokens of the streams beside equal-info windows."""
    from tokenry.tokenization.equal_info import (
        ArithmeticCodec,
        WittenBellModel,
        coder_resets,
        gzip_stream,
        stream_tokens,
    )

    resets = coder_resets(codec.m1, symbols, codec.window_bits, codec.precision)
    yield f"coder reset only[{codec.window_bits}]", resets.to_tokens(plan.token_bits)
    yield "AC", stream_tokens(ArithmeticCodec(codec.m1, codec.precision).encode(symbols), plan.token_bits)
    bytes_alone = ArithmeticCodec(WittenBellModel(plan.m1.counted(), order=1))
    yield "StaticAC", stream_tokens(bytes_alone.encode(text), plan.token_bits)
    yield "gzip", stream_tokens(gzip_stream(text), plan.token_bits)


def _stream(report: Any, tokens: "np.ndarray") -> dict[str, Any]:
    """A stream, with what a unigram of its tokens, counted on the other half, costs."""
    import math

    from tokenry.theory import crossfitted_unigram_ce
    from tokenry.tokenization.vocabulary_use import vocabulary_use

    size = 1 << report.token_bits
    return {
        "stream": report.name,
        "tokens": report.n_tokens,
        "token_ratio": report.token_compression_ratio,
        "bit_ratio": report.bit_ratio,
        "uniform_bits_per_byte": report.uniform_bits_per_byte,
        "unigram_bits_per_byte": crossfitted_unigram_ce(tokens.tolist(), size, report.n_bytes) / math.log(2),
        "vocabulary_efficiency": vocabulary_use(tokens, size).shannon_efficiency,
        "windows": report.windows,
        "wrong": report.wrong,
        "wrong_share": report.wrong_share,
        "escaped": report.escaped,
    }


def _pieces(
    coded: "CodedWindows", wrong: "np.ndarray", symbols: "Symbols", units: "SymbolUnits", shown: int
) -> list[dict[str, Any]]:
    """The windows of the beginning of the text, and which of them are read wrongly."""
    pieces, place, size = [], 0, 0
    for code, count, is_wrong in zip(coded.codes, coded.n_symbols, wrong.tolist(), strict=True):
        data = units.text(symbols[place : place + count])
        pieces.append({"id": code, "text": _drawn(data), "wrong": is_wrong})
        place, size = place + count, size + len(data)
        if size >= shown:
            break
    return pieces


def _words(
    codec: "EqualInfoCodec",
    coded: "CodedWindows",
    symbols: "Symbols",
    units: "SymbolUnits",
    text: bytes,
    shown: int,
) -> list[dict[str, Any]]:
    """The words of the beginning of the text: the bits of the windows they stand in, and what M1 says without windows."""
    import numpy as np

    from tokenry.tokenization.equal_info import bits_of_symbols, bits_of_words, symbol_intervals

    _, frequencies = symbol_intervals(codec.m1, symbols, codec.precision)
    sizes = np.array([len(units.text([symbol])) for symbol in symbols])

    def by_word(bits: np.ndarray) -> list[tuple[bytes, float]]:
        return bits_of_words(text, np.repeat(bits / np.maximum(sizes, 1), sizes))

    words, size = [], 0
    of_windows, of_model = by_word(bits_of_symbols(coded)), by_word(codec.precision - np.log2(frequencies))
    for (word, bits), (_, known) in zip(of_windows, of_model, strict=True):
        words.append({"word": _drawn(word), "bits": bits, "m1_bits": known})
        size += len(word)
        if size >= shown:
            break
    return words


def _drawn(data: bytes) -> str:
    return data.decode(errors="backslashreplace")


# --- layout --------------------------------------------------------------------------------------------------------------------------


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out the streams, the windows, and the bits of the words."""
    streams = {row["stream"]: row for row in data["streams"]}
    free, greedy, _ = data["streams"][:3]
    of_file = "" if data["of_bytes"] == data["bytes"] else f" (of {data['of_bytes']:,})"
    lead = (
        f"{data['bytes']:,} bytes{of_file} are {free['windows']:,} windows of {data['window_bits']} bits: {free['bit_ratio']:.2f} bits of the "
        f"text in one of theirs. Of the windows that end greedily {greedy['wrong_share']:.1%} decode wrongly, of the free ones {free['wrong_share']:.1%}."
    )
    return [
        Text(lead, "lead"),
        _costs(list(streams.values())),
        Section("The text by windows", [Text(_LEGEND), _picture(data)]),
        Section("Bits of every word", [_heat(data["words"])]),
    ]


_LEGEND = (
    "One tinted box is one window. A wave is a window that decodes to another text; point at a window to read its bits as a number. "
    "· is a space, ⏎ a line break."
)


def _costs(streams: Sequence[Mapping[str, Any]]) -> Table:
    columns = {
        "tokens": Column("tokens", "", ",d"),
        "bit_ratio": Column("bit", "ratio", ".2f"),
        "token_ratio": Column("bytes", "per token", ".2f"),
        "uniform_bits_per_byte": Column("uniform", "bits/byte", ".3f"),
        "unigram_bits_per_byte": Column("unigram", "bits/byte", ".3f"),
        "wrong_share": Column("wrong", "%"),
    }
    return Table(
        "one text, coded",
        ("stream", *columns.values()),
        [(row["stream"], *(row[name] for name in columns)) for row in streams],
        notes=(
            "Uniform: a model of the tokens that knows nothing; unigram: one that knows how often each occurs in the other half.",
            f"Wrong: windows that decode to another text. Of the free windows {streams[0]['escaped']:,} end as by delay.",
        ),
    )


def _picture(data: Mapping[str, Any]) -> Segmentation:
    rows = {row["stream"].rpartition(", ")[2]: row for row in data["streams"]}
    return Segmentation(
        "",
        f"the first {min(data['settings']['shown'], data['bytes']):,} of {data['bytes']:,} bytes",
        [
            (
                end,
                f"{rows[end]['windows']:,} windows, {rows[end]['wrong_share']:.1%} wrong",
                [Piece(piece["text"], piece["id"], "lost" if piece["wrong"] else "same") for piece in pieces],
            )
            for end, pieces in data["pieces"].items()
        ],
    )


def _heat(words: Sequence[Mapping[str, Any]]) -> Heatmap:
    tokens = [
        Token(word["word"], signals={"bits in windows": word["bits"], "bits by M1": word["m1_bits"]})
        for word in words
    ]
    return Heatmap("", [("", tokens)])
