"""How many of our files are passed from a checkpoint to ONNX, and from there to an engine."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from export import build_trt, run
from runtime.backends.gpu import missing_gpu

ROOT = Path(__file__).resolve().parents[2]
# As before the rooms were made. What training and its data have in between is left out here.
MOST_FILES_TO_ONNX = 15
MOST_FILES_TO_ENGINE = 15
PACKAGES = tuple(f"{ROOT}/{package}/" for package in ("export", "runtime", "training"))
DATA = f"{ROOT}/training/data/"


@contextmanager
def passed_files(first: str, last: str) -> Iterator[list[str]]:
    """Files in which a function is called, from the call of `first` to the return of `last`.

    Functions that run while a module is imported do not count, and none that training's data call.
    """
    seen: list[str] = []
    state = "before"

    def is_left_out(frame: FrameType | None) -> bool:
        while frame is not None:
            code = frame.f_code
            if code.co_filename.startswith(DATA):
                return True
            if code.co_name == "<module>" and code.co_filename.startswith(PACKAGES):
                return True
            frame = frame.f_back
        return False

    def note(frame: FrameType, event: str, _: Any) -> None:
        nonlocal state
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if not file.startswith(PACKAGES):
            return
        if event == "call" and name == first and state == "before":
            state = "on the way"
        if event == "return" and name == last:
            state = "after"
        counts = not file.startswith(f"{ROOT}/training/") and file not in seen
        if event == "call" and state == "on the way" and counts and not is_left_out(frame):
            seen.append(file)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield seen
    finally:
        sys.setprofile(before)


def test_a_checkpoint_passes_few_files_on_its_way_to_onnx(fitted_run: Path, tmp_path: Path) -> None:
    with passed_files("load_trained", "write_bundle") as walk:
        assert run.main([str(fitted_run), "--out", str(tmp_path / "bundle"), "--opset", "17"]) == 0
    print("\n".join(walk))
    assert f"{ROOT}/export/graphs/to_onnx.py" in walk
    assert len(walk) <= MOST_FILES_TO_ONNX


def test_an_onnx_file_passes_few_files_on_its_way_to_an_engine(bundle: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed (extra `rtx`)")
    if missing_gpu() is None:
        pytest.skip("where there is a GPU, the engine may also run on it")
    with passed_files("add_engine", "add_engine") as walk:
        assert build_trt.main([str(bundle), "--compute-capability", "8.6"]) == 0
    print("\n".join(walk))
    assert f"{ROOT}/export/engines/build_engine.py" in walk
    assert len(walk) <= MOST_FILES_TO_ENGINE
