"""What all commands share: `--version`, errors of one line, exit codes.

The exit codes are 0 (done), 2 (the user's mistake), 3 (a verification failed), 1 (anything else).
"""

import argparse
import errno
import io
import math
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import msgspec

from runtime.base.errors import UserError, VerificationError
from runtime.base.files import printable_path
from runtime.base.shown_text import on_terminal

VERSION = "0.1.0"  # of the whole project: pyproject.toml reads it here
EXIT_USER = 2
EXIT_VERIFICATION = 3
_OWN = {"demo", "export", "runtime", "training"}
_PROJECT = "pyproject.toml"  # lies in a checkout, and not where packages are installed
_MAY_BE_EMPTY = {"--columns"}  # an empty text names no column
# A full disk or a forbidden file is not a fault of the program: the user can mend it.
_FULL_DISK = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {
    *(errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT, errno.EEXIST, errno.ELOOP),
    *(errno.EFBIG, errno.EBUSY, errno.EXDEV),  # `ulimit -f`; a mount point; a container's layer
}


class CommandParser(argparse.ArgumentParser):
    """An ArgumentParser with `--version`, whose complaints are one line, raised as UserError."""

    def __init__(self, *, prog: str, description: str | None, epilog: str | None = None) -> None:
        """Takes what `argparse.ArgumentParser` takes under these names."""
        super().__init__(prog=prog, description=description, epilog=epilog)
        self.add_argument(
            "--version",
            action="version",
            version=version_line(),
            help="print SKD Edge's version and exit",
        )

    def parse_known_args(  # type: ignore[override]  # argparse's overloads say no more than this
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """What argparse gives, without empty words.

        Raises:
            UserError: a mistake in the arguments; an empty word is one.
        """
        return super().parse_known_args(self.without_empty(args), namespace)

    def parse_known_intermixed_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As `parse_known_args`, by which argparse of Python 3.13.1 and newer does not go.

        Raises:
            UserError: a mistake in the arguments; an empty word is one.
        """
        return super().parse_known_intermixed_args(self.without_empty(args), namespace)

    def without_empty(self, args: Sequence[str] | None) -> Sequence[str]:
        """The words of the command, by default its own ones, none of which is empty.

        A script passes on an empty word where its variable was not set. As a path it would be the
        current folder, and as a name often the default.

        Raises:
            UserError: a word is empty, or the value of an option is.
        """
        words = sys.argv[1:] if args is None else args
        for word, former in zip(words, ("", *words), strict=False):
            option, equals, value = word.partition("=")
            if word and not (option.startswith("--") and equals and not value):
                continue
            named = option or (former if former.startswith("-") else "")
            if named not in _MAY_BE_EMPTY:
                self.error(f"{named or 'an argument'}: received '', expected a value")
        return words

    def refuse_unused(self, given: argparse.Namespace, names: Sequence[str], why: str) -> None:
        """Refuses options that would silently do nothing beside the others that were given.

        Args:
            given: what this parser has read.
            names: of the options, as attributes of `given`. One with its default's value is taken.
            why: when they do nothing, such as "without --video".

        Raises:
            UserError: an option of `names` was given.
        """
        for name in names:
            if getattr(given, name) != self.get_default(name):
                self.error(f"--{name.replace('_', '-')} does nothing {why}; leave it out")

    def error(self, message: str) -> NoReturn:
        """Called by argparse for every mistake in the arguments.

        Raises:
            UserError: always; it names the mistake and `--help`.
        """
        raise UserError(f"{message}; `{self.prog} --help` lists what is accepted")


def version_line() -> str:
    """What every command prints for `--version`."""
    return f"skd-edge {VERSION}"


def folder_path(text: str) -> Path:
    """A folder that is written to, as the `type` of an option.

    Raises:
        argparse.ArgumentTypeError: `text` begins with an unknown home folder.
    """
    try:
        return Path(text).expanduser()  # shells do not replace the ~ of `--out=~/x`
    except RuntimeError:
        raise argparse.ArgumentTypeError(
            f"received {text!r}, whose home folder is not known; name the folder in full"
        ) from None


def positive_int(text: str) -> int:
    """A whole number above 0, as the `type` of an option.

    Raises:
        argparse.ArgumentTypeError: `text` is something else.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"received {text!r}, expected a whole number above 0")
    return int(text)


def positive_float(text: str) -> float:
    """A finite number above 0, as the `type` of an option.

    Raises:
        argparse.ArgumentTypeError: `text` is something else.
    """
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"received {text!r}, expected a number above 0")
    return value


