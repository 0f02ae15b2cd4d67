"""Fine-tune a language model on the tokens that matter, train the controls beside it, and report the results."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, TypeVar

from pydantic import Field

from tokenry.core.errors import UserError
from tokenry.core.io.descriptions import split_descriptions
from tokenry.core.io.files import require_new
from tokenry.core.io.progress import Progress
from tokenry.core.io.ranks import by_first
from tokenry.core.plans import argument, option, setting
from tokenry.report.result import Result
from tokenry.report.tables import tables_as_csv
from tokenry.verbs._lora import Lora
from tokenry.verbs._models import model_title
from tokenry.verbs._side_by_side import SideBySide, folder_name
from tokenry.verbs._tune.layout import lay_out

__all__ = ["Lora", "Plan", "lay_out", "run"]

if TYPE_CHECKING:
    _Value = TypeVar("_Value")
    Open = Annotated[_Value, "None until the plan is complete"]
else:
    Open = Optional


@dataclass(frozen=True)
class Plan:
    """Fine-tune a language model on the tokens that matter, beside plain fine-tuning, and say which was better.

    Attributes:
        model: `embedded` (default), a folder, or a hub name.
        data: `demo` (default), a JSONL, JSON, CSV or Parquet file, a folder, or a hub name.
        weighing: `auto` (default) races several; or name one: `sstoken`, `small-loss`, … or NAME:option=value,….
        candidates: weighings that race under `auto`, such as sstoken,small-loss; by default six that the data allow.
        compare: weighings trained beside it, such as full,random; the first is the control that all others are compared with.
        share: share of the response tokens to learn from.
        balance: weight of ssToken's loss signal against its attention, in [0, 1].
        held_out: data for evaluation; by default a tenth is set aside.
        trusted: a few dozen clean samples: they train the reference model and the runs; a race sets a third of them aside for judging.
        retain: data to measure forgetting on, never trained on; can be repeated; by default Python's own documentation.
        reference: a reference model, if there is no trusted set.
        full_weights: train all weights, without LoRA.
        quantize: train LoRA on a base in `4bit` (bitsandbytes; CUDA only).
        device: where to train, such as cpu, cuda or mps; by default an accelerator if there is one.
        dtype: data type of the weights: float32, bfloat16 or float16; by default bfloat16 where the hardware computes in it, else float32.
        chat_template: `open-instruct`, or a jinja file; by default the tokenizer's own.
        max_length: maximum number of tokens per sample; by default 2048, for the demo 512.
        too_long: handling of longer samples: truncate (default), drop or error.
        seed: random seed of data, adapter and order; by default 42.
        seeds: number of seeds for the control and the weighing asked for, or the winner of the race; by default 1.
        config: YAML file with any of these and training arguments; the command line overrides it.
        set_: an argument of TRL's SFTConfig, or lora.rank and the like; can be repeated.
        output: folder for result.json, report.html and the trained models.
        merge: new folder for the model of the winner, or of the weighing asked for, with its adapter merged: loads without PEFT.
        resume: resume the run in --output if one exists.
        dry_run: print the plan (steps, tokens, estimated time and memory, files), and train nothing.
        lora: the adapter; None trains all weights.
        answers: number of held-out items to answer and verify, if the data has verifiers.
        demo_samples: noisy training samples of `demo`.
        training: arguments of TRL's `SFTConfig`; those of `default_length` that are not set follow the data.
    """

    model: Open[str] = argument(None)
    data: Open[str] = argument(None)
    weighing: Open[str] = option(None)
    candidates: str | None = None
    compare: Open[str] = option(None)
    share: float | None = None
    balance: float | None = None
    held_out: str | None = None
    trusted: str | None = None
    retain: tuple[str, ...] = option((), metavar="FILE")
    reference: str | None = None
    full_weights: bool = False
    quantize: Literal["4bit"] | None = None
    device: str | None = None
    dtype: str | None = None
    chat_template: str | None = None
    max_length: Open[Annotated[int, Field(gt=1)]] = option(None)
    too_long: Open[str] = option(None)
    seed: Open[Annotated[int, Field(ge=0, lt=2**32)]] = option(None)
    seeds: Open[Annotated[int, Field(ge=1)]] = option(None)
    config: Path | None = option(None, metavar="FILE")
    set_: tuple[str, ...] = option((), metavar="KEY=VALUE")
    output: Path = Path("runs/tune")
    merge: Path | None = option(None, metavar="FOLDER")
    resume: bool = False
    dry_run: bool = False
    lora: Lora | None = setting(None)
    answers: Open[Annotated[int, Field(ge=0)]] = setting(None)
    demo_samples: Open[Annotated[int, Field(gt=1)]] = setting(None)
    training: Open[dict[str, Any]] = setting(None)

    def __post_init__(self) -> None:
        if self.output.suffix == ".json":
            raise UserError(
                f"--output must name a folder, in which every run keeps its model, got {self.output}."
            )
        if self.merge and self.full_weights:
            raise UserError(
                "--merge is for adapters, and --full-weights trains none: the models in --output load as they are."
            )
        if self.quantize and self.full_weights:
            raise UserError(
                f"--quantize {self.quantize} is for adapters, and --full-weights trains none: leave one of them out."
            )

    @property
    def settings(self) -> dict[str, Any]:
        """What is recorded of the run, as JSON knows it."""
        recorded = {name: getattr(self, name) for name in RECORDED}
        return recorded | {
            "compare": None if self.compare is None else self.controls,
            "candidates": self.candidates and split_descriptions(self.candidates),
            "retain": list(self.retain) or None,
            "lora": self.lora and dataclasses.asdict(self.lora),
        }

    @property
    def controls(self) -> list[str]:
        """The weighings that are trained beside the one asked for."""
        return split_descriptions(self.compare)


_UNRECORDED = {"full_weights", "config", "set_", "output", "merge", "resume", "dry_run"}
RECORDED = [field.name for field in dataclasses.fields(Plan) if field.name not in _UNRECORDED]


def run(plan: Plan, progress: Progress) -> Result:
    """Train and measure every weighing, or go on with that; a finished run is read.

    Raises:
        UserError: something in the plan, the data or the model cannot work; said before training begins.
        Interrupted: the user stopped it; what was finished is kept.
    """
    from tokenry.models import save_merged
    from tokenry.verbs._tune.comparison import compare
    from tokenry.verbs._tune.plan import resume_or_start

    SideBySide("tune", plan.output).require_own()
    if plan.merge:
        require_new(plan.merge)
    if plan.dry_run:
        return _dry_run(plan, progress)
    comparison = compare(resume_or_start(plan), plan.output, progress)
    if plan.merge:
        by_first(save_merged)(plan.output / folder_name(comparison.chosen) / "model", plan.merge)
    data = comparison.model_dump(mode="json")
    blocks = lay_out(data)
    title = f"{model_title(comparison.model)} on {comparison.data}"
    return Result(title, data, blocks, files=tables_as_csv(blocks))


def _dry_run(plan: Plan, progress: Progress) -> Result:
    """What `run` would do, after everything that it would refuse was refused."""
    from tokenry.verbs._tune.comparison import assemble
    from tokenry.verbs._tune.forecast import forecast, lay_out_forecast
    from tokenry.verbs._tune.plan import make_plan, said_by

    bench, course = assemble(make_plan(said_by(plan), plan.config), plan.output, progress)
    bench.rehearse()
    found = forecast(bench, course)
    data = {"kind": "tune", "dry_run": True, "settings": bench.plan.settings, **found}
    return Result(
        f"Plan of {model_title(bench.plan.model)} on {bench.plan.data}", data, lay_out_forecast(found)
    )
