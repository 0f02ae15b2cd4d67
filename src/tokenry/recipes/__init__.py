"""One recipe per paper, found by the paper's slug and imported only when it is run.

The recipe of `number-tokens` is `reproduce` in the module `tokenry.recipes.number_tokens`: that the file exists is its registration.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenry.core.errors import UserError
from tokenry.core.io.progress import Progress
from tokenry.papers import Scale, has_recipe, recipe_module

if TYPE_CHECKING:
    from tokenry.recipes.kit import Claim, Recipe, Reproduction, recipe

__all__ = [
    "Claim",
    "Progress",
    "Recipe",
    "Reproduction",
    "Scale",
    "has_recipe",
    "load_recipe",
    "recipe",
    "run_recipe",
]

_OF_THE_KIT = ("Claim", "Recipe", "Reproduction", "recipe")


def __getattr__(name: str) -> Any:
    # The kit needs torch, which what only asks for the names of recipes does not.
    if name in _OF_THE_KIT:
        return getattr(importlib.import_module(f"{__name__}.kit"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_recipe(slug: str) -> "Recipe":
    """Import the recipe of one paper."""
    if not has_recipe(slug):
        raise UserError(
            f"{slug!r} has no recipe yet: `tokenry reproduce --list` shows what can be reproduced."
        )
    found: Recipe = importlib.import_module(f"{__name__}.{recipe_module(slug)}").reproduce
    return found


def run_recipe(
    slug: str, scale: Scale, output: Path, progress: Progress, data: Path | None = None
) -> "Reproduction":
    """Run the recipe of one paper and leave `result.json` beside its plots in `output`."""
    recipe = load_recipe(slug)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{output} cannot be a folder ({error.strerror}): choose another --output."
        ) from error
    reproduction = recipe.run(scale, output, progress, data)
    reproduction.save(output / "result.json")
    return reproduction
