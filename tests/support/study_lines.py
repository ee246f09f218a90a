"""Made up lines of studies, with records of test images; and the cells of a Markdown table."""

import msgspec
import numpy as np

from training.config.recipe import load_recipe
from training.evaluation.confidence import image_record
from training.studies.result_lines import Line
from training.studies.variants import KNOWN_METHODS

IMAGES = 400


def line(method: str, seed: int, accuracy: float, **others: object) -> Line:
    """A line whose run is right on the first `accuracy` of the images, all as sure as one other."""
    known = KNOWN_METHODS[method]
    recipe = known.recipe_on(load_recipe("digits", {"epochs": 2}))
    labels = np.zeros(IMAGES, np.int64)
    logits = np.zeros((IMAGES, 2), np.float32)
    logits[:, 1] = np.where(np.arange(IMAGES) < round(accuracy * IMAGES), -1, 1)
    return {
        "data": "digits",
        "arch": "mobilenetv2",
        "width": 0.5,
        "image_size": 16,
        "epochs": 2,
        "method": method,
        "terms": known.terms,
        "seed": seed,
        "test_images": IMAGES,
        "recipe": msgspec.to_builtins(recipe),
        "images": image_record(logits, labels, temperature=1.0),
        **others,
    }


def cells(table: str | None) -> list[list[str]]:
    assert table is not None
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]
