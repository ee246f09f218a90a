"""Recipes that have DRG and DSR as the authors' code has them, whatever ours have by default."""

from collections.abc import Mapping

from training.config.recipe import Recipe, laid_on, load_recipe, recipe_from_values
from training.studies.variants import AS_PUBLISHED


def published_recipe(name: str, changes: Mapping[str, object]) -> Recipe:
    """The recipe of that name with both terms as published, and with `changes` on top."""
    published = load_recipe(name, AS_PUBLISHED)
    return recipe_from_values(laid_on(published, changes), source="test")
