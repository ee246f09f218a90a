"""Fixtures that every folder of tests shares."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

Command = Callable[..., subprocess.CompletedProcess[str]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--workspace",
        type=Path,
        help="keep the trained run of the tests here and use it again (for quick repetitions)",
    )


@pytest.fixture(scope="session")
def command() -> Command:
    """Runs `python ARGUMENTS` as a user would: `command("training/run.py", "--help", cwd=...)`."""

    def run(
        *arguments: str | Path, cwd: Path, check: bool = False, timeout: float = 900
    ) -> subprocess.CompletedProcess[str]:
        first, *rest = map(str, arguments)
        script = [str(ROOT / first)] if first.endswith(".py") else [first]
        finished = subprocess.run(
            [sys.executable, *script, *rest],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and finished.returncode != 0:
            output = f"{finished.stdout}\n{finished.stderr}"
            raise AssertionError(f"{arguments} exited with {finished.returncode}\n{output}")
        return finished

    return run


@pytest.fixture(scope="session")
def workspace(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, command: Command
) -> Path:
    """A folder in which the user's first command has run: `runs/latest` is a full default run."""
    kept: Path | None = request.config.getoption("--workspace")
    folder = kept.resolve() if kept else tmp_path_factory.mktemp("workspace")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "runs" / "latest" / "result.json").exists():
        command(
            "training/run.py", "--arch", "mobilenetv2", "--drg", "--dsr", cwd=folder, check=True
        )
    return folder


@pytest.fixture(scope="session")
def trained_run(workspace: Path) -> Path:
    """The run folder of `python training/run.py --arch mobilenetv2 --drg --dsr`."""
    return (workspace / "runs" / "latest").resolve()


@pytest.fixture(scope="session")
def trained_bundle(trained_run: Path, workspace: Path, command: Command) -> Path:
    """Its bundle with every precision. Read only: copy it before changing anything."""
    bundle = trained_run / "bundle"
    if not (bundle / "model.int8-cpu.onnx").exists():
        command(
            "export/run.py", trained_run, "--precision", "fp32,fp16,int8", cwd=workspace, check=True
        )
    return bundle
