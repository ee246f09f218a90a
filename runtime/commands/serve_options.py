"""The options of `python -m runtime serve`."""

import argparse
import re
from pathlib import Path

from runtime.base.command import CommandParser, float_from_0, positive_float, positive_int
from runtime.base.errors import UserError
from runtime.commands.model_options import MODEL_HELP, add_backend
from runtime.model.model_name import checked_name
from runtime.server.listening import TOKEN_VARIABLE
from runtime.server.sub_path import add_proxy_options

DEFAULT_PORT = 8000
# On two cores, one batch of 16 takes as long as two batches of 8, and 36 MB more. A GPU could use
# larger batches, but fewer than 2,000 images a second arrive by HTTP.
MAX_BATCH = 8
_GPU_WAIT_MS = 5.0


def serve_parser() -> CommandParser:
    """The parser of the command line."""
    parser = CommandParser(
        prog="python -m runtime serve",
        description="Serves the HTTP API over one model or several.",
        epilog=f"With {TOKEN_VARIABLE} in the environment, requests need that bearer token.",
    )
    parser.add_argument(
        "models",
        nargs="*",
        type=Path,
        metavar="MODEL",
        help=f"{MODEL_HELP}; of several, requests name one by ?model=",
    )
    add_backend(parser)
    parser.add_argument(
        "--names",
        nargs="+",
        action="extend",
        type=_name,
        metavar="NAME",
        help="what requests call the models, in the same order (default: DATA-ARCH)",
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="load a model again when its files change, as SIGHUP does",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default %(default)s)"
    )
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="0: any free one (default %(default)s)"
    )
    parser.add_argument(
        "--max-batch",
        type=positive_int,
        default=MAX_BATCH,
        help="images of one run of the network, at most --max-queue (default %(default)s)",
    )
    parser.add_argument(
        "--max-wait-ms",
        type=float_from_0,
        help="wait for images that are being decoded (default: 5 on a GPU; 0 on a CPU, where one "
        "run for many images takes as long as many runs)",
    )
    parser.add_argument(
        "--max-queue",
        type=positive_int,
        default=128,
        help="images accepted and not yet answered (default %(default)s)",
    )
    parser.add_argument(
        "--max-images",
        type=positive_int,
        default=32,
        help="images of one request (default %(default)s)",
    )
    parser.add_argument(
        "--max-body-mb",
        type=positive_int,
        default=32,
        help="MiB of one request (default %(default)s)",
    )
    parser.add_argument(
        "--max-pixels",
        type=positive_int,
        default=64_000_000,
        help="pixels of one image (default %(default)s)",
    )
    parser.add_argument(
        "--timeout",
        type=positive_float,
        default=30.0,
        help="seconds to receive or answer a request (default %(default)s)",
    )
    parser.add_argument(
        "--keep-alive",
        type=positive_float,
        default=75.0,
        metavar="SECONDS",
        help="how long a connection waits for its next request; longer than a load balancer's "
        "(default %(default)s)",
    )
    parser.add_argument(
        "--cors",
        type=_origin,
        nargs="+",
        action="extend",
        default=[],
        metavar="ORIGIN",
        help="origins whose pages may call the server from a browser (default: none)",
    )
    add_proxy_options(parser)
    return parser


def _origin(text: str) -> str:
    """A web origin, as the `type` of an option: scheme, host and port, or `*` for all.

    Raises:
        argparse.ArgumentTypeError: `text` is something else.
    """
    if text != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s?#@]+", text):
        raise argparse.ArgumentTypeError(
            f"received {text!r}, expected an origin such as https://example.org, or * for all"
        )
    return text


def _name(text: str) -> str:
    """The name of a model, as the `type` of an option.

    Raises:
        argparse.ArgumentTypeError: `text` is no such name.
    """
    try:
        return checked_name(text, option="--names")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def wait_ms_of(given: float | None, *, on_cpu: bool) -> float:
    """The milliseconds that `--max-wait-ms` means; None: what is best where the network runs."""
    if given is not None:
        return given
    return 0.0 if on_cpu else _GPU_WAIT_MS
