"""One recipe per paper, found by the paper's slug and imported only when it is run.

The recipe of `number-tokens` is the module `tokenry.recipes.number_tokens` with a `RECIPE`: that the file exists
is its registration.
"""

import importlib
import pkgutil
from pathlib import Path

from tokenry.core.errors import UserError
from tokenry.recipes.recipe import Claim, Progress, Recipe, Reproduction, Scale, Verdict, verdict

__all__ = [
    "Claim",
    "Progress",
    "Recipe",
    "Reproduction",
    "Scale",
    "Verdict",
    "has_recipe",
    "load_recipe",
    "run_recipe",
    "verdict",
]


def has_recipe(slug: str) -> bool:
    """Tell whether the paper with this slug has a recipe; imports nothing."""
    return _module(slug) in {module.name for module in pkgutil.iter_modules(__path__)}


def load_recipe(slug: str) -> Recipe:
    """Import the recipe of one paper.

    Raises:
        UserError: the paper has no recipe yet.
    """
    if not has_recipe(slug):
        raise UserError(
            f"{slug!r} has no recipe yet: `tokenry reproduce --list` shows what can be reproduced."
        )
    recipe: Recipe = importlib.import_module(f"{__name__}.{_module(slug)}").RECIPE
    return recipe


def run_recipe(slug: str, scale: Scale, output: Path, progress: Progress) -> Reproduction:
    """Run the recipe of one paper and leave `result.json` beside its plots in `output`.

    Raises:
        UserError: there is no such recipe, or `output` cannot be a folder.
    """
    recipe = load_recipe(slug)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{output} cannot be a folder ({error.strerror}): choose another --output."
        ) from error
    reproduction = recipe.run(scale, output, progress)
    reproduction.save(output / "result.json")
    return reproduction


def _module(slug: str) -> str:
    return slug.replace("-", "_")
