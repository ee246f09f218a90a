"""Recipes in results of older versions: what they mean in the words of today."""

from collections.abc import Mapping
from typing import Any

from training.config.recipe import FEWEST_TO_SHARE


def recipe_of_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe of a result.json or of a line, in the words that its keys have now.

    A result that does not state `compiled` is from before `compile: auto`, when true meant that.
    A result that does not state `threshold_images` is from before thresholds, when all held out
    images chose. So `thresholds` was false, unless they were too few for it to change anything.
    """
    recipe: dict[str, Any] = dict(result["recipe"])
    if "compiled" not in result and recipe.get("compile") is True:
        recipe["compile"] = "auto"
    enough = result.get("validation_images", 0) >= FEWEST_TO_SHARE
    if enough and "threshold_images" not in result:
        recipe.setdefault("thresholds", False)
    return recipe
