"""The page on a trained model: `python demo/app.py [MODEL] [MODEL]`, then open the address."""

import argparse
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from runtime.base.command import CommandParser, run_command
from runtime.base.errors import UserError
from runtime.model.locate import find_model, latest_run
from runtime.server.listening import TOKEN_VARIABLE, bearer_token, is_open_to_others, listen
from runtime.server.sub_path import add_proxy_options

DEFAULT_PORT = 7860
AUTH_VARIABLE = "SKD_EDGE_AUTH"
_MAX_MODELS = 2


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the command.

    Raises:
        UserError: an argument is unknown or malformed.
    """
    parser = CommandParser(
        prog="python demo/app.py",
        description="Serves the page on which people try a trained model.",
    )
    parser.add_argument(
        "models",
        nargs="*",
        type=Path,
        metavar="MODEL",
        help="a bundle, a run or an .onnx file (default: runs/latest); a second one is for "
        "comparing",
    )
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="default: %(default)s")
    parser.add_argument(
        "--auth",
        metavar="USER:PASSWORD",
        default=os.environ.get(AUTH_VARIABLE),
        help=f"ask visitors for these; better by the environment: {AUTH_VARIABLE}",
    )
    parser.add_argument(
        "--api",
        action="store_true",
        help="serve programs too, under /v1, as `python -m runtime serve` does; with "
        f"{TOKEN_VARIABLE} in the environment they need that bearer token",
    )
    add_proxy_options(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Serves the page until it is interrupted, then returns 0.

    Raises:
        UserError: an argument cannot be used, or a model cannot be opened.
    """
    options = parse_arguments(arguments)
    if len(options.models) > _MAX_MODELS:
        raise UserError(f"received {len(options.models)} models, expected one, or two to compare")
    paths = [find_model(path) for path in options.models]
    if not paths:
        print(f"model: {latest_run()}", flush=True)  # noqa: T201
        paths = [find_model(None)]
    login, token = _credentials(options.auth), bearer_token()
    if login and options.api and not token:
        raise UserError(
            "--api beside a page with a password would be open to all; set "
            f"{TOKEN_VARIABLE} to the token that programs send"
        )
    end_by_signals()
    with listen(options.host, options.port) as listener, _private_folder() as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        # Before Gradio and ONNX Runtime are imported: both would send reports to their makers.
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        from demo.server import Access, serve

        _warn_if_open(listener, options.host, login)
        access = Access(
            login=login,
            api=options.api,
            token=token,
            root=options.root_path,
            trust_forwarded_prefix=options.trust_forwarded_prefix,
        )
        serve(paths, listener, access, uploads=Path(folder))
    return 0


def end_by_signals() -> None:
    """Lets SIGTERM, and SIGHUP when the terminal is closed, end the process after its clean-up.

    By default both would end it at once and leave visitors' uploads behind.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # `nohup` lets it be ignored
        # While uvicorn runs, SIGTERM has another handler, which is as good.
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))


def _credentials(given: str | None) -> tuple[str, str] | None:
    if given is None:
        return None
    if not given.strip():  # the parser refuses an empty --auth
        raise UserError(
            f"received an empty {AUTH_VARIABLE}, expected USER:PASSWORD; set it to those, or unset "
            "it to ask nobody"
        )
    user, colon, password = given.partition(":")
    if not (user and colon and password):
        raise UserError("--auth takes USER:PASSWORD with neither part empty")
    return user, password


def _warn_if_open(listener: socket.socket, host: str, login: tuple[str, str] | None) -> None:
    if login is None and is_open_to_others(listener):
        print(  # noqa: T201
            f"warning: everybody who reaches {host} can use the page; set {AUTH_VARIABLE} to "
            "USER:PASSWORD to ask for them",
            file=sys.stderr,
        )


def _private_folder() -> "tempfile.TemporaryDirectory[str]":
    """The folder where an upload lies for about a minute.

    Only this user can read it, and it is removed when the process ends.
    """
    return tempfile.TemporaryDirectory(prefix="skd-edge-page-")


def command() -> NoReturn:
    """Entry point of `skd-demo`."""
    run_command(main, extra="demo")


if __name__ == "__main__":
    command()
