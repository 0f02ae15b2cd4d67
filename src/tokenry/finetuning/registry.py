"""The weighings by the names under which the command line and run files know them.

`make_weighing("sstoken:balance=0.75,dropped_weight=0.1")` is `SSToken(balance=0.75, dropped_weight=0.1)`.
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, get_type_hints

from tokenry.core.errors import UserError
from tokenry.core.settings import of_kind, parse_yaml
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

# A comma inside brackets belongs to a list: sstoken:layers=[10,20],share=0.5
_COMMA = re.compile(r",(?![^\[]*\])")


def make_weighing(description: str, **defaults: Any) -> TokenWeighing:
    """Make a weighing from `name` or `name:option=value,...`; values are YAML.

    Args:
        description: what is asked for; its options come before `defaults`.
        **defaults: options; those that the weighing does not have are left out.

    Raises:
        UserError: an unknown weighing or option (the nearest is suggested), or a value of the wrong kind or out of range.
    """
    name, _, written = description.partition(":")
    kind = _find(name.strip())
    known = get_type_hints(kind)
    options = {field.name for field in fields(kind)}
    given = {option: value for option, value in defaults.items() if option in options}
    for part in filter(None, _COMMA.split(written)):
        option, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise UserError(f"{part!r} in {description!r} is not option=value.")
        if option not in options:
            raise UserError(
                f"{name} has no option {option!r}{nearest(option, options)}; it has {', '.join(sorted(options))}."
            )
        what = f"{name}:{option}"
        given[option] = of_kind(known[option], parse_yaml(value, what), what)
    return kind(**given)


def split_descriptions(written: str) -> list[str]:
    """Split `full,token-cleaning:dropped_weight=0.1,share=0.5` into descriptions: at the commas before names, not before options."""
    descriptions: list[str] = []
    for part in filter(None, (piece.strip() for piece in _COMMA.split(written))):
        if "=" in part and ":" not in part.partition("=")[0] and descriptions:
            descriptions[-1] += f",{part}"
        else:
            descriptions.append(part)
    return descriptions


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggest what may have been meant by an unknown name; empty when nothing comes near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _find(name: str) -> type[TokenWeighing]:
    if name not in WEIGHINGS:
        raise UserError(
            f"there is no weighing {name!r}{nearest(name, WEIGHINGS)}; there are {', '.join(WEIGHINGS)}."
        )
    return WEIGHINGS[name]
