"""Kernels that TensorRT-RTX compiled are kept, on a stand-in for it."""

import gc
from pathlib import Path

import numpy as np
import pytest
from fake_tensorrt import (
    FakeConfig,
    FakeRuntimeCache,
    FakeTrt,
    batch,
    expected,
    open_session,
)

from runtime.backends.gpu import Gpu


def run_once(fake: FakeTrt, plan: bytes = b"plan") -> list[int]:
    """The batch sizes whose kernels were compiled to answer 2 and 5 images."""
    fake.compiled.clear()
    session = open_session(fake, plan)
    for count in (2, 5):
        assert np.allclose(session.run(batch(count)), expected(batch(count)))
    session.close()
    assert fake.cuda.live == {}
    fake.contexts.clear()
    gc.collect()
    assert [cache() for cache in fake.caches if cache() is not None] == []
    return fake.compiled


def test_kernels_are_compiled_once_for_all_lanes_and_starts(rtx: FakeTrt, kernels: Path) -> None:
    with open_session(rtx) as session:
        session.warm_up(1, 2)
        assert rtx.compiled == [1, 2]  # by the first of two lanes
        (kept,) = kernels.iterdir()  # before the end, which may be a sudden one
    assert run_once(rtx) == [5]
    before = kept.stat().st_mtime_ns
    assert run_once(rtx) == []
    assert kept.stat().st_mtime_ns == before, "nothing new, and written all the same"
    assert list(kernels.iterdir()) == [kept]


def test_kernels_are_of_one_engine_gpu_and_version(
    rtx: FakeTrt, kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.backends import kernel_cache

    assert run_once(rtx) == [2, 5]
    assert run_once(rtx, b"plan of another engine") == [2, 5]
    rtx.module.__version__ = "11.5.0"
    assert run_once(rtx) == [2, 5]
    monkeypatch.setattr(kernel_cache, "find_gpu", lambda: Gpu("NVIDIA L40", "8.9", 1, "13.0"))
    assert run_once(rtx) == [2, 5]
    assert len(list(kernels.iterdir())) == 4


@pytest.mark.parametrize("damage", ["empty", "truncated", "foreign"])
def test_damaged_kernels_never_reach_tensorrt(
    damage: str, rtx: FakeTrt, kernels: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_once(rtx)
    (kept,) = kernels.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes({"empty": b"", "truncated": whole[:-1], "foreign": b"x" * 99}[damage])
    assert run_once(rtx) == [2, 5]
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"{kept} is damaged; TensorRT-RTX compiles the kernels again"
    ]
    assert kept.read_bytes() == whole


def test_kernels_that_tensorrt_refuses_are_replaced(
    rtx: FakeTrt, kernels: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_once(rtx)
    rtx.driver = "590.10"
    assert run_once(rtx) == [2, 5]
    (kept,) = kernels.iterdir()
    assert f"{kept} does not fit this machine (another driver); TensorRT-RTX" in caplog.text
    assert not rtx.logger.errors, "said again by the next failure"
    assert run_once(rtx) == []


def test_a_folder_that_cannot_be_written_costs_time_only(
    rtx: FakeTrt, kernels: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kernels.parent.write_text("a file where the folder should be")
    assert run_once(rtx) == [2, 5]
    assert run_once(rtx) == [2, 5]
    assert "cannot be written (" in caplog.text


def test_a_user_without_a_home_has_no_kernels_kept(
    rtx: FakeTrt, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SKD_EDGE_CACHE")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 12345)
    with open_session(rtx) as session:
        assert np.allclose(session.run(batch(2)), expected(batch(2)))
    assert "there is no home folder for the cache ~/.cache/skd-edge" in caplog.text
    assert "; TensorRT-RTX compiles the kernels again at every start" in caplog.text


def test_a_cache_that_tensorrt_will_not_use_costs_time_only(
    rtx: FakeTrt, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeConfig, "set_runtime_cache", lambda *_: False)
    monkeypatch.setattr(FakeRuntimeCache, "serialize", lambda _: None)
    run_once(rtx)
    assert "is not used: set_runtime_cache failed, TensorRT gave no reason" in caplog.text
    assert "is not written: serialize failed" in caplog.text
    caplog.clear()
    monkeypatch.setattr(FakeConfig, "create_runtime_cache", lambda _: None)
    run_once(rtx)
    assert "create_runtime_cache failed: TensorRT gave no reason" in caplog.text


def test_the_other_tensorrt_keeps_no_kernels(trt11: FakeTrt, kernels: Path) -> None:
    run_once(trt11)
    assert not kernels.exists()


def test_the_names_of_the_stand_in_are_tensorrt_rtxs_own() -> None:
    real = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed (extra `rtx`)")
    for stand_in, kind in (
        (FakeConfig, real.IRuntimeConfig),
        (FakeRuntimeCache, real.IRuntimeCache),
    ):
        public = {name for name in vars(stand_in) if not name.startswith("_")}
        assert public <= set(dir(kind))
