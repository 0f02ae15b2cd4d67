"""The weighings by the names under which the command line and run files know them.

`make_weighing("sstoken:balance=0.75,dropped_weight=0.1")` is `SSToken(balance=0.75, dropped_weight=0.1)`.
"""

from dataclasses import fields
from typing import Any, get_type_hints

from tokenry.core.descriptions import nearest, parse_description
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


def make_weighing(description: str, **defaults: Any) -> TokenWeighing:
    """Make a weighing from `name` or `name:option=value,...`; values are YAML.

    Args:
        description: what is asked for; its options come before `defaults`.
        **defaults: options; those that the weighing does not have are left out.

    Raises:
        UserError: an unknown weighing or option (the nearest is suggested), or a value of the wrong kind or out of range.
    """
    name, written = parse_description(description)
    kind = _find(name)
    known = get_type_hints(kind)
    options = {field.name for field in fields(kind)}
    given = {option: value for option, value in defaults.items() if option in options}
    for option, value in written.items():
        if option not in options:
            raise UserError(
                f"{name} has no option {option!r}{nearest(option, options)}; it has {', '.join(sorted(options))}."
            )
        what = f"{name}:{option}"
        given[option] = of_kind(known[option], parse_yaml(value, what), what)
    return kind(**given)


def _find(name: str) -> type[TokenWeighing]:
    if name not in WEIGHINGS:
        raise UserError(
            f"there is no weighing {name!r}{nearest(name, WEIGHINGS)}; there are {', '.join(WEIGHINGS)}."
        )
    return WEIGHINGS[name]
