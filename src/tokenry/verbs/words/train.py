"""A language model that reads and writes words, trained from nothing; or the flat baseline that reads its units one by one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.files import new_folder, require_new, write_json
from tokenry.core.io.progress import Progress
from tokenry.core.io.ranks import by_first
from tokenry.core.plans import argument, option, plan_settings
from tokenry.report.blocks import Block, Column, Findings, Section, Text
from tokenry.report.result import Result
from tokenry.report.writing import plural
from tokenry.verbs._corpus import held_out_texts, read_corpus
from tokenry.verbs._course_of_training import course_figures, course_table
from tokenry.verbs._environment import environment
from tokenry.verbs._estimates import stored_estimate
from tokenry.verbs._step_training import StepTraining
from tokenry.verbs.words._models import (
    COUNTS_FILE,
    MODEL_FOLDER,
    StoredWordModel,
    drawn_words,
    frequency_rows,
    frequency_table,
    word_map,
)

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from tokenry.architectures import FlatLM, Word, WordCoder, WordPooledLM


@dataclass(frozen=True, kw_only=True)
class Plan(StepTraining):
    """Train a word-pooled language model on a text, or with --flat its baseline; a stopped run can be resumed.

    Attributes:
        corpus: a text file (texts end at empty lines), or rows with `text` (JSONL, JSON, CSV, Parquet, a saved data set).
        units: what words are spelled in: bytes, characters, whole words (bytes where one is rare), or the folder or hub name of a tokenizer,
            for its subwords.
        splitting: lossless keeps the white space before a word; paper sets signs apart, and loses line breaks and some signs.
        flat: train the flat baseline instead: the same trunk over the units themselves.
        n_embd: width.
        n_layer: layers of the trunk.
        n_head: heads of the trunk.
        n_prefix: vectors of a word.
        n_word_layer: layers that pool a word, and blocks that spell it.
        n_word_head: their heads.
        max_words: words of a window.
        max_word_len: most units of a word; without loss, longer ones are cut into several.
        dropout: of everything.
        batch_size: windows of a step in each process.
        learning_rate: highest learning rate; it falls to 0 in a straight line.
        warmup: share of the steps in which the learning rate rises.
        weight_decay: weight decay of matrices.
        scored: held-out texts that are scored at most.
        bfloat16: compute in mixed precision.
    """

    corpus: Path = argument()
    units: str = option("bytes", metavar="bytes|characters|words|TOKENIZER")
    splitting: Literal["lossless", "paper"] = "lossless"
    flat: bool = False
    n_embd: int = 256
    n_layer: int = 4
    n_head: int = 4
    n_prefix: int = 4
    n_word_layer: int = 2
    n_word_head: int = 4
    max_words: int = 192
    max_word_len: int = 24
    dropout: float = 0.1
    steps: int = 5000
    batch_size: int = 8
    learning_rate: float = 5e-4
    warmup: float = 0.02
    weight_decay: float = 0.1
    scored: int = 100
    bfloat16: bool = False
    output: Path = Path("runs/words")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(2, max_words=self.max_words, scored=self.scored)
        require_at_least(1, max_word_len=self.max_word_len)
        require_at_least(0, weight_decay=self.weight_decay)
        if not 0.0 <= self.warmup < 1.0:
            raise UserError(f"warmup must be in [0, 1), got {self.warmup}.")


def run(plan: Plan, progress: Progress) -> Result:
    """Read, train or resume, measure, save."""
    require_new(plan.output / MODEL_FOLDER)
    device = plan.hardware.place()
    progress("reading the texts", 0.0)
    found = _trained(plan, progress)
    kind = "flat" if plan.flat else "word-pooled"
    data = {
        "kind": "words train",
        "corpus": str(plan.corpus),
        "model": kind,
        **found,
        "settings": plan_settings(plan),
        "environment": environment(device),
    }
    return Result(f"A {kind} model of {plan.corpus.name}", data, lay_out(data))


def _trained(plan: Plan, progress: Progress) -> dict[str, Any]:
    from transformers import Trainer

    from tokenry.architectures import collate_flat, collate_words, score_texts, word_loss
    from tokenry.verbs._stages import Stages
    from tokenry.verbs._training import logged_curve, remove_checkpoints, take_steps

    texts = read_corpus(plan.corpus)
    apart = held_out_texts(len(texts), plan.held_out, plan.corpus)
    train, held_out = (
        [text for text, out in zip(texts, apart, strict=True) if out == side] for side in (False, True)
    )
    held_out = held_out[: plan.scored]
    coder = _coder(plan, texts, train)
    spelled = [coder.words(text) for text in train]
    model = _model(plan, coder)
    collate: Any = partial(collate_flat, whole_words=model.config.whole_words) if plan.flat else collate_words
    windows = word_windows(spelled, coder.begin, plan.max_words)
    trainer = Trainer(
        model,
        _arguments(plan),
        train_dataset=[{"words": window} for window in windows],
        data_collator=lambda rows: collate([row["words"] for row in rows]),
    )
    stages = Stages(progress, [0.9, 0.1])
    take_steps(plan, trainer, stages, 0.9)
    stages.begin("measuring", 0.1)
    counts = _counts(coder, spelled)
    stored = StoredWordModel(model, coder, counts)
    scored = score_texts(model, coder, held_out, plan.max_words, plan.batch_size, stages.tell)
    _save(stored, plan.output / MODEL_FOLDER)
    remove_checkpoints(plan.output / "checkpoints")
    words = sum(map(len, spelled))
    return {
        "parameters": model.num_parameters(),
        "unit_kind": plan.units,
        "unit_count": coder.units.size,
        "texts": [len(train), len(held_out)],
        "words": words,
        "word_types": len(counts),
        "units_per_word": sum(len(word) for text in spelled for word in text) / words,
        "windows": len(windows),
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "curve": logged_curve(trainer, {"loss": "loss"}),
        "bits_per_byte": word_loss(coder, held_out, scored).as_json(),
        "frequencies": frequency_rows(stored, scored),
        "sample": drawn_words(coder, scored[0]),
    }


def word_windows(texts: "Sequence[Sequence[Word]]", begin: "Word", length: int) -> "list[list[Word]]":
    """Texts end to end, each behind the word that begins a text, cut into windows; one of a single word is dropped."""
    stream = [word for text in texts for word in (begin, *text)]
    windows = [stream[start : start + length] for start in range(0, len(stream), length)]
    return [window for window in windows if len(window) > 1]


def _coder(plan: Plan, texts: Sequence[str], train: Sequence[str]) -> "WordCoder":
    from tokenry.architectures import (
        ByteSpelling,
        CharacterSpelling,
        Spelling,
        SubwordSpelling,
        WholeWordSpelling,
        WordCoder,
        WordSplitter,
        lossless,
    )
    from tokenry.models import load_tokenizer

    splitter = lossless() if plan.splitting == "lossless" else WordSplitter()
    units: Spelling
    if plan.units == "bytes":
        units = ByteSpelling()
    elif plan.units == "characters":
        units = CharacterSpelling.of(word for text in texts for word in splitter.words(text))
    elif plan.units == "words":
        units = WholeWordSpelling.of(word for text in train for word in splitter.words(text))
    else:
        units = SubwordSpelling(load_tokenizer(plan.units))
    return WordCoder(units, splitter, plan.max_word_len)


def _model(plan: Plan, coder: "WordCoder") -> "WordPooledLM | FlatLM":
    import torch

    from tokenry.architectures import (
        FlatConfig,
        FlatLM,
        WholeWordSpelling,
        WordPooledConfig,
        WordPooledLM,
    )

    trunk: dict[str, Any] = {
        "vocab_size": coder.units.size,
        "n_embd": plan.n_embd,
        "n_layer": plan.n_layer,
        "n_head": plan.n_head,
        "dropout": plan.dropout,
    }
    with torch.random.fork_rng():
        torch.manual_seed(plan.seed)
        if plan.flat:
            whole = len(coder.units.vocabulary) if isinstance(coder.units, WholeWordSpelling) else 0
            return FlatLM(
                FlatConfig.over_words(plan.max_words, plan.max_word_len, whole_words=whole, **trunk)
            )
        return WordPooledLM(
            WordPooledConfig(
                **trunk,
                n_prefix=plan.n_prefix,
                n_word_layer=plan.n_word_layer,
                n_word_head=plan.n_word_head,
                max_words=plan.max_words,
                max_word_len=plan.max_word_len,
            )
        )


def _arguments(plan: Plan) -> "TrainingArguments":
    from tokenry.verbs._training import step_arguments

    return step_arguments(
        plan,
        warmup_steps=round(plan.warmup * plan.steps),
        weight_decay=plan.weight_decay,
        adam_beta2=0.95,
        bf16=plan.bfloat16,
        remove_unused_columns=False,
    )


def _counts(coder: "WordCoder", texts: "Sequence[Sequence[Word]]") -> dict[str, int]:
    from collections import Counter

    counted = Counter(word for text in texts for word in text)
    return {coder.units.decode(word): count for word, count in counted.items()}


@by_first
def _save(stored: StoredWordModel, output: Path) -> None:
    with new_folder(output) as folder:
        stored.model.save_pretrained(folder)
        stored.coder.save(folder)
        write_json(folder / COUNTS_FILE, dict(stored.counts))


# --- layout --------------------------------------------------------------------------------------------------------------------------


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """What the model has learned, its words, and the course of training."""
    train, held_out = data["texts"]
    bits = stored_estimate(data["bits_per_byte"])
    pooled = data["model"] == "word-pooled"
    lead = (
        f"{plural(data['steps'], 'step')} on {data['words']:,} words of {plural(train, 'text')}: {bits:.3f} bits per byte on "
        f"{plural(held_out, 'held-out text')}. A word has {data['units_per_word']:.1f} {_named(data['unit_kind'])} on average"
        + (", and the trunk reads it in one go." if pooled else ", and the trunk reads them one by one.")
    )
    blocks: list[Block] = [Text(lead, "lead")]
    if data["epochs"] and data["epochs"] > 20:
        blocks.append(
            Text(
                f"Every text was read {data['epochs']:.0f} times: a larger corpus, or fewer steps, teaches more.",
                "warning",
            )
        )
    blocks.append(
        Section(
            "Held-out words",
            [frequency_table(data["frequencies"]), word_map("the first held-out text", data["sample"])],
        )
    )
    table = course_table(data["curve"], {"loss": Column("loss", "nats per unit", ".3f")})
    figures = course_figures("Loss", data["curve"], {"loss": "loss"}, "nats per unit")
    blocks.append(Section("Training", [table, *figures]))
    facts = [
        ("model", f"{data['model']}, {data['parameters']:,} parameters, {data['unit_count']:,} units"),
        ("text", f"{data['word_types']:,} types of words, {plural(data['windows'], 'window')}"),
        ("use", "tokenry words evaluate and generate read the folder"),
    ]
    return [*blocks, Section("The model", [Findings(facts)])]


def _named(units: str) -> str:
    kinds = {"bytes": "bytes", "characters": "characters", "words": "words and bytes of rare ones"}
    return kinds.get(units, "subwords")
