"""Finds the model or the run that a command means: a path that was given, or `runs/latest`."""

from pathlib import Path

from runtime.base.errors import BundleError, UserError
from runtime.model.card import CARD_FILE

RUNS = Path("runs")
LATEST = RUNS / "latest"
BUNDLE = "bundle"
CHECKPOINT = "checkpoint.pt"
RESULT = "result.json"
DATA_REPORT = "data.json"  # of a run, and of its bundle


def is_model(path: Path) -> bool:
    """Whether `path` is a bundle, a run that has one, or an `.onnx` file."""
    return (
        (path / CARD_FILE).is_file()
        or (path / BUNDLE / CARD_FILE).is_file()
        or (path.suffix == ".onnx" and path.is_file())
    )


def looks_like_model(path: Path) -> bool:
    """Whether `path` was surely meant as a model, even if `find_model` will refuse it."""
    return path.suffix == ".onnx" or (path / CHECKPOINT).is_file()


def latest_run() -> Path:
    """The folder that `runs/latest` points to.

    Raises:
        UserError: nothing was trained in this folder.
    """
    if not LATEST.exists():
        raise UserError(
            f"no model was named and {LATEST} does not exist; name one, or train first: "
            "`python training/run.py --arch mobilenetv2 --drg --dsr`"
        )
    # The path as training wrote it. It may be a link itself, because a run can lie on another disk.
    named = RUNS / LATEST.readlink() if LATEST.is_symlink() else LATEST
    return named if named.exists() else LATEST


def find_model(path: Path | None) -> Path:
    """The bundle folder or the `.onnx` file that `path` means; None means `runs/latest`.

    Raises:
        BundleError: there is no model at `path`; the message says what is there.
        UserError: no path was given, and nothing was trained in this folder.
    """
    path = latest_run() if path is None else path
    if (path / CARD_FILE).is_file():
        return path
    if (path / BUNDLE / CARD_FILE).is_file():
        return path / BUNDLE
    if path.suffix == ".onnx" and path.is_file():
        return path
    if not path.exists():
        raise BundleError(f"{path} does not exist; expected a bundle, a run or an .onnx file")
    if (path / CHECKPOINT).is_file():
        raise BundleError(
            f"{path} is a run without a bundle; export it: `python export/run.py {path}`"
        )
    raise BundleError(
        f"{path} is not a bundle, a run or an .onnx file; make one with `python export/run.py`"
    )


def find_run(path: Path | None) -> Path:
    """The run folder that `path` means; None means `runs/latest`.

    Raises:
        UserError: there is no run at `path`, or no path was given and nothing was trained here.
    """
    path = latest_run() if path is None else path
    if not path.exists():
        raise UserError(f"{path} does not exist; expected a run folder with a {CHECKPOINT}")
    if not (path / CHECKPOINT).is_file():
        raise UserError(
            f"{path} is not a run: it has no {CHECKPOINT}; train one with `python training/run.py`"
        )
    return path
