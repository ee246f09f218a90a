"""Which images calibrate int8, and which calibration is kept."""

import numpy as np
import onnx_ir as ir
import pytest

from export.graphs.to_int8 import CalibrationData, Int8Exporter, draw_rows
from export.graphs.to_onnx import ExportedGraph


@pytest.mark.parametrize("count", [1, 2, 40, 1295, 50_000])
def test_images_to_observe_and_to_choose_by_are_disjoint(count: int) -> None:
    observed, others = draw_rows(count)
    assert not set(observed) & set(others)
    assert 1 <= len(observed) <= 512
    assert len(others) <= 512
    assert len(observed) + len(others) == min(count, 1024)


def test_auto_keeps_the_method_that_measures_best(
    small_graph: ExportedGraph, images: np.ndarray
) -> None:
    """The first answers are wrong ten times, the third are right but far from float32."""
    labels = np.arange(len(images)) % 5
    exact = np.eye(5, dtype=np.float32)[labels]
    wrong = exact.copy()
    wrong[:10] = np.roll(exact[:10], 1, axis=1)
    candidates: list[ir.Model] = []
    data = CalibrationData(images, images, labels)

    def scripted(model: ir.Model, _images: np.ndarray) -> np.ndarray:
        if model is small_graph.model:
            return exact
        candidates.append(model)
        return (wrong, exact, 0.9 * exact + 0.02)[len(candidates) - 1]

    quantized = Int8Exporter(small_graph.model, data, scripted).quantize("int8-cpu", "auto")
    assert quantized.model is candidates[1]
    assert quantized.calibration == (
        "percentile of 67 training images, chosen by top-1 on 67 others"
    )


def test_the_card_names_images_of_the_users_own_validation_split(
    small_graph: ExportedGraph, images: np.ndarray
) -> None:
    answers = np.zeros((len(images), 5), np.float32)
    data = CalibrationData(images, images, np.zeros(len(images), np.int64), own_images=True)
    exporter = Int8Exporter(small_graph.model, data, lambda *_: answers)
    assert exporter.quantize("int8-cpu", "auto").calibration.endswith(
        "of 67 training images, chosen by top-1 on 67 validation images"
    )


def test_a_named_method_is_not_measured(small_graph: ExportedGraph, images: np.ndarray) -> None:
    data = CalibrationData(images, images, np.zeros(len(images), np.int64))

    def refuse(_model: ir.Model, _images: np.ndarray) -> np.ndarray:
        raise AssertionError("nothing to choose")

    quantized = Int8Exporter(small_graph.model, data, refuse).quantize("int8", "entropy")
    assert quantized.calibration == "entropy of 67 training images"
