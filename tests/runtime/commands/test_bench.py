"""`python -m runtime bench`: what it measures and what it recommends."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import msgspec
import pytest

from runtime.base.errors import BackendError
from runtime.bench import model_benchmark
from runtime.bench.measurement import BatchResult, BenchResult, FolderResult, Percentiles
from runtime.bench.model_benchmark import BenchSettings, bench_model
from runtime.bench.recommendation import recommend
from runtime.bench.sample_images import sample_jpeg
from runtime.commands import bench

Run = Callable[..., CompletedProcess[str]]
SHORT = ("--seconds", "0.05", "--images", "24")


def test_every_option_is_measured_in_one_table(
    command: Run, toy_bundle: Path, tmp_path: Path
) -> None:
    finished = command("-m", "runtime", "bench", toy_bundle, *SHORT, cwd=tmp_path, check=True)
    lines = finished.stdout.splitlines()
    assert "onnx-cpu fp32" in lines[0]
    assert "onnx-cpu fp16" in lines[0]
    names = ("decode", "preprocess", "network, batch 1", "network, batch 8", "network, batch 32")
    for name in (*names, "file to labels", "folder", "memory", "top-1"):
        assert any(line.startswith(name) for line in lines)
    assert lines[-1].startswith("use onnx-cpu fp")


def test_json_is_one_object_a_line(command: Run, toy_bundle: Path, tmp_path: Path) -> None:
    finished = command(
        "-m", "runtime", "bench", toy_bundle, "--json", *SHORT, cwd=tmp_path, check=True
    )
    *rows, last = map(json.loads, finished.stdout.splitlines())
    assert [(row["backend"], row["precision"]) for row in rows] == [
        ("onnx-cpu", "fp32"),
        ("onnx-cpu", "fp16"),
    ]
    assert set(last) == {"recommendation"}
    for row in rows:
        for stage in (row["decode"], row["preprocess"], row["end_to_end"], *row["network"]):
            assert 0 < stage["p50_ms"] <= stage["p90_ms"] <= stage["p99_ms"]
        assert [batch["batch"] for batch in row["network"]] == [1, 8, 32]
        assert row["folder"]["images"] == 24
        assert 30 < row["memory_mb"] < 250
        assert row["top1"] == 1.0


def test_sigterm_ends_the_process_that_measures_and_removes_its_pictures(
    toy_bundle: Path, tmp_path: Path
) -> None:
    words = [sys.executable, "-m", "runtime", "bench", str(toy_bundle), "--seconds", "60"]
    with subprocess.Popen(
        words,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as started:
        try:
            while not list(tmp_path.rglob("*.jpg")):  # it measures
                assert started.poll() is None
                time.sleep(0.05)
            started.terminate()
            _, told = started.communicate(timeout=20)
            assert (started.returncode, told) == (1, "error: interrupted\n")
            assert list(tmp_path.iterdir()) == []
            with pytest.raises(ProcessLookupError):  # nobody is left
                os.killpg(started.pid, 0)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)


@pytest.mark.parametrize("name", ["", "model.onnx"])
def test_memory_is_the_models_and_not_that_of_the_process_that_asks(
    name: str, toy_bundle: Path
) -> None:
    failures: list[BackendError] = []
    held = bytearray(400 << 20)  # as much as the page with its libraries and pictures
    held[:: 4 << 10] = bytes(
        len(held) >> 12
    )  # writes to every page, because the system gives memory only then
    settings = BenchSettings(seconds=0.01, images=2)
    (found,) = bench_model(
        toy_bundle / name, settings, left_out=failures.append, precision="fp32", apart=True
    )
    assert failures == []
    assert 30 < found.memory_mb < 250
    assert found.precision == "fp32"
    del held


def test_mistakes_are_one_line(cli: Run, toy_bundle: Path) -> None:
    for arguments, words in (
        (("--precision", "int8"), "int8 has no file"),
        (("--backend", "tensorrt"), "build_trt"),
        (("--seconds", "0"), "expected a number above 0"),
    ):
        finished = cli("bench", toy_bundle, *arguments)
        assert finished.returncode == 2
        assert len(finished.stderr.splitlines()) == 1
        assert words in finished.stderr


def test_an_option_that_does_not_start_is_left_out(
    toy_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(path: Path, backend: str, precision: str, settings: BenchSettings) -> BenchResult:
        if precision in broken:
            raise BackendError(f"{backend} {precision} failed: no cuDNN")
        return result(precision, 1.0, 2000)

    monkeypatch.setattr(model_benchmark, "_measure_apart", measure)
    broken = {"fp16"}
    assert bench.main([str(toy_bundle)]) == 0
    told = capsys.readouterr()
    assert told.err == "left out: onnx-cpu fp16 failed: no cuDNN\n"
    assert told.out.splitlines()[-1].startswith("use onnx-cpu fp32")
    broken = {"fp16", "fp32"}
    with pytest.raises(BackendError, match="fp32 failed: no cuDNN"):
        bench.main([str(toy_bundle)])


def result(
    precision: str, single_ms: float, per_second: float, top1: float | None = None
) -> BenchResult:
    times = Percentiles(p50_ms=1.0, p90_ms=1.0, p99_ms=1.0)
    network = [
        BatchResult(batch=b, p50_ms=ms, p90_ms=ms, p99_ms=ms, images_per_second=rate)
        for b, ms, rate in ((1, single_ms, 1e3 / single_ms), (32, 32e3 / per_second, per_second))
    ]
    return BenchResult(
        backend="onnx-cpu",
        precision=precision,
        file="model.onnx",
        decode=times,
        preprocess=times,
        network=network,
        end_to_end=times,
        overhead=0.0,
        folder=FolderResult(images=1, images_per_second=1.0, bound=1.0),
        memory_mb=100.0,
        top1=top1,
        top1_drop=None if top1 is None else 0.9 - top1,
    )


def test_int8_is_recommended_only_where_it_pays() -> None:
    fp32 = result("fp32", 4.0, 400, 0.90)
    pays = recommend([fp32, result("int8-cpu", 2.0, 900, 0.895)])
    assert pays.startswith("use onnx-cpu fp32 for one image (4.00 ms) and for many (400 images/s)")
    assert "int8-cpu pays: 2.0x as fast for one image and 2.2x as fast for many" in pays
    assert "at 0.50 points of accuracy" in pays
    better = recommend([fp32, result("int8-cpu", 2.0, 900, 0.903)])
    assert better.endswith("and 2.2x as fast for many, at no loss of accuracy")
    # It is a little faster, but within the noise. The figures alone would seem to say that it pays.
    assert recommend([fp32, result("int8-cpu", 3.9, 410)]).endswith(
        "int8 does not pay here: onnx-cpu int8-cpu is not even 1.1x as fast (3.90 ms, 410 images/s)"
    )
    assert "int8 does not pay here" in recommend([fp32, result("int8-cpu", 18.7, 60)])


def test_the_cost_of_int8_is_that_of_the_files_on_their_own_images() -> None:
    """An engine is verified on the held-out part, an ONNX file on all images of the test split."""
    fp32 = result("fp32", 4.0, 400, 0.90)
    engine = msgspec.structs.replace(result("int8", 2.0, 900, 0.95), top1_drop=0.01)
    assert "at 1.00 points of accuracy" in recommend([fp32, engine])


def test_one_and_many_may_have_different_answers() -> None:
    advice = recommend([result("fp32", 1.0, 2000), result("fp16", 1.5, 3000)])
    assert "onnx-cpu fp32 for one image (1.00 ms), onnx-cpu fp16 for many (3,000" in advice
    assert recommend([result("int8-cpu", 1.0, 2000)]).startswith("use onnx-cpu int8-cpu")


def test_sample_images_are_what_they_say() -> None:
    from runtime.model.card import InputSpec
    from runtime.model.preprocess import decode_image

    spec = InputSpec(size=512, resize=512, crop=512, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert sample_jpeg(1) == sample_jpeg(1) != sample_jpeg(2)
    assert decode_image(sample_jpeg(1), spec).size == (640, 480)
    assert 40_000 < len(sample_jpeg(1)) < 160_000


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs processor affinity")
def test_the_cores_that_may_be_used_are_counted() -> None:
    from runtime.base.resources import usable_cores

    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