def float_from_0(text: str) -> float:
    """A finite number of 0 or more, as the `type` of an option.

    Raises:
        argparse.ArgumentTypeError: `text` is something else.
    """
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"received {text!r}, expected a number of 0 or more")
    return value


def _number(text: str) -> float:
    """The number that `text` is, which may be infinite; NaN if it is no number."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def print_json(value: object, *, flush: bool = False) -> None:
    """Prints one JSON object as a line on stdout, in UTF-8 whatever the locale is.

    Bytes of a path that are no UTF-8 are shown by their codes.
    """
    try:
        line = msgspec.json.encode(value)
    except UnicodeEncodeError:
        line = msgspec.json.encode(_in_unicode(msgspec.to_builtins(value)))
    sys.stdout.buffer.write(line + b"\n")
    if flush:
        sys.stdout.flush()


def _in_unicode(value: object) -> object:
    """Plain types whose texts are valid Unicode: Python reads other bytes as lone surrogates."""
    if isinstance(value, str):
        return printable_path(value)
    if isinstance(value, dict):
        return {_in_unicode(key): _in_unicode(item) for key, item in value.items()}
    return [_in_unicode(item) for item in value] if isinstance(value, list | tuple) else value


def run_command(main: Callable[[Sequence[str]], int], *, extra: str) -> NoReturn:
    """Runs `main(arguments)` and exits with its code, or with the code of the error it raised.

    Args:
        main: the command; it gets the arguments without the program's name.
        extra: the extra of pyproject.toml that installs every package that `main` imports.
    """
    # The streams are None if the caller has closed them (`>&-`).
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    if sys.stderr is None:  # print() would write to stdout instead
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    # A character that the terminal's encoding does not have is shown as its code (`\xe9`).
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _refuse_other_checkout()
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except UserError as error:
        code = fail(str(error), EXIT_USER)
    except VerificationError as error:
        code = fail(str(error), EXIT_VERIFICATION)
    except KeyboardInterrupt:
        code = fail("interrupted", 1)
    except ModuleNotFoundError as error:
        code = _fail_without(error, extra)
    except BrokenPipeError:
        # The reader of our output has ended (`| head`). Python would complain again at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except OSError as error:
        code = _fail_of_system(error)
    sys.exit(code)


def _refuse_other_checkout() -> None:
    """Refuses a script of one checkout that runs the packages of another one.

    An editable installation points to one checkout, for the scripts of all checkouts.

    Raises:
        UserError: script and packages lie in two checkouts.
    """
    packages = Path(__file__).resolve().parents[2]
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script is None or not (packages / _PROJECT).is_file():  # not started from a file; installed
        return
    path = Path(script).resolve()
    if path.is_relative_to(Path(sys.prefix).resolve()):  # an environment may lie in a checkout
        return
    own = next((folder for folder in path.parents if _is_checkout(folder)), packages)
    if own != packages:
        raise UserError(
            f"{script} is of the checkout {own}, but Python loads the packages of {packages}; "
            f"expected one checkout; `make install` in {own} makes an environment of its own, or "
            f"set PYTHONPATH={shlex.quote(str(own))}"
        )


def _is_checkout(folder: Path) -> bool:
    return (folder / _PROJECT).is_file() and (folder / "runtime/base/command.py").is_file()


def interrupt_on_sigterm() -> None:
    """Lets SIGTERM do what Ctrl-C does: a command then ends the processes that it has started.

    By default SIGTERM ends the command alone, at once, and its processes go on without it.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _fail_without(error: ModuleNotFoundError, extra: str) -> int:
    missing = (error.name or "").partition(".")[0]
    if missing in _OWN:
        raise error
    return fail(
        f"the package {missing} is not installed; `pip install '.[{extra}]'` in SKD Edge's folder "
        "brings all that this command needs",
        EXIT_USER,
    )


def _fail_of_system(error: OSError) -> int:
    if error.errno not in _FULL_DISK | _REFUSED:
        raise error
    what = error.filename or "a file"
    mend = "free some space, or " if error.errno in _FULL_DISK else ""
    return fail(f"{what}: {error.strerror}; {mend}choose another file or folder", EXIT_USER)


def fail(message: str, code: int) -> int:
    """Prints `message` as one line on stderr and returns `code`."""
    # Spaces stay as they are: they may be in a path, also in that of a command to paste.
    lines = (line.strip() for line in message.split("\n"))
    print("error: " + on_terminal(" ".join(filter(None, lines))), file=sys.stderr)  # noqa: T201
    return code
