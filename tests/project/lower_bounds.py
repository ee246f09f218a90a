"""Installs the lowest versions that pyproject.toml allows, and runs each extra's tests on them.

`python tests/project/lower_bounds.py [EXTRA ...] [-- PYTEST ARGUMENTS]`, or `make nightly` for all.

Each extra gets a fresh environment in a temporary folder, filled by uv with
`--resolution lowest-direct`: the lowest version of each package that pyproject.toml names, and the
newest version of everything that those packages need in turn. The tests of the server
and of the page share a trained run, which the calling environment makes.

`train` and `export` download torch's lowest version with its CUDA libraries, about 3 GB, and uv
keeps them in its cache. `trt` is left out: NVIDIA's own index serves TensorRT 8.6, and it needs a
GPU.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Extras by a name of ours, and the tests that show whether their lowest versions work.
EXTRAS = {
    "runtime": "",
    "train": "train,parquet,tune",
    "export": "export,rtx",
    "ray": "ray,tune",
    "lint": "",
}
_TRACKERS = "tests/training/records/test_tracker.py"
# Tests of the runtime's folder that start commands of other extras, or need a GPU.
NEEDS_MORE = ("-k", "not missing_package", "--ignore=tests/runtime/backends/test_engine_gpu.py")
TESTS = {
    "runtime": ("tests/runtime", "--ignore=tests/runtime/server", *NEEDS_MORE),
    "serve": ("tests/runtime", *NEEDS_MORE),
    "heic": ("tests/runtime/images",),
    "video": ("tests/runtime/inference/test_video.py",),
    "demo": ("tests/demo",),
    "train": ("tests/training", "-k", "not starts_without_torch"),  # of all commands
    "export": ("tests/export", "tests/runtime/backends"),
    "ray": ("tests/training/studies/test_on_ray.py",),  # a real cluster of two nodes
    "mlflow": (_TRACKERS,),
    "wandb": (_TRACKERS,),
    "trackio": (_TRACKERS,),
}
# One test that asks for the trained run with all of its files, so that they exist for the others.
TRAINS = "tests/demo/test_trained_in_browser.py"
# mypy reads the types of the packages that are installed beside this Python.
CHECKS = (
    ["ruff", "check", "."],
    ["ruff", "format", "--check", "."],
    ["mypy", "--python-executable", sys.executable],
    ["lint-imports"],
)
# A warning of an old version is no fault of ours; of the newest ones it is an error.
OPTIONS = ("-q", "-o", "filterwarnings=default")


def main(arguments: list[str]) -> int:
    """Installs and tests each extra. Returns 0 if all of them passed, 1 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help=f"of {', '.join(TESTS)}, lint")
    parser.add_argument("--python", default=sys.executable, help="version or path")
    parser.add_argument("--workspace", type=Path, help="keeps the trained run for the next call")
    place = arguments.index("--") if "--" in arguments else len(arguments)
    asked, pytest_arguments = parser.parse_args(arguments[:place]), arguments[place + 1 :]
    names = asked.extras or [*TESTS, "lint"]
    if unknown := set(names) - {*TESTS, "lint"}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; expected {', '.join(TESTS)}, lint")
    failed = []
    with tempfile.TemporaryDirectory(prefix="lower-bounds-") as folder:
        workspace = asked.workspace or Path(folder, "workspace")
        if {"serve", "demo"} & set(names):
            _run([sys.executable, "-m", "pytest", "-q", TRAINS, f"--workspace={workspace}"])
        for name in names:
            own_folder = Path(folder, name)
            if not _install(name, own_folder, asked.python):
                failed.append(f"{name} (installation)")
            elif name == "lint":
                bin_folder = own_folder / "bin"
                checks = [_run([str(bin_folder / word), *rest]) for word, *rest in CHECKS]
                if not all(checks):
                    failed.append(name)
            else:
                python = own_folder / "bin" / "python"
                # What exports is compared with what it has exported itself.
                run = own_folder / "workspace" if name == "export" else workspace
                tests = [*TESTS[name], f"--workspace={run}"]
                command = [str(python), "-m", "pytest", *OPTIONS, *tests]
                if not _run([*command, *pytest_arguments]):
                    failed.append(name)
            shutil.rmtree(own_folder, ignore_errors=True)
    print(f"lower bounds: {', '.join(names)} tested; failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


def _install(name: str, folder: Path, python: str) -> bool:
    """An environment of the lowest versions in `folder`; prints what is in it."""
    uv = shutil.which("uv", path=Path(sys.executable).parent) or shutil.which("uv")
    if uv is None:
        sys.exit("uv is not installed: pip install --group nightly")
    if not _run([uv, "venv", "--quiet", "--python", python, str(folder)]):
        return False
    extras = EXTRAS.get(name, name)
    group = "lint" if name == "lint" else "test"
    what = [f".[{extras}]" if extras else ".", "--group", group]
    constraint = folder / "build.txt"  # the build backend's lowest version
    lowest = re.search(r"hatchling>=([\d.]+)", (ROOT / "pyproject.toml").read_text())
    constraint.write_text(f"hatchling=={lowest[1]}\n" if lowest else "")
    to = ["--quiet", "--python", str(folder / "bin" / "python")]
    lowest_versions = ["--resolution", "lowest-direct", "--build-constraints", str(constraint)]
    installed = _run([uv, "pip", "install", *to, *lowest_versions, "--editable", *what])
    return installed and _run([uv, "pip", "freeze", "--exclude-editable", *to])


def _run(command: list[str]) -> bool:
    print(f"$ {' '.join(command)}", flush=True)
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
