"""The weighings of a race: a choice by what the data allow, and their cost in steps of plain fine-tuning.

All but the control begin with `begins` steps of plain fine-tuning, which are trained once for all of them. That is one epoch out of
three or more, else a quarter of the run: the history of `previous_epoch` needs a whole epoch, and a model that has seen the data once
tells noise better.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from tokenry.core.errors import UserError
from tokenry.core.io.descriptions import split_descriptions
from tokenry.finetuning import GivenWeights, MovingAverage, TokenWeighing
from tokenry.finetuning.weighing import make_weighing
from tokenry.verbs._tune.course import Entrant
from tokenry.verbs.tune import Plan

CONTROL, CHANCE = "full", "random"
FEWEST_SAMPLES = 40
REFERENCE_TRAINED = "training the reference model"

_WITH_REFERENCE = (
    "token-cleaning:dropped_weight=0.1",
    "token-cleaning:share=0.8,dropped_weight=0.1",
)
_ALONE = (
    "small-loss",
    "sstoken",
    "cross-fitted",
    "sstoken:attention=content,layers=deep,dropped_weight=0.1",
)
# A forward alone beside a step of training: measured with LoRA at equal lengths; backward through frozen weights is half a backward.
_FORWARD = 0.4
_PROBE = 0.05


@dataclass(frozen=True)
class Length:
    """How long is trained.

    Attributes:
        steps: optimisation steps of a full run.
        epochs: number of epochs in these steps.
    """

    steps: int
    epochs: float | int

    @property
    def begins(self) -> int:
        """The step until which all entries learn from all tokens."""
        return self.steps_in(1) if self.epochs >= 3 else self.steps // 4

    @property
    def decimals(self) -> int:
        """The decimals of a number of epochs that tell a tenth of a step."""
        return max(0, math.ceil(math.log10(10 * self.steps / self.epochs)))

    def steps_in(self, epochs: float | int) -> int:
        """The first step at which so many epochs are over."""
        return math.ceil(epochs * self.steps / self.epochs - 1e-9)


def default_candidates(length: Length, with_reference: bool, lora: bool) -> list[str]:
    """Descriptions of the weighings that the data allow, the most promising first: six with the control and chance."""
    # TokenCleaning at two shares needs the same passes: the second costs steps only.
    chosen = (_WITH_REFERENCE[0], *_ALONE[:2], _WITH_REFERENCE[1]) if with_reference else _ALONE
    live = lora and length.epochs < 2
    return [_with_live_history(name) if live else name for name in chosen] + [CHANCE]


def by_promise(descriptions: Iterable[str]) -> list[str]:
    """Candidates in an order of their own, the most promising first, so that it does not matter in which one they were named."""
    known = (*_WITH_REFERENCE, *_ALONE)
    return sorted(
        set(descriptions), key=lambda name: (known.index(name) if name in known else len(known), name)
    )


def _with_live_history(description: str) -> str:
    """Of a single epoch fewer tokens are scored if that is done when they are met."""
    name, colon, options = description.partition(":")
    if name != "sstoken" or "history" in options:
        return description
    return f"{name}{colon or ':'}{options}{',' if options else ''}history=adapter_off"


def make_entry(
    description: str, length: Length, reference_steps: float | int, **options: float | int
) -> tuple[Entrant, TokenWeighing]:
    """Make an entry of a race and its weighing, which begins as the control where it can.

    Args:
        description: `name:option=value,...`; a `warmup_epochs` that it names is kept.
        length: length of a full run.
        reference_steps: cost of training the reference model, in steps of the control.
        **options: options such as `share`, for weighings that select and do not set their own.
    """
    given = make_weighing(description)
    asked = options if given.share < 1 else {}
    # Half a step less, so that no rounding of epochs is met.
    warmup = (length.begins - 0.5) * length.epochs / length.steps
    weighing = make_weighing(description, **asked, warmup_epochs=round(warmup, length.decimals))
    if weighing.is_plain:
        raise UserError(f"{description} learns from all tokens, as the control does: it is no candidate.")
    from_last = weighing.history_source.from_last_epoch
    begins = 0
    if _begins_plain(weighing):
        begins = next(
            (step for step in range(length.steps) if weighing.selects(step * length.epochs / length.steps)),
            length.steps,
        )
    if begins >= length.steps:
        raise UserError(
            f"{description} would select nothing in {length.epochs:g} epochs: leave it out, or train for longer."
        )
    name = description.replace(":", " ") + (f" after step {begins}" if begins else "")
    a_pass = _FORWARD * length.steps / length.epochs
    ahead: dict[str, float | int] = {}
    needs = weighing.needs
    if "base_nll" in needs or ("history_nll" in needs and weighing.history_source.static_model == "base"):
        ahead["a pass of the model before training"] = a_pass
    if "reference_nll" in needs:
        ahead[f"a pass of {weighing.reference_model or 'the reference model'}"] = a_pass
    if needs_reference(weighing):
        ahead[REFERENCE_TRAINED] = reference_steps
    if "out_of_fold_nll" in needs:
        ahead["cross-fitting"] = weighing.cross_fit.epochs * length.steps / length.epochs + a_pass
    live = _FORWARD * (weighing.history_source.live and "history_nll" in needs and not from_last)
    step_cost = 1 + live + _PROBE * ("prompt_attention" in needs)
    return Entrant(name, step_cost, ahead, begins, always=description.partition(":")[0] == CHANCE), weighing


def _begins_plain(weighing: TokenWeighing) -> bool:
    """Whether its state is the control's as long as it selects nothing."""
    averaged = isinstance(weighing.history_source, MovingAverage)
    own = type(weighing).weigh is not TokenWeighing.weigh and not isinstance(weighing, GivenWeights)
    return not (averaged or own or weighing.learns_from_prompt or weighing.reduction != "token")


def needs_reference(weighing: TokenWeighing) -> bool:
    """Whether a weighing compares with a reference model that it does not name itself."""
    return "reference_nll" in weighing.needs and weighing.share < 1 and weighing.reference_model is None


def makes_reference(plan: Plan) -> bool:
    """Whether a race needs a reference model that is still to be made, if there are trusted samples to make it from."""
    named = split_descriptions(plan.candidates or "") or _WITH_REFERENCE
    return plan.reference is None and any(
        needs_reference(make_weighing(name)) for name in (*named, *plan.controls)
    )
