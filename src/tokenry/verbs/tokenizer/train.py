"""A byte-level tokenizer trained on text files: BPE, Unigram, SuperBPE or BoundlessBPE."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenry.core.errors import require_at_least
from tokenry.core.io.files import require_folder_name
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, option, plan_settings
from tokenry.report.blocks import Block, Column, Table, Text
from tokenry.report.result import Result

if TYPE_CHECKING:
    from tokenry.tokenization.training.settings import TrainingPlan


@dataclass(frozen=True)
class Plan:
    """Train a byte-level tokenizer that gives every text and every byte back.

    Attributes:
        algorithm: superbpe and boundless make tokens that span words.
        texts: text files in UTF-8, or folders of .txt files.
        vocab_size: size of the vocabulary, special tokens and the 256 bytes included; a small text gives fewer tokens.
        transition: superbpe: vocabulary after the first stage; by default 80 %.
        max_words: superbpe: largest number of words in a token.
        tau: boundless: share of its occurrences from which a part is deleted; above 1 for no deletions.
        special_tokens: a special token; the first has id 0; can be repeated.
        pattern: regular expression that cuts a text into words; by default letters stay together with their vowel signs.
        min_frequency: pairs seen less often are not merged (not for unigram).
        whole_files: take each file as one text, not each line.
        held_out: text to count instead of the training text; can be repeated.
        output: folder for the tokenizer, result.json and report.html.
    """

    algorithm: Literal["bpe", "unigram", "superbpe", "boundless"] = argument()
    texts: tuple[Path, ...] = argument(metavar="TEXT")
    vocab_size: int = 32768
    transition: int | None = None
    max_words: int = 4
    tau: float = 0.9
    special_tokens: tuple[str, ...] = option((), flag="--special", metavar="TOKEN")
    pattern: str | None = None
    min_frequency: int = 0
    whole_files: bool = False
    held_out: tuple[Path, ...] = option((), metavar="TEXT")
    output: Path = Path("runs/tokenizer")

    def __post_init__(self) -> None:
        require_at_least(0, min_frequency=self.min_frequency)
        require_at_least(1, max_words=self.max_words)
        require_folder_name(self.output, "the tokenizer")

    def training(self) -> "TrainingPlan":
        """The training that the options describe."""
        from tokenry.tokenization.training.settings import TrainingPlan

        given = {field.name: getattr(self, field.name, None) for field in fields(TrainingPlan)}
        return TrainingPlan(**{name: value for name, value in given.items() if value is not None})


def run(plan: Plan, progress: Progress) -> Result:
    """Train, count, save."""
    from tokenry.tokenization.tokenizer_files import TextLines, save_tokenizer, text_files
    from tokenry.tokenization.training.train_any import measure_training, train_any

    training = plan.training()
    read = TextLines(text_files(plan.texts), plan.whole_files)
    counted = TextLines(text_files(plan.held_out), plan.whole_files) if plan.held_out else read
    progress(f"training {plan.algorithm}", 0.0)
    tokenizer, seconds = train_any(training, read)
    progress("counting", 0.8)
    measured = measure_training(tokenizer, counted)
    progress("saving", 0.95)
    file = save_tokenizer(tokenizer, plan.output)
    data = {
        "kind": "tokenizer train",
        **measured,
        "algorithm": plan.algorithm,
        "asked_vocab_size": plan.vocab_size,
        "seconds": seconds,
        "file": str(file),
        "counted": "held-out text" if plan.held_out else "training text",
        "text_back": measured["text_back"].as_json(),
        "settings": plan_settings(plan) | {"pattern": training.pattern},
    }
    return Result(f"A tokenizer trained by {plan.algorithm}", data, lay_out(data))


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out the vocabulary, and what text costs with the tokenizer."""
    size, asked = data["vocab_size"], data["asked_vocab_size"]
    row = (
        data["counted"],
        *(data[name] for name in ("texts", "bytes", "tokens", "bytes_per_token", "superwords")),
        data["text_back"]["summary"],
    )
    columns = (
        "counted",
        "texts",
        "bytes",
        "tokens",
        Column("bytes", "per token", ".3f"),
        Column("tokens", "that span words", ",d"),
        "text back",
    )
    return [
        *(Text(warning, "warning") for warning in _warnings(data)),
        Table(
            f"{data['algorithm']}: {size:,} of {asked:,} tokens in {data['seconds']:.1f} s",
            columns,
            [row],
            notes=(f"The tokenizer is {data['file']}.",),
        ),
    ]


def _warnings(data: Mapping[str, Any]) -> list[str]:
    from tokenry.core.text.round_trip import RoundTrip

    size, asked = data["vocab_size"], data["asked_vocab_size"]
    warnings = RoundTrip.from_json(data["text_back"]).sentences("the tokenizer")
    if size < asked:
        warnings.append(f"the text is too small for {asked:,} tokens, so there are {size:,}.")
    return warnings
