"""An encoder pretrained by replaced-token detection, or by masked language modelling as its control."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenry.core.errors import UserError, require_at_least, require_fraction, require_share
from tokenry.core.io.files import require_folder_name, require_new
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, option, plan_settings
from tokenry.report.blocks import Block, Column, Findings, Section, Text
from tokenry.report.result import Result
from tokenry.report.writing import plural
from tokenry.verbs._corpus import held_out_texts, read_corpus
from tokenry.verbs._course_of_training import course_figures, course_table
from tokenry.verbs._environment import environment
from tokenry.verbs._step_training import StepTraining

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments

    from tokenry.verbs.pretrain._encoder import PretrainedEncoder

_FIGURES = {
    "generator_loss": Column("generator", "nats", ".3f"),
    "discriminator_loss": Column("encoder", "nats", ".4f"),
    "replaced": Column("replaced", "%", ".1f"),
    "auc": Column("AUC", format=".3f"),
    "recall": Column("found", "%", ".1f"),
}
_LOSS = {"loss": Column("loss", "nats", ".3f")}


@dataclass(frozen=True, kw_only=True)
class Plan(StepTraining):
    """Pretrain an encoder by replaced-token detection, from nothing or going on from a model; a stopped run can be resumed.

    Attributes:
        corpus: a text file (texts end at empty lines), or rows with `text` (JSONL, JSON, CSV, Parquet, a saved data set).
        encoder: an encoder that goes on, a folder or a hub name; or a configuration to begin from nothing, a JSON file or a folder without weights.
        tokenizer: folder or hub name of its tokenizer; by default the one in the folder of the encoder.
        generator_share: width of the generator, as a share of the encoder's.
        tie: what generator and encoder share; disentangled is that of DeBERTa-v3.
        mlm: pretrain by masked language modelling instead: the control.
        mask_prob: share of the tokens that are masked.
        disc_weight: weight of the encoder's loss against the generator's.
        batch_size: blocks of a step in each process.
        max_length: tokens of a block; longer texts are cut into several.
        learning_rate: highest learning rate; it falls to 0 in a straight line.
        warmup: share of the steps in which the learning rate rises.
        weight_decay: weight decay of matrices.
        bfloat16: compute in mixed precision.
        output: new folder for the encoder, result.json and report.html.
    """

    corpus: Path = argument()
    encoder: str = option(metavar="CONFIG|DIR")
    tokenizer: str | None = None
    generator_share: float = 0.25
    tie: Literal["embeddings", "none", "all", "disentangled"] = "embeddings"
    mlm: bool = False
    mask_prob: float = 0.15
    disc_weight: float = 50.0
    steps: int = 10_000
    batch_size: int = 32
    max_length: int = 128
    learning_rate: float = 5e-4
    warmup: float = 0.01
    weight_decay: float = 0.01
    bfloat16: bool = False
    output: Path = Path("runs/rtd")

    def __post_init__(self) -> None:
        require_folder_name(self.output, "the encoder")
        super().__post_init__()
        require_at_least(3, max_length=self.max_length)
        require_at_least(0, weight_decay=self.weight_decay)
        require_share(self.generator_share, "generator_share")
        require_fraction(self.warmup, "warmup")
        if not self.disc_weight > 0:
            raise UserError(f"disc_weight must be above 0, got {self.disc_weight}.")
        if not 0.0 < self.mask_prob < 1.0:
            raise UserError(f"mask_prob must be in (0, 1), got {self.mask_prob}.")


def run(plan: Plan, progress: Progress) -> Result:
    """Read, train or resume, measure, save."""
    require_new(plan.output / "encoder")
    device = plan.hardware.place()
    progress("reading the encoder and the texts", 0.0)
    found = _pretrained(plan, progress)
    data = {
        "kind": "pretrain rtd",
        "corpus": str(plan.corpus),
        "objective": "MLM" if plan.mlm else "RTD",
        **found,
        "settings": plan_settings(plan),
        "environment": environment(device),
    }
    return Result(f"{plan.encoder} pretrained by {data['objective']}", data, lay_out(data))


def _pretrained(plan: Plan, progress: Progress) -> dict[str, Any]:
    from tokenry.pretraining.sliding_window import SlidingWindow, has_sliding_windows
    from tokenry.verbs._stages import Stages
    from tokenry.verbs._training import logged_points, remove_checkpoints, save_parts, take_steps
    from tokenry.verbs.pretrain._encoder import load_encoder

    encoder = load_encoder(plan.encoder, plan.tokenizer, plan.seed)
    train, held_out, documents = _blocks(plan, encoder)
    trainer = (_mlm_trainer if plan.mlm else _rtd_trainer)(plan, encoder, train, _arguments(plan))
    if has_sliding_windows(trainer.model):
        SlidingWindow(trainer.model)
    stages = Stages(progress, [1.0])
    take_steps(plan, trainer, stages)
    stages.say("measuring")
    measured = trainer.evaluate(held_out)
    trained = trainer.model.base_model if plan.mlm else trainer.model.discriminator_only()
    generator = 0 if plan.mlm else sum(value.numel() for value in trainer.model.parameters())
    save_parts(plan.output / "encoder", trained, encoder.tokenizer)
    remove_checkpoints(plan.output / "checkpoints")
    parameters = trained.num_parameters()
    return {
        "is_new": encoder.is_new,
        "model_type": trained.config.model_type,
        "parameters": parameters,
        "beside": max(0, generator - parameters),
        "documents": documents,
        "blocks": [len(train), len(held_out)],
        "tokens": sum(map(len, train["input_ids"])),
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "curve": logged_points(trainer, ("loss", *_FIGURES)),
        "held_out_figures": {
            name: measured[f"eval_{name}"] for name in ("loss", *_FIGURES) if f"eval_{name}" in measured
        },
    }


def _blocks(plan: Plan, encoder: "PretrainedEncoder") -> "tuple[Dataset, Dataset, int]":
    """Training blocks, held-out blocks, and the number of texts."""
    from datasets import Dataset

    from tokenry.pretraining.documents import split_documents
    from tokenry.verbs.pretrain._encoder import longest_text

    longest = longest_text(encoder.model)
    if longest is not None and plan.max_length > longest:
        raise UserError(
            f"max_length is {plan.max_length}, and {plan.encoder} has positions for {longest} tokens: use at most {longest}."
        )
    texts = read_corpus(plan.corpus)
    tokenizer = encoder.tokenizer
    begin = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
    end = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    if begin is None or end is None:
        raise UserError(
            "the tokenizer has no tokens that begin and end a text ([CLS] and [SEP], or bos and eos): add them."
        )
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    is_held_out = held_out_texts(len(ids), plan.held_out, plan.corpus)
    parts = [
        split_documents(
            (row for row, out in zip(ids, is_held_out, strict=True) if out == held),
            plan.max_length,
            begin,
            end,
        )
        for held in (False, True)
    ]
    if not all(parts):
        raise UserError(f"{plan.corpus} gives no tokens with this tokenizer: check that it fits the texts.")
    train, held_out = (
        Dataset.from_dict({"input_ids": [block["ids"] for block in blocks]}) for blocks in parts
    )
    return train, held_out, len(ids)


def _rtd_trainer(
    plan: Plan, encoder: "PretrainedEncoder", train: "Dataset", arguments: "TrainingArguments"
) -> "Trainer":
    import torch
    from transformers import AutoModelForMaskedLM

    from tokenry.core.plans import values_for
    from tokenry.pretraining import (
        ReplacedTokenConfig,
        ReplacedTokenPretrainer,
        ReplacedTokenTrainer,
        generator_config,
    )

    config = ReplacedTokenConfig(**values_for(ReplacedTokenConfig, plan))
    with torch.random.fork_rng():
        torch.manual_seed(plan.seed)
        generator = AutoModelForMaskedLM.from_config(
            generator_config(encoder.model.config, plan.generator_share)
        )
        pair = ReplacedTokenPretrainer(generator, encoder.model, encoder.tokenizer, plan.tie, config)
    return ReplacedTokenTrainer(pair, arguments, train_dataset=train, processing_class=encoder.tokenizer)


def _mlm_trainer(
    plan: Plan, encoder: "PretrainedEncoder", train: "Dataset", arguments: "TrainingArguments"
) -> "Trainer":
    import torch
    from transformers import AutoModelForMaskedLM

    from tokenry.pretraining import MaskedTokenTrainer, ReplacedTokenConfig

    with torch.random.fork_rng():
        torch.manual_seed(plan.seed)
        model = AutoModelForMaskedLM.from_config(encoder.model.config)
    model.base_model.load_state_dict(encoder.model.state_dict(), strict=False)
    return MaskedTokenTrainer(
        model,
        arguments,
        train_dataset=train,
        processing_class=encoder.tokenizer,
        config=ReplacedTokenConfig(mask_prob=plan.mask_prob),
    )


def _arguments(plan: Plan) -> "TrainingArguments":
    from tokenry.verbs._training import step_arguments

    return step_arguments(
        plan,
        warmup_steps=round(plan.warmup * plan.steps),
        weight_decay=plan.weight_decay,
        bf16=plan.bfloat16,
    )


# --- layout --------------------------------------------------------------------------------------------------------------------------


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """What the encoder has learned, and the course of training."""
    curve, held_out = data["curve"], data["held_out_figures"]
    train, apart = data["blocks"]
    origin = "from nothing" if data["is_new"] else "going on from its weights"
    lead = (
        f"{plural(data['steps'], 'step')} of {data['objective']} on {plural(train, 'block')} of {plural(data['documents'], 'text')} "
        f"({data['tokens']:,} tokens), {origin}: {_learned(held_out)}"
    )
    blocks: list[Block] = [Text(lead, "lead")]
    blocks += [Text(warning, "warning") for warning in _warnings(data)]
    measured = {name for point in (*curve, held_out) for name in point}
    columns = {name: column for name, column in _FIGURES.items() if name in measured} or _LOSS
    table = course_table(curve, columns, (f"held out ({plural(apart, 'block')})", held_out))
    figures = [  # the losses of generator and encoder are of other sizes
        figure
        for name, column in columns.items()
        if column.unit == "nats"
        for figure in course_figures(f"Loss: {column.name}", curve, {name: column.name}, "nats per token")
    ]
    blocks.append(Section("Training", [table, *figures]))
    facts = [
        ("encoder", f"{data['model_type']}, {data['parameters']:,} parameters"),
        ("generator", f"{data['beside']:,} parameters beside the encoder's, not kept"),
        ("use", "AutoModel and AutoTokenizer load the folder encoder"),
    ]
    blocks.append(
        Section(
            "The encoder", [Findings([fact for fact in facts if data["beside"] or fact[0] != "generator"])]
        )
    )
    return blocks


def _learned(held_out: Mapping[str, Any]) -> str:
    if held_out.get("auc") is None:
        return f"the loss on held-out text is {held_out['loss']:.3f} nats."
    return (
        f"on held-out text the encoder ranks a replaced token above an original one in {held_out['auc']:.1%} of the pairs (AUC), and "
        f"{held_out['replaced']:.1%} of the tokens are replaced."
    )


def _warnings(data: Mapping[str, Any]) -> list[str]:
    """What a reader of the figures must know."""
    found = []
    if data["epochs"] and data["epochs"] > 40:
        found.append(
            f"Every text was read {data['epochs']:.0f} times: a larger corpus, or fewer steps, teaches more for the same compute."
        )
    if data["objective"] == "RTD" and data["held_out_figures"].get("replaced") == 0:
        found.append(
            "The generator guesses every masked token: nothing is replaced and nothing is learned; use a smaller --generator-share."
        )
    return found
