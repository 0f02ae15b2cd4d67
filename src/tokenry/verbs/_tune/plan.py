"""What `tokenry tune` is asked to do: one plain record, made of defaults, a YAML file and options, in this order.

The plan is stored beside the results, and a resumed run follows the stored one.
"""

from pathlib import Path
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from trl import SFTConfig

from tokenry.core.errors import UserError
from tokenry.core.io.descriptions import nearest
from tokenry.core.io.files import read_json
from tokenry.core.io.settings import of_kind, parse_yaml
from tokenry.models import EMBEDDED
from tokenry.verbs._chats import DEMO

# The paper's hyper-parameters (ssToken, arXiv 2510.18250), for whoever brings own data.
PAPER_TRAINING: dict[str, Any] = {
    "learning_rate": 1e-4,
    "per_device_train_batch_size": 4,
    "lr_scheduler_type": "linear",
    "weight_decay": 0.0,
}
# How long, for data in plenty: what is left open of it follows the data, see `tokenry.verbs._tune.training_length`.
PAPER_LENGTH: dict[str, Any] = {
    "num_train_epochs": 1,
    "gradient_accumulation_steps": 12,
    "warmup_steps": 0.03,
}
# Few samples and a small model: a high rate for three epochs, one micro-batch per step.
DEMO_TRAINING: dict[str, Any] = {
    "learning_rate": 1e-3,
    "per_device_train_batch_size": 6,
    "lr_scheduler_type": "linear",
    "weight_decay": 0.0,
}
DEMO_LENGTH: dict[str, Any] = {
    "num_train_epochs": 3,
    "gradient_accumulation_steps": 1,
    "warmup_steps": 0.06,
}
# What the plan itself says of training; said twice, it could be said differently.
_SAID_BY_PLAN = ("output_dir", "seed", "max_length", "resume_from_checkpoint")


