"""A tiny data set and a tiny recipe, so that real training takes a second."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from runtime.model.card import InputSpec
from training.config.method_registry import chosen_methods, terms_of_word
from training.config.plan import Plan
from training.config.recipe import Recipe, recipe_from_values
from training.data import Dataset
from training.data.batches import Batch

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


@pytest.fixture(autouse=True)
def hangups_count() -> Iterator[None]:
    """`nohup make test` has them ignored, and what a test starts would inherit that."""
    former = signal.getsignal(signal.SIGHUP)
    if former is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, former)


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
        terms: str = "drg+dsr", arch: str = "mobilenetv2", seed: int = 0, **recipe: object
    ) -> Plan:
        own = tiny_recipe(**recipe)
        return Plan(
            arch=arch,
            width={"mobilenetv2": 0.25, "shufflenetv2": 0.5}.get(arch, 1.0),
            methods=chosen_methods(terms_of_word(terms), peer=own.peer),
            data=tiny_data.name,
            data_argument=tiny_data.name,
            data_root=None,
            class_names=tiny_data.class_names,
            input=tiny_data.input,
            seed=seed,
            weights="random",
            recipe=own,
        )

    return make


@pytest.fixture(scope="session")
def first_batch() -> Callable[[Dataset, int], Batch]:
    """The first training images as a stored batch."""

    def make(dataset: Dataset, count: int) -> Batch:
        images, labels = dataset.train_images[:count], dataset.train_labels[:count]
        return Batch(torch.from_numpy(images), torch.from_numpy(labels), torch.arange(count), None)

    return make


def tiny_recipe(**changes: object) -> Recipe:
    return recipe_from_values({**TINY, **changes}, source="test")


@pytest.fixture(scope="session")
def tiny_folder(tiny_data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny data as a folder of arrays, for `--data`."""
    folder = tmp_path_factory.mktemp("data") / "tiny"
    folder.mkdir()
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        np.save(folder / f"{name}.npy", getattr(tiny_data, name))
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    return folder


@pytest.fixture(scope="session")
def tiny_recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "tiny.yaml"
    path.write_text("\n".join(f"{key}: {value}" for key, value in TINY.items()))
    return path


@pytest.fixture
def tiny_options(tiny_folder: Path, tiny_recipe_file: Path) -> list[str]:
    """The command line of a run that takes a second."""
    return [
        *("--arch", "mobilenetv2", "--width", "0.25", "--drg", "--dsr", "--device", "cpu"),
        *("--data", str(tiny_folder), "--recipe", str(tiny_recipe_file)),
    ]


@pytest.fixture
def assert_equal_trees() -> Callable[[object, object], None]:
    """Asserts bit-equal tensors and equal plain values in nested lists and dicts, but for times."""
    return _assert_equal_trees


def _assert_equal_trees(first: object, second: object, where: str = "") -> None:
    assert type(first) is type(second), where
    if isinstance(first, Tensor):
        assert torch.equal(first, second), where  # type: ignore[arg-type]
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where  # type: ignore[attr-defined]
        for key in first.keys() - {"seconds", "images_per_second", "data_wait_share"}:
            _assert_equal_trees(first[key], second[key], f"{where}.{key}")  # type: ignore[index]
    elif isinstance(first, list):
        assert len(first) == len(second), where  # type: ignore[arg-type]
        for index, pair in enumerate(zip(first, second, strict=True)):  # type: ignore[call-overload]
            _assert_equal_trees(*pair, f"{where}[{index}]")
    else:
        assert first == second, where
