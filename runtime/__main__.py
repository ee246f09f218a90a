"""`python -m runtime COMMAND ...`: classify images and look at models, without torch."""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from runtime.base.command import run_command, version_line
from runtime.base.errors import UserError

COMMANDS = {
    "bench": "how fast every backend and precision is here",
    "classify": "label images, folders of them, a video or a camera",
    "compare": "whether a new model is worse than the old one",
    "doctor": "what this machine has, and what is missing for each backend",
    "evaluate": "how good a model is on new labelled images",
    "info": "what a model says about itself",
    "plan": "how many servers answer a load in time",
    "serve": "an HTTP API over a model",
    "verify": "whether every file answers here as it did when it was exported",
}


def main(arguments: Sequence[str]) -> int:
    """Runs the command that `arguments` name and returns its exit code.

    Only the module of this command is imported, so that no command waits for the imports of others.

    Raises:
        UserError: no command has that name.
    """
    usage = "usage: python -m runtime COMMAND [OPTION ...]\n\n" + "".join(
        f"  {name:<10} {text}\n" for name, text in COMMANDS.items()
    )
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(usage + "\n`python -m runtime COMMAND --help` lists its options.\n")
        return 0
    if arguments[0] == "--version":
        sys.stdout.write(version_line() + "\n")
        return 0
    # Pillow warns of things such as damaged EXIF data. Users need no warning: they get an answer
    # or an error.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    name, *rest = arguments
    if name not in COMMANDS:
        raise UserError(f"unknown command {name!r}; choose one of {', '.join(COMMANDS)}")
    result: int = import_module(f"runtime.commands.{name}").main(rest)
    return result


def command() -> NoReturn:
    """Entry point of `skd-edge`."""
    run_command(main, extra="serve")


if __name__ == "__main__":
    command()
