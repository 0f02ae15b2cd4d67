"""Bits per byte of a model of words, by how rare words are, beside another model of the same texts."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.progress import Progress, part
from tokenry.core.plans import argument, option, plan_settings
from tokenry.core.stats import Estimate, shown
from tokenry.report.blocks import Block, Column, Section, Table, Text
from tokenry.report.result import Result
from tokenry.report.writing import plural
from tokenry.verbs._corpus import read_corpus
from tokenry.verbs._estimates import estimate_row, stored_estimate
from tokenry.verbs._hardware import Hardware
from tokenry.verbs._models import model_title
from tokenry.verbs._output import OptionalOutput
from tokenry.verbs.words._models import (
    drawn_words,
    frequency_rows,
    frequency_table,
    load_word_model,
    word_map,
)

if TYPE_CHECKING:
    from tokenry.core.text.bits_per_byte import TextLoss

_SAID = {
    "shown": "needs fewer bits",
    "opposite": "needs more bits",
    "not shown": "is not told apart from it",
    "too few": "cannot be judged on so few texts",
}


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Measure a model of words on texts: bits per byte, words spelled right, by how often a word was seen in training.

    Attributes:
        model: folder that `tokenry words train` made.
        texts: a text file (texts end at empty lines), or rows with `text`.
        against: another model of words, or any causal language model: `embedded`, a folder, or a hub name.
        most: texts that are read at most.
        batch_size: windows that are read at once.
    """

    model: Path = argument()
    texts: Path = argument()
    against: str | None = option(None, metavar="MODEL")
    most: int = 100
    batch_size: int = 8
    hardware: Hardware = Hardware()

    def __post_init__(self) -> None:
        require_at_least(1, most=self.most, batch_size=self.batch_size)


def run(plan: Plan, progress: Progress) -> Result:
    """Score the texts with one model or two."""
    from tokenry.architectures import score_texts, word_loss
    from tokenry.core.text.bits_per_byte import bits_difference

    progress("reading the model and the texts", 0.0)
    stored = load_word_model(str(plan.model), plan.hardware)
    texts = read_corpus(plan.texts)[: plan.most]
    told = part(progress, 0.0, 0.5 if plan.against else 1.0)
    scored = score_texts(
        stored.model,
        stored.coder,
        texts,
        stored.max_words,
        plan.batch_size,
        lambda share: told("scoring", share),
    )
    ours = word_loss(stored.coder, texts, scored)
    theirs = (
        None
        if plan.against is None
        else _other(plan, texts, stored.coder.splitter.keeps_text, part(progress, 0.5, 1.0))
    )
    data = {
        "kind": "words evaluate",
        "model": str(plan.model),
        "texts": len(texts),
        "words": int(ours.tokens.sum()),
        "bits_per_byte": ours.as_json(),
        "other": None if theirs is None else {"model": plan.against, **theirs.as_json()},
        "difference": None,
        "frequencies": frequency_rows(stored, scored),
        "sample": drawn_words(stored.coder, scored[0]),
        "settings": plan_settings(plan),
    }
    if theirs is not None and len(texts) > 1:
        difference = bits_difference(ours, theirs)
        data["difference"] = {
            **estimate_row(difference),
            "verdict": shown(difference.scaled(-1)),
        }
    return Result(f"{plan.model.name} on {plan.texts.name}", data, lay_out(data))


def _other(plan: Plan, texts: list[str], keeps_text: bool, progress: Progress) -> "TextLoss":
    from tokenry.architectures import score_texts, word_loss
    from tokenry.architectures.words import CODER_FILE
    from tokenry.core.text.bits_per_byte import text_loss
    from tokenry.models import load_tokenizer

    assert plan.against is not None
    folder = Path(plan.against)
    if any((place / CODER_FILE).is_file() for place in (folder, folder / "model")):
        other = load_word_model(plan.against, plan.hardware)
        if other.coder.splitter.keeps_text != keeps_text:
            raise UserError(
                f"{plan.model} and {plan.against} cut words in different ways, so they do not say the same text: train both with one "
                "--splitting."
            )
        scored = score_texts(
            other.model,
            other.coder,
            texts,
            other.max_words,
            plan.batch_size,
            lambda share: progress("scoring", share),
        )
        return word_loss(other.coder, texts, scored)
    if not keeps_text:
        raise UserError(
            f"{plan.model} was trained on words that have lost their spaces, and {plan.against} reads the text itself: compare one that was "
            "trained with --splitting lossless."
        )
    model = plan.hardware.load(plan.against)
    return text_loss(
        model,
        load_tokenizer(plan.against),
        texts,
        batch_size=plan.batch_size,
        progress=lambda share: progress("scoring", share),
    )


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out the measures, words by frequency, and a text coloured by word."""
    rows = [(model_title(data["model"]), _bits(data["bits_per_byte"]), data["bits_per_byte"]["tokens"])]
    other, difference = data["other"], data["difference"]
    lead = f"{_bits(data['bits_per_byte']):.3f} bits per byte on {plural(data['texts'], 'text')} of {data['words']:,} words."
    if other is not None:
        rows.append((model_title(other["model"]), _bits(other), other["tokens"]))
    if difference is not None:
        found = stored_estimate(difference)
        lead += (
            f" Against {model_title(other['model'])} the model {_SAID[difference['verdict']]} ({found:+.3f})."
        )
    table = Table(
        "", ("model", Column("bits", "per byte", ".3f"), Column("predicted", "words or tokens", ",d")), rows
    )
    words = Section(
        "Words", [frequency_table(data["frequencies"]), word_map("the first text", data["sample"])]
    )
    return [Text(lead, "lead"), table, words]


def _bits(measured: Mapping[str, Any]) -> Estimate:
    found = stored_estimate({**measured, "samples": measured["texts"]})
    return found if isinstance(found, Estimate) else Estimate(found or 0.0, float("nan"), 1)
