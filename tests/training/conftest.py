"""A tiny data set and a tiny recipe, so that real training takes a second."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from runtime.card import InputSpec
from training.data import Dataset
from training.plan import Plan, Terms
from training.recipe import Recipe, recipe_from_values

TINY = {
    "epochs": 2,
    "batch_size": 8,
    "optimizer": "sgd",
    "learning_rate": 0.05,
    "padding": 1,
    "validation_fraction": 0.25,
}
SIZE = 16
CLASSES = ("dark", "bright", "striped")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_data() -> Dataset:
    """Noise around three patterns: 48 training and 21 test images of 16 px."""
    generator = np.random.default_rng(0)
    patterns = np.zeros((3, SIZE, SIZE, 3))
    patterns[0], patterns[1], patterns[2, ::2] = 60, 190, 240

    def images(labels: np.ndarray) -> np.ndarray:
        noise = generator.normal(scale=30, size=(len(labels), SIZE, SIZE, 3))
        return np.clip(patterns[labels] + noise, 0, 255).astype(np.uint8)

    train, test = np.arange(48) % 3, np.arange(21) % 3
    half = (0.5, 0.5, 0.5)
    return Dataset(
        name="tiny",
        class_names=CLASSES,
        input=InputSpec(size=SIZE, resize=SIZE, crop=SIZE, mean=half, std=half),
        train_images=images(train),
        train_labels=train,
        test_images=images(test),
        test_labels=test,
    )


MakePlan = Callable[..., Plan]


@pytest.fixture(scope="session")
def make_plan(tiny_data: Dataset) -> MakePlan:
    def make(
        terms: Terms = "drg+dsr", arch: str = "mobilenetv2", seed: int = 0, **recipe: object
    ) -> Plan:
        return Plan(
            arch=arch,
            width=0.25 if arch == "mobilenetv2" else 0.5,
            terms=terms,
            data=tiny_data.name,
            data_argument=tiny_data.name,
            data_root=None,
            class_names=tiny_data.class_names,
            input=tiny_data.input,
            seed=seed,
            weights="random",
            recipe=tiny_recipe(**recipe),
        )

    return make


def tiny_recipe(**changes: object) -> Recipe:
    return recipe_from_values({**TINY, **changes}, source="test")
