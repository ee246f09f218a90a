"""Arguments that several commands take: the model, and on what it runs."""

import argparse
from pathlib import Path
from typing import TextIO

from runtime.backends.registry import backend_names
from runtime.base.shown_text import on_terminal
from runtime.model.locate import latest_run

MODEL_HELP = "a bundle, a run or an .onnx file (default: runs/latest)"


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds MODEL, which may be left out: `options.model` is a path or None."""
    parser.add_argument("model", nargs="?", type=Path, metavar="MODEL", help=MODEL_HELP)


def add_backend(parser: argparse.ArgumentParser, *, only: bool = False) -> None:
    """Adds `--backend` and `--precision`, each a word or None.

    Args:
        parser: gets the options.
        only: whether they narrow down what the command takes, and do not choose what it uses.
    """
    word = "only " if only else ""
    parser.add_argument("--backend", metavar="B", help=f"{word}one of {', '.join(backend_names())}")
    parser.add_argument("--precision", metavar="P", help=f"{word}fp32, fp16, int8 or int8-cpu")


def model_or_latest(model: Path | None, note: TextIO) -> Path:
    """The model that was named, or else the newest run's, of which `note` is told."""
    if model is not None:
        return model
    latest = latest_run()
    print(on_terminal(f"model: {latest} (runs/latest)"), file=note)
    return latest
