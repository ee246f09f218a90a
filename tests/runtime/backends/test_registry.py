"""A backend is one record: whoever adds one sees it in `choose`, `doctor` and every message."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from numpy.typing import NDArray

from demo.look import wording
from runtime import BackendError, Session, Threads, UserError, open_classifier
from runtime.backends import registry
from runtime.backends.backend import Backend, Problem
from runtime.backends.choice import choose, options
from runtime.base.errors import EngineMismatchError
from runtime.model.bundle import Bundle, open_bundle
from runtime.model.card import EngineRecord, ModelFile


class ColourSession(Session):
    """What the toy network computes, in NumPy."""

    backend = "numpy"
    input_size, num_classes = 32, 3

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        scores = np.exp(8.0 * images.mean(axis=(1, 2)) / 255)
        return (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)

    def close(self) -> None:
        pass


class NumpyBackend(Backend):
    """A backend as somebody else would add it."""

    name = "numpy"
    title = "plain NumPy"
    precisions = ("fp32", "fp16")
    slow_precisions = frozenset({"fp16"})
    priority = 9
    missing: Problem | None = None

    def problem(self) -> Problem | None:
        return self.missing

    def open(
        self,
        content: bytes,
        *,
        source: str,
        record: ModelFile | EngineRecord | None,
        threads: Threads | None = None,
    ) -> Session:
        assert content
        assert record is not None
        return ColourSession()


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> NumpyBackend:
    """The one line of the registry."""
    backend = NumpyBackend()
    monkeypatch.setattr(registry, "BACKENDS", (*registry.BACKENDS, backend))
    return backend


def test_a_new_backend_is_chosen_by_its_priority(added: NumpyBackend, toy_bundle: Path) -> None:
    with open_classifier(toy_bundle) as classifier:
        assert (classifier.backend, classifier.precision) == ("numpy", "fp32")
        assert classifier.classify(toy_bundle / "examples" / "blue.png")[0].label == "blue"
        holdout = np.load(toy_bundle / "holdout.npz")
        found = classifier.probabilities(holdout["images"])
        np.testing.assert_allclose(found, holdout["probabilities"], atol=1e-6)
    with open_classifier(toy_bundle, backend="onnx-cpu") as classifier:
        assert classifier.backend == "onnx-cpu"
    found_options = [option for option in options(open_bundle(toy_bundle)) if option.is_worthwhile]
    assert [(option.backend, option.precision) for option in found_options][:2] == [
        ("numpy", "fp32"),  # not fp16, which is slow there
        ("onnx-cpu", "fp32"),
    ]


def test_a_new_backend_that_does_not_run_is_passed_over_with_its_reason(
    added: NumpyBackend, toy_bundle: Path
) -> None:
    added.missing = Problem("the moon is not full", "wait")
    with open_classifier(toy_bundle) as classifier:
        assert classifier.backend == "onnx-cpu"
        assert "numpy: the moon is not full;" in classifier.reason
    words = r"^numpy cannot run here: the moon is not full; to mend it: wait; see `python"
    with pytest.raises(BackendError, match=words):
        choose(open_bundle(toy_bundle), backend="numpy")


@pytest.mark.parametrize("backend", [None, "numpy"])
def test_another_precision_than_the_first_one_is_used_with_its_reason(
    added: NumpyBackend,
    toy_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    backend: str | None,
) -> None:
    """As where the fp16 engine is of another TensorRT, and the fp32 engine is not."""

    def mismatch(_: Bundle, record: ModelFile | EngineRecord) -> EngineMismatchError | None:
        return EngineMismatchError("it is old") if record.precision == "fp32" else None

    monkeypatch.setattr(added, "mismatch", mismatch)
    found = choose(open_bundle(toy_bundle), backend=backend)
    assert (found.option.backend, found.option.precision) == ("numpy", "fp16")
    assert "; fp32: it is old" in found.reason


def test_the_doctor_and_the_page_know_a_new_backend(
    added: NumpyBackend, cli: Callable[..., CompletedProcess[str]]
) -> None:
    assert "numpy          runs\n" in cli("doctor").stdout
    added.missing = Problem("the moon is not full", "wait")
    people = cli("doctor").stdout
    assert "numpy          does not run: the moon is not full\n" in people
    assert "to mend it: wait\n" in people
    states = json.loads(cli("doctor", "--json").stdout)["backends"]
    assert states[-1] == {
        "backend": "numpy",
        "runs": False,
        "reason": "the moon is not full",
        "remedy": "wait",
    }
    assert wording.backend("numpy") == "plain NumPy"
    assert "onnx-cpu, onnx-cuda, tensorrt, tensorrt-rtx, numpy" in cli("classify", "--help").stdout


def test_an_unknown_backend_is_refused_with_the_names_of_all(
    added: NumpyBackend, toy_bundle: Path
) -> None:
    words = (
        "unknown backend 'cpu'; choose one of onnx-cpu, onnx-cuda, tensorrt, tensorrt-rtx, numpy"
    )
    for model in (toy_bundle, toy_bundle / "model.onnx"):
        with pytest.raises(UserError, match=words):
            open_classifier(model, backend="cpu")


def test_every_backend_says_what_it_is() -> None:
    priorities = {backend.priority for backend in registry.BACKENDS}
    assert len(priorities) == len(registry.BACKENDS), "which one is used must be clear"
    for backend in registry.BACKENDS:
        assert registry.backend_named(backend.name) is backend
        assert backend.title
        assert backend.slow_precisions < set(backend.precisions)
