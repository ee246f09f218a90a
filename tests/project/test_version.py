"""`--version` of every command."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.__main__ import COMMANDS
from runtime.base.command import VERSION

ROOT = Path(__file__).resolve().parents[2]
LINE = f"skd-edge {VERSION}\n"
# Importing one of these takes from a tenth of a second to several seconds.
HEAVY = (
    "fastapi",
    "gradio",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "scipy",
    "sklearn",
    "tensorrt",
    "tensorrt_rtx",
    "torch",
    "torchvision",
)
# Runs one command in this process, then tells on stderr which heavy packages it has imported.
PROGRAM = f"""
import runpy, sys
try:
    if sys.argv[1] == "-m":
        del sys.argv[:2]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        del sys.argv[0]
        runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print(*[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""


def commands() -> list[str]:
    """Every file that can be started by its name, and every command of `python -m runtime`."""
    folders = ("training", "export", "demo")
    files = sorted(path for folder in folders for path in (ROOT / folder).glob("*.py"))
    started = [path for path in files if '__name__ == "__main__"' in path.read_text()]
    return [
        *(str(path.relative_to(ROOT)) for path in started),
        "-m runtime",
        *(f"-m runtime {name}" for name in COMMANDS),
    ]


@pytest.mark.parametrize("command", commands())
def test_every_command_tells_its_version_without_heavy_imports(command: str) -> None:
    words = [sys.executable, "-c", PROGRAM, *command.split(), "--version"]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, LINE), ended.stderr
    assert ended.stderr.split() == []


def test_all_known_commands_are_asked() -> None:
    assert {"training/run.py", "export/run.py", "export/build_trt.py", "demo/app.py"} <= {
        *commands()
    }


def test_the_version_is_written_once() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    assert re.search(r"^version =", project, re.M) is None
    path = re.search(r"^\[tool\.hatch\.version\]\npath = \"(.+)\"$", project, re.M)
    assert path is not None
    assert (ROOT / path[1]).read_text().count(f'"{VERSION}"') == 1
