"""The page on a trained model: `python demo/app.py [MODEL] [MODEL]`, then open the address."""

import argparse
import os
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from runtime.command import CommandParser, run_command
from runtime.errors import UserError
from runtime.locate import find_model, latest_run

DEFAULT_PORT = 7860
AUTH_VARIABLE = "SKD_EDGE_AUTH"
_MAX_MODELS = 2


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="demo/app.py", description="Serves the page on which people try a trained model."
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
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    options = parse_arguments(arguments)
    if len(options.models) > _MAX_MODELS:
        raise UserError(f"received {len(options.models)} models, expected one, or two to compare")
    paths = [find_model(path) for path in options.models]
    if not paths:
        print(f"model: {latest_run()}", flush=True)  # noqa: T201
        paths = [find_model(None)]
    auth = _credentials(options.auth)
    with _listen(options.host, options.port) as listener, _private_folder() as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        # Must be set before gradio is imported: it reports its start to its makers otherwise.
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        from demo.server import serve

        serve(paths, listener, auth=auth)
    return 0


def _credentials(given: str | None) -> tuple[str, str] | None:
    if not given:
        return None
    user, colon, password = given.partition(":")
    if not (user and colon and password):
        raise UserError("--auth takes USER:PASSWORD with neither part empty")
    return user, password


def _private_folder() -> "tempfile.TemporaryDirectory[str]":
    """Uploads lie here for about a minute; readable by this user only, gone with the process."""
    return tempfile.TemporaryDirectory(prefix="skd-edge-page-")


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; UserError when the address is taken or not ours."""
    try:
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(info[0], info[1])
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(info[4])
        listener.listen(128)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"cannot listen on {host} port {port}: {reason}; choose another with --port (0: any)"
        ) from error
    return listener


def command() -> NoReturn:
    run_command(main)


if __name__ == "__main__":
    command()
