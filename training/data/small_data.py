"""The batch size of a default recipe where the data set is smaller."""

from collections.abc import Callable

import msgspec

from training.config.recipe import Recipe
from training.data import Dataset
from training.data.validation_split import split_validation


def fit_batch(
    recipe: Recipe, dataset: Dataset, *, say: Callable[[str], None], processes: int = 1
) -> Recipe:
    """The recipe with a batch size that the training images can fill; says if that is another."""
    train_rows, _ = split_validation(dataset.train_labels, recipe.validation_fraction)
    most = max(2, len(train_rows) // processes)
    if recipe.batch_size <= most:
        return recipe
    say(
        f"batch size {most}: there are {len(train_rows)} training images, "
        f"fewer than the {recipe.batch_size} of the recipe"
    )
    return msgspec.structs.replace(recipe, batch_size=most)
