"""`python -m runtime serve [MODEL]`: the HTTP API over a model."""

import argparse
import ipaddress
import logging
import signal
import socket
import sys
from collections.abc import Callable, Sequence

from runtime.backends.registry import backend_named, backend_names
from runtime.backends.session import Threads
from runtime.base.command import CommandParser, float_from_0, positive_float, positive_int
from runtime.base.parallel import usable_cores
from runtime.commands.model_options import add_model, model_or_latest
from runtime.inference.batcher import Batcher
from runtime.inference.classifier import Classifier
from runtime.inference.open_classifier import open_classifier
from runtime.model.preprocess import Limits
from runtime.server.bearer_token import TOKEN_VARIABLE, bearer_token
from runtime.server.listening import listen

DEFAULT_PORT = 8000
_GRACE_SECONDS = 30
# Measured at four times the load on two cores: 99 % of the refusals in 0.05 to 0.19 s; with 5 in
# 0.09 to 2 s, as the machine's other work allowed.
_NICENESS = 10
# On two cores 16 images take as long as two times 8, and 36 MB more. A GPU could use more, but HTTP
# brings less than 2,000 images a second.
_MAX_BATCH = 8


def main(arguments: Sequence[str]) -> int:
    """Serves until SIGINT or SIGTERM, then answers what was accepted and returns 0."""
    options = _parser().parse_args(arguments)
    model = model_or_latest(options.model, sys.stdout)
    with (
        listen(options.host, options.port) as listener,
        open_classifier(
            model,
            backend=options.backend,
            precision=options.precision,
            # For throughput: each run of the network has one thread, and each core a run.
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

    from runtime.server.api import build_api
    from runtime.server.bounded_http import server_config
    from runtime.server.settings import MEMORY_BYTES, ServerSettings

    # It warns of every malformed form, which is the client's affair and answered with 400.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    token = bearer_token()
    max_body_bytes = options.max_body_mb << 20
    settings = ServerSettings(
        max_body_bytes=max_body_bytes,
        # A request that can never fit must not be told to come again: of 32 images for a queue
        # of 16, or larger than what all requests may take together.
        max_images=min(options.max_images, batcher.max_queue),
        max_memory_bytes=max(MEMORY_BYTES, max_body_bytes),
        timeout_seconds=options.timeout,
        token=token,
    )
    config = server_config(
        build_api(batcher, settings=settings), timeout_graceful_shutdown=_GRACE_SECONDS
    )
    # uvicorn raises the signal again when all is answered: that must not kill us before the
    # model is released.
    signal.signal(signal.SIGTERM, lambda *_: None)
    _print_address(listener, options.host, token)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        print("stopped")


def _print_address(listener: socket.socket, host: str, token: str | None) -> None:
    address, port = listener.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    print(f"listening on http://{shown}:{port}   API: /docs   metrics: /metrics", flush=True)
    if not ipaddress.ip_address(address).is_loopback and token is None:
        print(
            f"warning: everybody who reaches {host}:{port} can use it; set {TOKEN_VARIABLE} to ask "
            "for a bearer token",
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
    add = parser.add_argument
    add("--backend", metavar="B", help=f"one of {', '.join(backend_names())}")
    add("--precision", metavar="P", help="fp32, fp16, int8 or int8-cpu")
    with_default: dict[str, tuple[Callable[[str], object], object, str]] = {
        "--host": (str, "127.0.0.1", "address to listen on"),
        "--port": (int, DEFAULT_PORT, "0: any free one"),
        "--max-batch": (positive_int, _MAX_BATCH, "images of one run of the network"),
        "--max-wait-ms": (float_from_0, 5.0, "wait for images that are being decoded"),
        "--max-queue": (positive_int, 128, "images accepted and not yet answered"),
        "--max-images": (positive_int, 32, "images of one request"),
        "--max-body-mb": (positive_int, 32, "MiB of one request"),
        "--max-pixels": (positive_int, 64_000_000, "pixels of one image"),
        "--timeout": (positive_float, 30.0, "seconds to receive or answer a request"),
    }
    for name, (kind, default, meaning) in with_default.items():
        add(name, type=kind, default=default, help=f"{meaning} (default %(default)s)")
    return parser
