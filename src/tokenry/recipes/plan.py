"""What `tokenry tune` is asked to do: one plain record, read from a YAML file and options, stored beside the results.

The stored plan is what a resumed run follows.
"""

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tokenry.core.errors import UserError

# The paper's hyper-parameters (ssToken, arXiv 2510.18250), for whoever brings own data.
PAPER_TRAINING: dict[str, Any] = {
    "learning_rate": 1e-4,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 12,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.03,
    "weight_decay": 0.0,
}
# Few samples and a small model: a high rate for three epochs, one micro-batch per step.
DEMO_TRAINING: dict[str, Any] = {
    "learning_rate": 1e-3,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 6,
    "gradient_accumulation_steps": 1,
    "lr_scheduler_type": "linear",
    "warmup_steps": 0.06,
    "weight_decay": 0.0,
}


class LoraPlan(BaseModel):
    """The adapter: rank, scaling and where it sits. `first_layer` leaves the layers below as they are."""

    model_config = ConfigDict(extra="forbid")

    rank: int = Field(64, gt=0)
    alpha: int = Field(16, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    first_layer: int = Field(0, ge=0)


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
        training: any argument of TRL's `SFTConfig`.
    """

    model_config = ConfigDict(extra="forbid")

    model: str = "embedded"
    data: str = "demo"
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
    demo_samples: int = Field(150, gt=1)
    seed: int = 42
    training: dict[str, Any] = Field(default_factory=lambda: dict(PAPER_TRAINING))


def make_plan(given: dict[str, Any], config: Path | None = None) -> TunePlan:
    """Make a plan: defaults (the demo's own for `demo`), then the file, then what was given.

    Raises:
        UserError: the file is not YAML, or a field is unknown or out of range.
    """
    written = read_config(config) if config else {}
    asked = {**written, **given}
    demo = asked.get("data", "demo") == "demo"
    defaults: dict[str, Any] = {"training": dict(DEMO_TRAINING if demo else PAPER_TRAINING)}
    if demo:
        defaults |= {
            "compare": ["full", "token-cleaning:dropped_weight=0.1"],
            "lora": {"rank": 16, "alpha": 32, "dropout": 0.0, "first_layer": 10},
            "max_length": 512,
        }
    for group in ("training", "lora"):
        if asked.get(group, True) is not None:
            asked[group] = {
                **defaults.get(group, {}),
                **(written.get(group) or {}),
                **(given.get(group) or {}),
            }
    try:
        return TunePlan.model_validate({**defaults, **asked})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{name or 'the plan'} is not right: {first['msg'].lower()} (fields: {', '.join(TunePlan.model_fields)})."
        ) from error


def read_config(path: Path) -> dict[str, Any]:
    """Read a run file.

    Raises:
        UserError: it is missing, is not YAML, or is not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"the run file {path} does not exist.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"the run file {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"the run file {path} must map names to values, such as `weighing: sstoken`.")
    return content


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """Turn `key=value` texts into plan fields: `lora.rank=8` and `answers=10` set the plan, all else is for `SFTConfig`.

    Raises:
        UserError: a text without `=`.
    """
    given: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"--set takes KEY=VALUE, such as learning_rate=1e-4, got {setting!r}.")
        parsed = _number(yaml.safe_load(value))
        group, _, field = key.partition(".")
        if field:
            given.setdefault(group, {})[field] = parsed
        elif key in TunePlan.model_fields:
            given[key] = parsed
        else:
            given.setdefault("training", {})[key] = parsed
    return given


def _number(value: Any) -> Any:
    """YAML reads `1e-4` as text: a number without a point is not one there."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
