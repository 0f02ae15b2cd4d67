"""What a recipe is made of: an experiment that yields claims, judged claims, a figure, and the one training loop of small models."""

from tokenry.recipes.kit.claims import MOST_CLAIMS, Claim, Reproduction
from tokenry.recipes.kit.fit import batches_of_epochs, constant, cosine, fit, linear, one_cycle
from tokenry.recipes.kit.recipe import Recipe, RecipeRun, recipe

__all__ = [
    "MOST_CLAIMS",
    "Claim",
    "Recipe",
    "RecipeRun",
    "Reproduction",
    "batches_of_epochs",
    "constant",
    "cosine",
    "fit",
    "linear",
    "one_cycle",
    "recipe",
]