class LoraPlan(BaseModel):
    """The adapter: rank, scaling and where it sits. `first_layer` leaves the layers below as they are."""

    model_config = ConfigDict(extra="forbid")

    rank: int = Field(default=64, gt=0)
    alpha: int = Field(default=16, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    first_layer: int = Field(default=0, ge=0)


class TunePlan(BaseModel):
    """A model, data, a weighing, the weighings it is compared with, and how to train.

    Attributes:
        model: `embedded`, a folder or a hub name.
        data: `demo`, a file, a folder or a hub name.
        held_out: data for evaluation; None sets a tenth of `data` aside.
        trusted: a few dozen clean samples: they make the reference model and are training data of every run.
        reference: path or name of a reference model, where there is no trusted set.
        weighing: the weighing asked for, `name` or `name:option=value,...`.
        compare: weighings trained beside it, on the same data with the same seed; the first is the control.
        share: share of the selecting weighings that do not say their own.
        balance: balance of ssToken, where it does not say its own.
        lora: the adapter; None trains all weights.
        dtype: of the model; None is bfloat16 where the hardware has it.
        answers: held-out items answered and verified, where the data carries verifiers.
        demo_samples: noisy training samples of `demo`.
        training: any argument of TRL's `SFTConfig`; what is left open of `default_length` follows the data.
    """

    model_config = ConfigDict(extra="forbid")

    model: str = EMBEDDED
    data: str = DEMO
    held_out: str | None = None
    trusted: str | None = None
    reference: str | None = None
    weighing: str = "sstoken"
    compare: list[str] = Field(default_factory=lambda: ["full"])
    share: float | None = None
    balance: float | None = None
    lora: LoraPlan | None = Field(default_factory=lambda: LoraPlan())
    dtype: str | None = None
    chat_template: str | None = None
    max_length: int = Field(2048, gt=1)
    too_long: str = "truncate"
    answers: int = Field(45, ge=0)
    demo_samples: int = Field(default=150, gt=1)
    seed: int = Field(42, ge=0, lt=2**32)
    training: dict[str, Any] = Field(default_factory=lambda: dict(PAPER_TRAINING))

    @property
    def default_length(self) -> dict[str, Any]:
        """Epochs, gradient accumulation and warm-up where the data are many."""
        return DEMO_LENGTH if self.data == DEMO else PAPER_LENGTH

    @property
    def training_said(self) -> dict[str, Any]:
        """The training arguments that are not defaults."""
        defaults = DEMO_TRAINING if self.data == DEMO else PAPER_TRAINING
        return {name: value for name, value in self.training.items() if defaults.get(name) != value}


def make_plan(options: dict[str, Any], config: Path | None = None) -> TunePlan:
    """Make a plan: defaults (the demo's own for `demo`), then the file, then `options`.

    Args:
        options: plan fields, `lora` and `training` as dicts of what differs.
        config: a YAML file with plan fields and arguments of `SFTConfig`.

    Raises:
        UserError: the file cannot be read, or a field is unknown or out of range.
    """
    asked = merge(read_config(config) if config else {}, options)
    plan = _validated(merge(_defaults(asked), asked))
    known = get_type_hints(SFTConfig)
    for name, value in plan.training.items():
        if name in _SAID_BY_PLAN:
            raise UserError(f"{name} is no training argument here: tokenry has an option of its own for it.")
        if name not in known:
            everything = [*known, *TunePlan.model_fields]
            raise UserError(
                f"there is no setting {name!r}{nearest(name, everything)}: settings are the options of `tokenry tune`, lora.rank "
                "and the like, and the arguments of TRL's SFTConfig."
            )
        plan.training[name] = of_kind(known[name], value, name)
    if plan.data == DEMO and (plan.trusted or plan.held_out):
        raise UserError(
            "the demo brings trusted and held-out samples of its own: leave --trusted and --held-out out, or name DATA of yours."
        )
    return plan


def stored_plan(path: Path) -> TunePlan:
    """Read the plan of a run.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return TunePlan.model_validate(read_json(path))
    except (ValidationError, UserError) as error:
        raise UserError(
            f"{path} is damaged, so the run cannot go on: choose another --output for a new one."
        ) from error


def resume_or_start(output: Path, options: dict[str, Any], config: Path | None, resume: bool) -> TunePlan:
    """Make the plan of a new run in `output`, or read the plan of the one to go on with.

    Args:
        output: folder of the results.
        options: as for `make_plan`.
        config: as for `make_plan`.
        resume: whether a run that is already there may go on.

    Raises:
        UserError: there is a run already and `resume` is not asked for, or it was made with other settings.
    """
    stored = output / "plan.json"
    if not stored.exists():
        return make_plan(options, config)
    if not resume:
        raise UserError(
            f"{output} already holds a run: go on with it by --resume, or choose another --output for a new one."
        )
    plan = stored_plan(stored)
    as_stored = plan.model_dump()
    asked = merge(read_config(config) if config else {}, options)
    for name, value in asked.items():
        there = as_stored.get(name)
        same = value.items() <= there.items() if isinstance(value, dict) and there else value == there
        if not same:
            raise UserError(
                f"the run in {output} was made with {name}={there!r}, not {value!r}: leave it out to go on, or choose "
                "another --output for a new run."
            )
    return plan


def read_config(path: Path) -> dict[str, Any]:
    """Read a run file: plan fields, and anything else as an argument of `SFTConfig`.

    Raises:
        UserError: it is missing, is not YAML, or is not a mapping.
    """
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"), f"the run file {path}")
    except (OSError, UnicodeDecodeError) as error:
        reason = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise UserError(f"the run file {path} cannot be read: {reason}.") from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UserError(f"the run file {path} must map names to values, such as `weighing: sstoken`.")
    return sorted_settings(content)


def parse_settings(written: list[str]) -> dict[str, Any]:
    """Turn `key=value` texts into plan fields.

    Raises:
        UserError: a text without `=`, or a value that is not YAML.
    """
    settings = {}
    for setting in written:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"--set takes KEY=VALUE, such as learning_rate=1e-4, got {setting!r}.")
        settings[key.strip()] = parse_yaml(value, f"--set {key}")
    return sorted_settings(settings)


def add_settings(options: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Add what `--set` says to what the options say.

    Raises:
        UserError: the same is said by both.
    """
    twice = sorted(options.keys() & settings.keys())
    if twice:
        raise UserError(f"{twice[0]} is set by an option and by --set: leave one of them out.")
    return {**options, **settings}


def sorted_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Sort settings: plan fields, `lora.rank` into its group, all else is an argument of `SFTConfig`."""
    plan: dict[str, Any] = {}
    for key, value in settings.items():
        group, dot, name = key.partition(".")
        if dot:
            plan = merge(plan, {group: {name: value}})
        elif key in TunePlan.model_fields:
            plan = merge(plan, {key: value})
        else:
            plan = merge(plan, {"training": {key: value}})
    return plan


def merge(settings: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Let `more` override `settings`; groups are merged name by name."""
    merged = dict(settings)
    for name, value in more.items():
        there = merged.get(name)
        both = isinstance(there, dict) and isinstance(value, dict)
        merged[name] = {**there, **value} if both else value  # type: ignore[dict-item]
    return merged


def _defaults(asked: dict[str, Any]) -> dict[str, Any]:
    if asked.get("data", DEMO) != DEMO:
        return {"training": PAPER_TRAINING}
    embedded = asked.get("model", EMBEDDED) == EMBEDDED
    return {
        "training": DEMO_TRAINING,
        "compare": ["full", "token-cleaning:dropped_weight=0.1"],
        "lora": {"rank": 16, "alpha": 32, "dropout": 0.0, "first_layer": 10 if embedded else 0},
        "max_length": 512,
    }


def _validated(settings: dict[str, Any]) -> TunePlan:
    try:
        return TunePlan.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{name} is not right: {first['msg'].lower()}, got {first['input']!r}.") from error
