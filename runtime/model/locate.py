"""Finds the model or the run that a command means: a path that was given, or `runs/latest`."""

from pathlib import Path

from runtime.base.errors import BundleError, UserError
from runtime.base.shown_text import pasted
from runtime.model.card import CARD_FILE

RUNS = Path("runs")
LATEST = RUNS / "latest"
BUNDLE = "bundle"
CHECKPOINT = "checkpoint.pt"
RESULT = "result.json"
DATA_REPORT = "data.json"  # of a run, and of its bundle
_ONNX = ".onnx"
# Of files that hold a network, or are a packed bundle or run. None of them is an image.
_MODEL_SUFFIXES = {
    *(_ONNX, ".ort", ".engine", ".plan", ".trt", ".pt", ".pth", ".ckpt", ".bin", ".safetensors"),
    *(".torchscript", ".pb", ".tflite", ".h5", ".keras", ".mlmodel", ".mlpackage", ".npz", ".json"),
    *(".zip", ".tar", ".tgz", ".gz", ".xz", ".zst"),
}
# What lies in a bundle or a run, if its card or its bundle is missing.
_TRACES = (CHECKPOINT, RESULT, "journal.jsonl", CARD_FILE, "holdout.npz")
_TRACED_FILES = ("*.[oO][nN][nN][xX]", "*.engine", "engines/*.engine")


def is_model(path: Path) -> bool:
    """Whether `path` is a bundle, a run that has one, or an `.onnx` file."""
    return (
        (path / CARD_FILE).is_file()
        or (path / BUNDLE / CARD_FILE).is_file()
        or (path.suffix == _ONNX and path.is_file())
    )


def looks_like_model(path: Path) -> bool:
    """Whether `path` was surely meant as a model, even if `find_model` will refuse it.

    Such are files of other kinds of models, and folders with traces of a bundle or a run.
    """
    return path.suffix.lower() in _MODEL_SUFFIXES or any(
        folder.is_dir()
        and (
            any((folder / trace).exists() for trace in _TRACES)
            or any(next(folder.glob(pattern), None) for pattern in _TRACED_FILES)
        )
        for folder in (path, path / BUNDLE)
    )


def latest_run() -> Path:
    """The folder that `runs/latest` points to.

    Raises:
        UserError: nothing was trained in this folder.
    """
    if not LATEST.exists():
        why = "does not exist"
        if LATEST.is_symlink():
            why = f"is a link to {LATEST.readlink()}, which is not there (removed or moved)"
        raise UserError(
            f"no model was named and {LATEST} {why}; name one, or train first: "
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
    if path.suffix == _ONNX and path.is_file():
        return path
    if not path.exists():
        raise BundleError(f"{path} does not exist; expected a bundle, a run or an .onnx file")
    if (path / CHECKPOINT).is_file():
        raise BundleError(
            f"{path} is a run without a bundle; export it: `python export/run.py {pasted(path)}`"
        )
    raise BundleError(
        f"{path} is not a bundle, a run or an .onnx file{_why_not(path)}; make one with "
        "`python export/run.py`"
    )


def _why_not(path: Path) -> str:
    if path.is_dir():
        return f" (it has no {CARD_FILE})"
    if path.suffix.lower() == _ONNX:
        return f" (its name must end with {_ONNX} in small letters)"
    if path.suffix.lower() == ".engine":
        return " (an engine is run by naming the bundle that lists it)"
    return ""


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
