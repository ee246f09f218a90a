"""MODEL, which all commands take: a bundle, a run or an ONNX file, by default the newest run."""

import argparse
from pathlib import Path
from typing import TextIO

from runtime.model.locate import latest_run

MODEL_HELP = "a bundle, a run or an .onnx file (default: runs/latest)"


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds MODEL, which may be left out: `options.model` is a path or None."""
    parser.add_argument("model", nargs="?", type=Path, metavar="MODEL", help=MODEL_HELP)


def model_or_latest(model: Path | None, note: TextIO) -> Path:
    """The model that was named, else the newest run's, which `note` is told."""
    if model is not None:
        return model
    latest = latest_run()
    print(f"model: {latest} (runs/latest)", file=note)
    return latest
