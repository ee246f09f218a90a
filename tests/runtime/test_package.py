"""What `runtime` exports, and that importing it stays cheap."""

import os
import subprocess
import sys

import pytest

import runtime

PROBE = """
import sys, time
started = time.process_time()
from runtime import open_classifier
print(time.process_time() - started, *sys.modules)
"""


def test_all_is_sorted_and_complete() -> None:
    assert runtime.__all__ == sorted(runtime.__all__)
    for name in runtime.__all__:
        assert getattr(runtime, name).__name__ == name
    assert {*runtime.__all__} <= {*dir(runtime)}


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(runtime, "open_clasifier")


@pytest.mark.alone
def test_import_is_quick_and_light() -> None:
    seconds = []
    # CPU time counts every thread: NumPy's BLAS starts one a core, which spin for 0.1 s in all.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    for _ in range(3):
        output = subprocess.run(
            [sys.executable, "-c", PROBE],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        ).stdout.split()
        seconds.append(float(output[0]))
        # onnxruntime takes 0.2 s of its own: only a session needs it.
        assert not {"onnxruntime", "fastapi", "torch", "concurrent.futures"} & {*output[1:]}
    assert min(seconds) < 0.3  # of CPU, which other work on the machine does not change
