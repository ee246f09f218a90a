"""Which TensorRT package builds, for which GPUs, and how each of them names precisions."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from export.engines import flavors
from export.engines.flavors import tensorrt_of_version
from export.engines.precision_check import precision_of_description
from runtime.backends.gpu import Gpu
from runtime.base.errors import BackendError, UserError

FakeTrt = Callable[..., Any]


def test_the_gpu_decides_the_capability(fake_trt: FakeTrt, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu("Orin", "8.7", 8 << 30, "12.6")
    monkeypatch.setattr(flavors, "find_gpu", lambda: gpu)
    flavor = tensorrt_of_version(fake_trt("10.3.0"), log=None)
    assert flavor.targets(None) == flavor.targets("8.7") == (("8.7",),)
    assert flavor.gpu_name() == "Orin"
    with pytest.raises(UserError, match=r"builds for the GPU it runs on \(Orin.*not for 8\.6"):
        flavor.targets("8.6")


@pytest.mark.parametrize("text", ["", "86", "8.6,", "8.6 8.9", "x", "8.6,nine", "123.0"])
def test_a_capability_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"is not of the form 8\.6"):
        flavors.parse_capabilities(text)


@pytest.mark.parametrize(
    ("asked", "installed", "gpu", "outcome"),
    [
        (None, {"tensorrt", "tensorrt-rtx"}, True, "tensorrt"),
        (None, {"tensorrt", "tensorrt-rtx"}, False, "tensorrt-rtx"),
        (None, {"tensorrt-rtx"}, True, "tensorrt-rtx"),
        ("tensorrt-rtx", {"tensorrt", "tensorrt-rtx"}, True, "tensorrt-rtx"),
        (None, set(), False, r"no TensorRT is installed.*tensorrt-rtx-cu13.*tensorrt<12"),
        (None, {"tensorrt"}, False, "builds on the GPU that runs the engine: no driver"),
        ("tensorrt", {"tensorrt-rtx"}, True, r"tensorrt is not installed; `pip install"),
        ("tensorrt", {"tensorrt"}, False, "builds on the GPU that runs the engine: no driver"),
    ],
)
def test_which_package_builds(
    asked: str | None,
    installed: set[str],
    gpu: bool,
    outcome: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flavors, "is_installed", lambda name: name in installed)
    monkeypatch.setattr(flavors, "missing_gpu", lambda: None if gpu else "no driver")
    module = SimpleNamespace(__version__="10.3.0")
    monkeypatch.setattr(flavors, "load_tensorrt", lambda _name: module)
    monkeypatch.setattr(flavors, "tensorrt_logger", lambda _name: None)
    if outcome in installed:
        assert flavors.load_flavor(asked).name == outcome
    else:
        with pytest.raises(BackendError, match=outcome):
            flavors.load_flavor(asked)


@pytest.mark.parametrize(
    ("formats", "precision"),
    [
        # As TensorRT 8.6, 10 and 11 word them.
        (["Row major linear FP32"], "fp32"),
        (
            ["Row major linear UInt8 format", "Channel major FP16 format where channel % 8 == 0"],
            "fp16",
        ),
        (
            ["Row major linear FP32", "Thirty-two wide channel vectorized row major Int8 format"],
            "int8",
        ),
        (["Half", "Float"], "fp16"),
        (["UInt8"], None),
        ([], None),
    ],
)
def test_formats_in_words(formats: list[str], precision: str | None) -> None:
    assert precision_of_description(formats) == precision
