"""The weighings by the names under which the command line and run files know them.

`make_weighing("sstoken:balance=0.75,dropped_weight=0.1")` is `SSToken(balance=0.75, dropped_weight=0.1)`.
"""

import difflib
from dataclasses import fields
from typing import Any

import yaml

from tokenry.core.errors import UserError
from tokenry.finetuning.all_tokens import AllTokens
from tokenry.finetuning.dataset_weights import DatasetWeights
from tokenry.finetuning.prompt_response import PromptResponseWeights
from tokenry.finetuning.random_tokens import RandomTokens
from tokenry.finetuning.rho1 import Rho1
from tokenry.finetuning.small_loss import SmallLoss
from tokenry.finetuning.sstoken import SSToken
from tokenry.finetuning.token_cleaning import TokenCleaning
from tokenry.finetuning.weighing import TokenWeighing

WEIGHINGS: dict[str, type[TokenWeighing]] = {
    "full": AllTokens,
    "random": RandomTokens,
    "sstoken": SSToken,
    "rho1": Rho1,
    "token-cleaning": TokenCleaning,
    "small-loss": SmallLoss,
    "dataset-weights": DatasetWeights,
    "prompt-response-weights": PromptResponseWeights,
}


def weighing_options(name: str) -> frozenset[str]:
    """Name the options of a weighing.

    Raises:
        UserError: there is no such weighing; the nearest name is suggested.
    """
    return frozenset(field.name for field in fields(_find(name)))


def make_weighing(description: str, **options: Any) -> TokenWeighing:
    """Make a weighing from `name` or `name:option=value,...`; `options` are defaults that the description overrides.

    Raises:
        UserError: an unknown weighing or option (the nearest is suggested), or a value out of range.
    """
    name, _, written = description.partition(":")
    kind = _find(name)
    given = dict(options)
    for part in filter(None, written.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise UserError(f"{part!r} in {description!r} is not option=value.")
        given[key.strip()] = yaml.safe_load(value)
    known = weighing_options(name)
    for key in given:
        if key not in known:
            raise UserError(
                f"{name} has no option {key!r}{_nearest(key, known)}; it has {', '.join(sorted(known))}."
            )
    return kind(**given)


def _find(name: str) -> type[TokenWeighing]:
    if name not in WEIGHINGS:
        raise UserError(
            f"there is no weighing {name!r}{_nearest(name, WEIGHINGS)}; there are {', '.join(WEIGHINGS)}."
        )
    return WEIGHINGS[name]


def _nearest(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""
