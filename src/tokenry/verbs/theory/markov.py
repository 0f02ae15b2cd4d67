"""What tokenizers leave to a unigram model: on a Markov source, where every quantity is exact, or on a text of yours."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.progress import Progress
from tokenry.core.io.reading import read_text
from tokenry.core.plans import option, plan_settings
from tokenry.report.blocks import Block, Column, Figure, Series, Table, Text
from tokenry.report.result import Result
from tokenry.verbs._hardware import Hardware
from tokenry.verbs._models import model_title
from tokenry.verbs._output import OptionalOutput

if TYPE_CHECKING:
    import numpy as np

    from tokenry.theory import MarkovSource
    from tokenry.theory.dictionaries import SymbolTokenizer

NO_MODEL = "none"
SOURCE_SIZES, TEXT_SIZES = (8, 16, 32, 64, 128, 256), (512, 1024)
ORACLE_SYMBOLS = 20_000
BYTES = 256


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Compare tokenizers by the cost of the best unigram model over their tokens: how much of the modelling each of them does.

    Dictionaries are trained on the first half of the text and measured on the second. Without --text or --transition the text is that of a
    switching source: a symbol differs from the one --order places before it with probability --switch.

    Attributes:
        text: file of your own text in UTF-8, read as bytes.
        transition: CSV file of a source: the law of the next symbol in each state, one row per state, without a header.
        order: number of symbols that the next one depends on.
        switch: probability of 0 after 1, and of 1 after 0 unless --back says otherwise.
        back: probability of 1 after 0.
        vocab_sizes: sizes of the dictionaries; by default 8 to 256, for text 512 and 1024.
        tokenizers: model, folder or tokenizer.json file to measure on the text as well; can be repeated.
        model: model whose loss stands for the entropy of the text: `embedded`, a folder, a hub name, or none.
        symbols: symbols of the text that are used.
        seed: random seed of the source.
    """

    text: Path | None = None
    transition: Path | None = None
    order: int = 2
    switch: float = 0.1
    back: float | None = None
    vocab_sizes: tuple[int, ...] = option((), metavar="16,64,256", commas=True)
    tokenizers: tuple[str, ...] = option((), flag="--tokenizer", metavar="TOKENIZER")
    model: str = "embedded"
    symbols: int = 60_000
    seed: int = 0
    hardware: Hardware = Hardware()

    def __post_init__(self) -> None:
        require_at_least(2, symbols=self.symbols)
        require_at_least(0, seed=self.seed)
        require_at_least(2, vocab_sizes=min(self.vocab_sizes, default=None))
        require_at_least(1, order=self.order)
        for name, value in (("switch", self.switch), ("back", self.back)):
            if value is not None and not 0 < value < 1:
                raise UserError(f"{name} must be in (0, 1), got {value}: it is the probability of a switch.")
        if self.text is not None and self.transition is not None:
            raise UserError("give --text or --transition, not both: a text has no table of its source.")
        if self.tokenizers and self.text is None:
            raise UserError("--tokenizer is measured on real text: give --text FILE.")


def run(plan: Plan, progress: Progress) -> Result:
    """Train the dictionaries, and measure them."""
    progress("reading the text", 0.0)
    source, name = _source(plan)
    first, second = _halves(plan, source)
    made = _real_tokenizers(plan)
    sizes = plan.vocab_sizes or (SOURCE_SIZES if source else TEXT_SIZES)
    alphabet = source.alphabet if source else BYTES
    kept = [size for size in sizes if size >= alphabet]
    if not kept and not made:
        raise UserError(
            f"a dictionary holds the {alphabet} symbols: give --vocab-sizes of {alphabet} or more."
        )
    rate = source.entropy_rate() if source else _model_entropy(plan, bytes(second.tolist()), progress)
    rows: list[dict[str, Any]] = []
    for size in kept:
        for title, tokenizer in _trained(first, size, alphabet):
            progress(f"{title}, {size} tokens", 0.2 + 0.8 * len(rows) / (3 * len(kept) + len(made)))
            rows.append(_measured(title, tokenizer, first, second, source, rate))
    rows += [_measured(title, tokenizer, first, second, None, rate) for title, tokenizer in made.items()]
    data = {
        "kind": "theory markov",
        "source": name,
        "unit": "symbol" if source else "byte",
        "symbols": len(second),
        "entropy_rate": rate,
        "entropy_of": "exact" if source else None if rate is None else model_title(plan.model),
        "symbol_entropy": source.char_entropy() if source else rows[0]["symbol_entropy"],
        "delta": source.delta if source else None,
        "tokenizers": rows,
        "warnings": list(_warnings(source, sizes, alphabet)),
        "settings": plan_settings(plan),
    }
    return Result(f"What tokenizers leave to a unigram, {name}", data, lay_out(data))


