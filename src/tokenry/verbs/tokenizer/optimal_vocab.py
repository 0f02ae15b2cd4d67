"""A vocabulary for each language, so that the same text costs the same in all of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenry.core.io.files import require_output_folder
from tokenry.core.io.progress import Progress
from tokenry.core.plans import option, plan_settings
from tokenry.report.blocks import Block, Cell, Column, Figure, Series, Table, Text
from tokenry.report.result import Result
from tokenry.report.writing import plural
from tokenry.verbs._estimates import interval_cell
from tokenry.verbs._output import OptionalOutput


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Fit tokens against vocabulary, choose a size for each language, train it, and count again.

    Attributes:
        vocab_sizes: at least four sizes to measure, increasing.
        target: tokens that the text should cost in all languages; by default the median at --base-size.
        budget: sum of all vocabularies, shared as evenly as possible instead of aiming at a target.
        base_size: vocabulary size for all languages that the result is compared with; by default the middle one.
        largest: largest vocabulary of one language.
        train: folder of training text, one LANGUAGE.txt each; by default, without --parallel too, the Universal Declaration of Human Rights.
        parallel: folder of parallel text, one LANGUAGE.txt each, line by line.
        languages: languages to measure; by default all.
        save_tokenizers: folder in which to save the tokenizers, a folder per language.
    """

    vocab_sizes: tuple[int, ...] = option(
        (320, 384, 448, 512, 640, 768, 896, 1024), metavar="512,1024", commas=True
    )
    target: float | None = None
    budget: int | None = None
    base_size: int | None = None
    largest: int | None = None
    train: Path | None = None
    parallel: Path | None = None
    languages: tuple[str, ...] = option((), metavar="eng,deu_1996,hin", commas=True)
    save_tokenizers: Path | None = None


def run(plan: Plan, progress: Progress) -> Result:
    """Fit a curve per language, choose the sizes, train the tokenizers, and count their tokens."""
    from tokenry.tokenization.premiums.equal_cost import equal_cost
    from tokenry.tokenization.premiums.parallel_text import load_train_and_parallel
    from tokenry.tokenization.tokenizer_files import save_tokenizer

    require_output_folder(plan.save_tokenizers)
    texts, evaluation = load_train_and_parallel(plan.train, plan.parallel, plan.languages or None)
    found = equal_cost(
        texts,
        evaluation,
        plan.vocab_sizes,
        target=plan.target,
        budget=plan.budget,
        base_size=plan.base_size,
        largest=plan.largest,
        progress=progress,
    )
    if plan.save_tokenizers is not None:
        for language, tokenizer in found.tokenizers.items():
            save_tokenizer(tokenizer, plan.save_tokenizers / language)
    data = {
        "kind": "optimal vocabulary",
        "budget": plan.budget,
        **found.as_json(),
        "settings": plan_settings(plan) | {"languages": list(evaluation)},
    }
    return Result("A vocabulary for each language", data, lay_out(data))


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out the tokens of each language with one vocabulary size for all, and with its own."""
    base, target = data["base_vocab_size"], data["target"]
    languages = dict(
        sorted(data["languages"].items(), key=lambda item: -item[1]["trained_vocab_size"]),
    )
    aim = f"aimed at {target:,.1f} tokens in each"
    if data["budget"] is not None:
        aim = f"with a shared budget of {data['budget']:,}, which leads to {target:,.1f} tokens in each"
    number = plural(len(languages), "language")
    return [
        Text(f"The same text in {number}, {aim}, beside a vocabulary of {base:,} for all.", "lead"),
        *(Text(warning, "warning") for warning in _warnings(languages, target)),
        Table(
            f"target {target:,.1f} tokens, beside V = {base} for all",
            (
                "language",
                Column("tokens", f"at V = {base}"),
                "own V",
                Column("tokens", "at own V"),
                Column("floor", "tokens", ",.1f"),
                Column("R²", "", ".4f"),
                "text back",
            ),
            [_row(language, found) for language, found in languages.items()],
        ),
        _spread(data["spread"], base),
        Figure(
            "Tokens of the same text",
            "intervals",
            [
                Series(name, list(languages), [found[tokens] for found in languages.values()])
                for name, tokens in ((f"V = {base} for all", "tokens_fixed"), ("own V", "tokens"))
            ],
            x_label="tokens",
            reference=target,
            summary="tokens of each language with one vocabulary size for all, and with its own",
        ),
    ]


def _row(language: str, found: Mapping[str, Any]) -> tuple[Any, ...]:
    own = Cell(found["trained_vocab_size"], "out of reach" if found["vocab_size"] is None else "")
    back = (found.get("text_back") or {}).get("summary")
    return (
        language,
        found["tokens_fixed"],
        own,
        found["tokens"],
        found["curve"]["c"],
        found["curve"]["r2"],
        back,
    )


def _spread(spread: Mapping[str, Any], base: int) -> Table:
    names = {"fixed": f"V = {base} for all", "own": "own V"}
    return Table(
        "spread over the languages",
        (
            "vocabulary",
            Column("mean count", "tokens", ",.1f"),
            Column("s.d.", "tokens", ",.1f"),
            Column("max / min", "", ".2f"),
        ),
        [
            (
                names[when],
                figures["mean"][0],
                interval_cell(*figures["std"], style=",.1f"),
                interval_cell(*figures["max_min"], style=".2f"),
            )
            for when, figures in spread.items()
        ],
        notes=("Intervals are 95 % of a bootstrap over the segments.",),
    )


def _warnings(languages: Mapping[str, Any], target: float) -> list[str]:
    from tokenry.core.text.round_trip import RoundTrip

    changed = [
        sentence
        for language, found in languages.items()
        for sentence in RoundTrip.from_json(found.get("text_back")).sentences(f"the tokenizer of {language}")
    ]
    out_of_reach = [
        f"{language} does not reach {target:,.1f} tokens with any vocabulary (its floor is {found['curve']['c']:,.1f})."
        for language, found in languages.items()
        if found["vocab_size"] is None
    ]
    return changed + out_of_reach
