"""The plan of `tokenry tune`: its options and the record of a run, made of defaults, a YAML file and options, in this order.

An option that is not typed is None until the plan is complete. The complete plan is stored beside the results, and a resumed run
follows the stored plan.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from tokenry.core.errors import UserError
from tokenry.core.io.descriptions import nearest
from tokenry.core.io.settings import of_kind, parse_yaml
from tokenry.verbs._chats import DEMO
from tokenry.verbs._lora import Lora
from tokenry.verbs._side_by_side import PLAN_FILE, SideBySide
from tokenry.verbs.tune import RECORDED, Plan

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
DEMO_TRAINING: dict[str, Any] = {**PAPER_TRAINING, "learning_rate": 1e-3, "per_device_train_batch_size": 6}
DEMO_LENGTH: dict[str, Any] = {
    "num_train_epochs": 3,
    "gradient_accumulation_steps": 1,
    "warmup_steps": 0.06,
}
AUTO = "auto"
"""The weighing that is found by a race."""
# What the plan itself says of training; said twice, it could be said differently.
_SAID_BY_PLAN = ("output_dir", "seed", "max_length", "resume_from_checkpoint")
_EMBEDDED = "embedded"


def said_by(plan: Plan) -> dict[str, Any]:
    """What the options say, as a run file says it."""
    said = {name: value for name, value in plan.settings.items() if value is not None}
    said |= {"lora": None} if plan.full_weights else {}
    more = parse_settings(list(plan.set_))
    if twice := sorted(said.keys() & more.keys()):
        raise UserError(f"{twice[0]} is set by an option and by --set: leave one of them out.")
    return said | more


def default_length(plan: Plan) -> dict[str, Any]:
    """Epochs, gradient accumulation and warm-up where the data are many."""
    return DEMO_LENGTH if plan.data == DEMO else PAPER_LENGTH


def training_said(plan: Plan) -> dict[str, Any]:
    """The training arguments that are not defaults."""
    defaults = DEMO_TRAINING if plan.data == DEMO else PAPER_TRAINING
    return {name: value for name, value in plan.training.items() if defaults.get(name) != value}


def make_plan(said: Mapping[str, Any], config: Path | None = None) -> Plan:
    """Make a complete plan: defaults (the demo's own for `demo`), then the file, then what is said.

    Args:
        said: recorded fields; `lora` and `training` as dicts of the values that differ.
        config: a YAML file with such fields and arguments of `SFTConfig`.
    """
    from trl import SFTConfig

    asked = merge(read_config(config) if config else {}, said)
    plan = validated(merge(_defaults(asked), asked))
    known = get_type_hints(SFTConfig)
    for name, value in plan.training.items():
        if name in _SAID_BY_PLAN:
            raise UserError(f"{name} is no training argument here: tokenry has an option of its own for it.")
        if name not in known:
            raise UserError(
                f"there is no setting {name!r}{nearest(name, [*known, *RECORDED])}: settings are the options of `tokenry tune`, lora.rank "
                "and the like, and the arguments of TRL's SFTConfig."
            )
        plan.training[name] = of_kind(known[name], value, name)
    if plan.candidates and plan.weighing != AUTO:
        raise UserError(
            f"candidates race under --weighing auto only, and {plan.weighing} was asked for: leave one of them out."
        )
    if plan.data == DEMO and (plan.trusted or plan.held_out):
        raise UserError(
            "the demo brings trusted and held-out samples of its own: leave --trusted and --held-out out, or name DATA of yours."
        )
    return plan


def stored_plan(path: Path) -> Plan:
    """Read the plan of a run."""

    def read(stored: dict[str, Any]) -> Plan:
        if not {"model", "data", "training"} <= stored.keys():
            raise UserError("it holds no plan")
        return validated(merge(_defaults(stored), stored))

    return SideBySide("tune", path.parent).read_plan(read)


def resume_or_start(plan: Plan) -> Plan:
    """Complete the plan of a new run, or read the plan of the one to go on with."""
    runs = SideBySide("tune", plan.output)
    if not runs.is_begun:
        return make_plan(said_by(plan), plan.config)
    runs.require_resume(plan.resume)
    begun = stored_plan(plan.output / PLAN_FILE)
    asked = merge(read_config(plan.config) if plan.config else {}, said_by(plan))
    runs.require_same(asked, begun.settings)
    return begun


def read_config(path: Path) -> dict[str, Any]:
    """Read a run file: recorded fields, and anything else as an argument of `SFTConfig`."""
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"), f"the run file {path}")
    except (OSError, UnicodeDecodeError) as error:
        reason = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise UserError(f"the run file {path} cannot be read: {reason}.") from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UserError(f"the run file {path} must map names to values, such as `weighing: sstoken`.")
    return sorted_settings(content)


def parse_settings(written: list[str]) -> dict[str, Any]:
    """Turn `key=value` texts into recorded fields."""
    settings = {}
    for written_setting in written:
        key, equals, value = written_setting.partition("=")
        if not equals:
            raise UserError(f"--set takes KEY=VALUE, such as learning_rate=1e-4, got {written_setting!r}.")
        settings[key.strip()] = parse_yaml(value, f"--set {key}")
    return sorted_settings(settings)


def sorted_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Sort settings: recorded fields, `lora.rank` into its group, all else is an argument of `SFTConfig`."""
    plan: dict[str, Any] = {}
    for key, value in settings.items():
        group, dot, name = key.partition(".")
        if dot:
            plan = merge(plan, {group: {name: value}})
        else:
            plan = merge(plan, {key: value} if key in RECORDED else {"training": {key: value}})
    return plan


def merge(settings: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Add settings to others, group by group."""
    merged = dict(settings)
    for name, value in more.items():
        there = merged.get(name)
        merged[name] = {**there, **value} if isinstance(there, dict) and isinstance(value, dict) else value
    return merged


def _defaults(asked: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {
        "model": _EMBEDDED,
        "data": DEMO,
        "weighing": AUTO,
        "seeds": 1,
        "too_long": "truncate",
        "answers": 45,
        "demo_samples": 150,
        "seed": 42,
    }
    if asked.get("data", DEMO) != DEMO:
        return defaults | {"compare": ["full"], "max_length": 2048, "lora": {}, "training": PAPER_TRAINING}
    embedded = asked.get("model", _EMBEDDED) == _EMBEDDED
    return defaults | {
        "training": DEMO_TRAINING,
        "compare": ["full", "sstoken"],
        "lora": {"rank": 16, "alpha": 32, "dropout": 0.0, "first_layer": 10 if embedded else 0},
        "max_length": 512,
    }


def validated(settings: Mapping[str, Any]) -> Plan:
    """A plan of settings as they are recorded."""
    for name in settings:
        if name not in RECORDED:
            raise UserError(f"there is no setting {name!r}{nearest(name, RECORDED)}.")
    of_lora = settings["lora"]
    if isinstance(of_lora, dict):
        for name in of_lora.keys() - {field.name for field in dataclasses.fields(Lora)}:
            raise UserError(f"lora.{name} is not right: there is no such setting of the adapter.")
    lists = {
        name: settings[name] for name in ("compare", "candidates") if isinstance(settings.get(name), list)
    }
    written = {name: ",".join(map(str, descriptions)) for name, descriptions in lists.items()}
    retain = settings.get("retain") or ()
    named = (retain,) if isinstance(retain, str) else tuple(retain)
    try:
        plan: Plan = TypeAdapter(Plan).validate_python({**settings, **written, "retain": named})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{name} is not right: {first['msg'].lower()}, got {first['input']!r}.") from error
    return plan