def _source(plan: Plan) -> "tuple[MarkovSource | None, str]":
    from tokenry.theory import MarkovSource

    if plan.text is not None:
        return None, plan.text.name
    if plan.transition is not None:
        return MarkovSource(read_transition(plan.transition), plan.order), plan.transition.name
    back = plan.switch if plan.back is None else plan.back
    odds = f"p = {plan.switch:g}" if back == plan.switch else f"p = {plan.switch:g}, q = {back:g}"
    name = f"switching source of order {plan.order} ({odds})"
    return MarkovSource.switching(plan.order, plan.switch, back), name


def _halves(plan: Plan, source: "MarkovSource | None") -> "tuple[np.ndarray, np.ndarray]":
    """What dictionaries are trained on, and what they are measured on; a text is cut between characters."""
    import numpy as np

    if source is not None:
        first, second = (source.sample(plan.symbols, seed=(plan.seed, half))[0] for half in (0, 1))
        return first, second
    assert plan.text is not None
    text = read_text(plan.text).encode()[: plan.symbols].decode(errors="ignore")
    if len(text) < 2:
        raise UserError(f"{plan.text} holds {len(text)} characters: give a text of at least two.")
    halves = text[: len(text) // 2], text[len(text) // 2 :]
    first, second = (np.frombuffer(half.encode(), np.uint8).astype(np.int64) for half in halves)
    return first, second


def _real_tokenizers(plan: Plan) -> "dict[str, SymbolTokenizer]":
    from tokenry.models import load_tokenizer
    from tokenry.theory import RealTokenizer

    return {model_title(name): RealTokenizer(load_tokenizer(name)) for name in plan.tokenizers}


def _model_entropy(plan: Plan, text: bytes, progress: Progress) -> float | None:
    """What a model says about the second half, in nats per byte."""
    if plan.model == NO_MODEL:
        return None
    from tokenry.core.io.progress import named, part
    from tokenry.core.text.bits_per_byte import text_loss
    from tokenry.models import load_tokenizer

    plan.hardware.place()
    model, told = plan.hardware.load(plan.model), named(part(progress, 0.0, 0.2), "the model")
    found = text_loss(model, load_tokenizer(plan.model), [text.decode()], max_length=512, progress=told)
    return found.bits_per_byte.value * math.log(2)


def _trained(first: "np.ndarray", size: int, alphabet: int) -> "Iterator[tuple[str, SymbolTokenizer]]":
    from tokenry.theory import BPETokenizer, LikeliestTokenizer, LZWTokenizer

    yield "LZW", LZWTokenizer.train(first, size, alphabet)
    yield "BPE", BPETokenizer.train(first, size, alphabet)
    yield "likeliest", LikeliestTokenizer.train(first[:ORACLE_SYMBOLS], size, alphabet)


def _measured(
    title: str,
    tokenizer: "SymbolTokenizer",
    first: "np.ndarray",
    second: "np.ndarray",
    source: "MarkovSource | None",
    rate: float | None,
) -> dict[str, Any]:
    """One tokenizer: the unigram that is best for the second half, and those that were counted on the first."""
    from tokenry.theory import (
        GreedyTokenizer,
        exact_token_law,
        heldout_bigram_ce,
        heldout_unigram_ce,
        lzw_bound,
        share_done,
        unigram_report,
    )

    report, size = unigram_report(tokenizer, second, source, rate), len(tokenizer.dictionary)
    counted, predicted = tokenizer.encode(first), tokenizer.encode(second)
    exact = None
    if source is not None and isinstance(tokenizer, GreedyTokenizer):
        try:
            exact = exact_token_law(source, tokenizer).cross_entropy
        except UserError:
            exact = None
    heldout = heldout_unigram_ce(counted, predicted, size, None, len(second))
    # The unigram that is best for a short text has learned it by heart where the dictionary is large.
    cost = heldout if source is None else report.cross_entropy
    bound = lzw_bound(source.delta, size) if source is not None and title == "LZW" else None
    figures = {
        **report.as_json(),
        "cost": cost,
        "ratio": cost / rate if rate else None,
        "share_done": share_done(cost, report.symbol_entropy, rate),
        "symbol_entropy": report.symbol_entropy,
        "exact": exact,
        "heldout_unigram": heldout,
        "heldout_bigram": heldout_bigram_ce(counted, predicted, size, len(second)),
        "bound": bound,
    }
    known = {
        name: value if value is None or math.isfinite(value) else None for name, value in figures.items()
    }
    return {"tokenizer": title, "dictionary": size, **known}


def _warnings(source: "MarkovSource | None", sizes: tuple[int, ...], alphabet: int) -> Iterator[str]:
    if small := [str(size) for size in sizes if size < alphabet]:
        yield f"No dictionary of {', '.join(small)} tokens: the {alphabet} symbols do not fit in it."
    if source is not None and source.is_reducible:
        yield "The source is reducible: its long-run law depends on where it starts, and one law of several is used."
    if source is not None and source.entropy_rate() == 0:
        yield "The source is deterministic: nothing is left to chance, so every ratio to its entropy rate is infinite."


def read_transition(path: Path) -> "np.ndarray":
    """Read a table of transitions: numbers separated by commas, one row per state."""
    import numpy as np

    lines = [line for line in read_text(path).splitlines() if line.strip()]
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append([float(cell) for cell in line.split(",")])
        except ValueError as error:
            hint = "remove the header" if number == 1 else "give numbers only"
            raise UserError(
                f"line {number} of {path} is no row of probabilities ({line[:40]!r}): {hint}."
            ) from error
    if not rows or len({len(row) for row in rows}) > 1:
        raise UserError(f"{path} must hold one row per state, all with one number per symbol.")
    return np.array(rows)


# --- layout --------------------------------------------------------------------------------------------------------------------------


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out the costs, and their fall with the size of the dictionary."""
    rows, unit, rate = data["tokenizers"], data["unit"], data["entropy_rate"]
    per_unit = f"nats per {unit}"
    known = (
        "unknown"
        if rate is None
        else f"{rate:.4f}" + ("" if data["entropy_of"] == "exact" else f" ({data['entropy_of']})")
    )
    lead = (
        f"{data['source'][0].upper()}{data['source'][1:]}: {data['symbols']:,} {unit}s measured. A unigram over {unit}s costs {data['symbol_entropy']:.4f} {per_unit}; "
        f"the entropy rate is {known}."
    )
    of_source = data["delta"] is not None
    measures = {
        "mean_token_len": Column(f"{unit}s", "per token", ".2f"),
        "ce_per_char": Column("unigram", "", ".4f"),
        "heldout_unigram": Column("held out", "", ".4f"),
        "heldout_bigram": Column("bigram", "", ".4f"),
        "ratio": Column("over", "entropy", ".3f"),
        "share_done": Column("share done", "%"),
    }
    if of_source:
        measures |= {"exact": Column("exact", "", ".4f"), "bound": Column("bound", "× entropy", ".2f")}
    table = Table(
        f"unigram models over the tokens, costs in {per_unit}",
        ("tokenizer", Column("tokens", "", ",d"), *measures.values()),
        [(row["tokenizer"], row["dictionary"], *(row[name] for name in measures)) for row in rows],
        notes=(
            f"Share done, by the {'best' if of_source else 'held-out'} unigram: 0 where the tokens are no better than {unit}s, 100 % where a unigram "
            "over them is as good as can be.",
            "Held out, and the bigram: counted on the first half of the text, Witten-Bell smoothed.",
        ),
    )
    names = list(dict.fromkeys(row["tokenizer"] for row in rows))
    lines = [
        Series(name, [row["dictionary"] for row in found], [row["cost"] for row in found])
        for name in names
        for found in [[row for row in rows if row["tokenizer"] == name]]
    ]
    figure = Figure(
        "cost over the size of the dictionary",
        "lines",
        lines,
        x_label="tokens of the dictionary",
        y_label=per_unit,
        summary=f"Cost of a unigram model over the size of the dictionary, for {', '.join(names)}.",
        reference=rate,
    )
    return [Text(lead, "lead"), *(Text(warning, "warning") for warning in data["warnings"]), table, figure]
