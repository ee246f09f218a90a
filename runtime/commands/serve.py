"""`python -m runtime serve [MODEL]`: the HTTP API over a model."""

import argparse
import logging
import re
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

from runtime.backends.registry import backend_named
from runtime.backends.session import Threads
from runtime.base.command import CommandParser, float_from_0, positive_float, positive_int
from runtime.base.parallel import usable_cores
from runtime.commands.model_options import add_backend, add_model, model_or_latest
from runtime.inference.batcher import Batcher
from runtime.inference.classifier import Classifier
from runtime.inference.open_classifier import open_classifier
from runtime.model.preprocess import Limits
from runtime.server.listening import (
    TOKEN_VARIABLE,
    bearer_token,
    http_address,
    is_open_to_others,
    listen,
)
from runtime.server.sub_path import SubPath, add_proxy_options

DEFAULT_PORT = 8000
_GRACE_SECONDS = 30
# Measured on two cores at four times the load that they can answer: 99 % of the refusals came
# within 0.05 to 0.19 s. With 5 it was 0.09 to 2 s, depending on the other work of the machine.
_NICENESS = 10
# On two cores, one batch of 16 takes as long as two batches of 8, and 36 MB more. A GPU could use
# larger batches, but fewer than 2,000 images a second arrive by HTTP.
_MAX_BATCH = 8


def main(arguments: Sequence[str]) -> int:
    """Serves until SIGINT or SIGTERM, then answers what was accepted and returns 0.

    Raises:
        UserError: an argument cannot be used, or the model cannot be opened.
    """
    options = _parser().parse_args(arguments)
    model = model_or_latest(options.model, sys.stdout)
    with (
        listen(options.host, options.port) as listener,
        open_classifier(
            model,
            backend=options.backend,
            precision=options.precision,
            # This gives the most images a second: each core has a run of the network, which has
            # one thread.
            threads=Threads(intra_op=1, spinning=False),
            limits=Limits(max_bytes=options.max_body_mb << 20, max_pixels=options.max_pixels),
        ) as classifier,
    ):
        print(classifier.describe())
        with _batcher(classifier, options) as batcher:
            classifier.warm_up(*range(1, batcher.max_batch + 1))
            _serve(batcher, listener, options)
    return 0


def _serve(batcher: Batcher, listener: socket.socket, options: argparse.Namespace) -> None:
    import uvicorn

    from runtime.server.admission import MEMORY_BYTES, ServerSettings
    from runtime.server.api import build_api
    from runtime.server.bounded_http import server_config

    # It logs a warning for every malformed form. That is the client's mistake and is answered 400.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    token = bearer_token()
    max_body_bytes = options.max_body_mb << 20
    settings = ServerSettings(
        max_body_bytes=max_body_bytes,
        # A request that can never be accepted must be refused, not told to come again. Such are
        # 32 images where the queue takes 16, and a body larger than all bodies together may be.
        max_images=min(options.max_images, batcher.max_queue),
        max_memory_bytes=max(MEMORY_BYTES, max_body_bytes),
        timeout_seconds=options.timeout,
        token=token,
    )
    application: Any = build_api(batcher, settings=settings)
    if options.cors:
        application = _with_cors(application, options.cors)
    if options.root_path or options.trust_forwarded_prefix:
        application = SubPath(
            application, root=options.root_path, trust_header=options.trust_forwarded_prefix
        )
    config = server_config(
        application, keep_alive=options.keep_alive, timeout_graceful_shutdown=_GRACE_SECONDS
    )
    # When everything is answered, uvicorn raises the signal again. It must not end this process
    # before the model is released.
    signal.signal(signal.SIGTERM, lambda *_: None)
    _print_address(listener, options, token)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        print("stopped")


def _with_cors(application: Any, origins: Sequence[str]) -> Any:
    """The application for browsers that show pages of other origins (the Fetch standard, CORS)."""
    from starlette.middleware.cors import CORSMiddleware

    return CORSMiddleware(
        application,
        allow_origins=origins,
        allow_methods=["GET", "HEAD", "POST"],
        allow_headers=["*"],  # the token is a header; cookies are neither needed nor allowed
        expose_headers=["Retry-After"],
    )


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


def _print_address(listener: socket.socket, options: argparse.Namespace, token: str | None) -> None:
    root = options.root_path
    print(
        f"listening on {http_address(listener)}   API: {root}/docs   metrics: {root}/metrics",
        flush=True,
    )
    if is_open_to_others(listener) and token is None:
        port = listener.getsockname()[1]
        print(
            f"warning: everybody who reaches {options.host}:{port} can use it; set "
            f"{TOKEN_VARIABLE} to ask for a bearer token",
            file=sys.stderr,
        )


def _batcher(classifier: Classifier, options: argparse.Namespace) -> Batcher:
    on_cpu = backend_named(classifier.backend).runs_on_cpu
    return Batcher(
        classifier,
        max_batch=options.max_batch,
        max_wait_ms=options.max_wait_ms,
        max_queue=options.max_queue,
        runners=usable_cores() if on_cpu else classifier.session.lanes,
        niceness=_NICENESS if on_cpu else 0,
    )


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m runtime serve",
        description=__doc__,
        epilog=f"With {TOKEN_VARIABLE} in the environment, requests need that bearer token.",
    )
    add_model(parser)
    add_backend(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default %(default)s)"
    )
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="0: any free one (default %(default)s)"
    )
    parser.add_argument(
        "--max-batch",
        type=positive_int,
        default=_MAX_BATCH,
        help="images of one run of the network (default %(default)s)",
    )
    parser.add_argument(
        "--max-wait-ms",
        type=float_from_0,
        default=5.0,
        help="wait for images that are being decoded (default %(default)s)",
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
        default=[],
        metavar="ORIGIN",
        help="origins whose pages may call the server from a browser (default: none)",
    )
    add_proxy_options(parser)
    return parser
