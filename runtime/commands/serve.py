"""`python -m runtime serve [MODEL ...]`: the HTTP API over one model or several."""

import argparse
import logging
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from runtime.backends.registry import backend_named
from runtime.backends.session import Threads
from runtime.base.command import interrupt_on_sigterm
from runtime.base.errors import UserError
from runtime.base.resources import usable_cores
from runtime.base.shown_text import on_terminal
from runtime.commands.model_options import model_or_latest
from runtime.commands.serve_options import serve_parser as _parser
from runtime.commands.serve_options import wait_ms_of
from runtime.inference.batcher import Batcher
from runtime.inference.classifier import Classifier
from runtime.inference.open_classifier import open_classifier
from runtime.model.model_name import default_name
from runtime.model.preprocess import Limits
from runtime.server.hang_up import HangUp
from runtime.server.listening import (
    TOKEN_VARIABLE,
    bearer_token,
    freeze_loaded,
    http_address,
    is_open_to_others,
    listen,
)
from runtime.server.reloading import Reloader, Source, source_of, state_of
from runtime.server.served_models import ServedModel, ServedModels
from runtime.server.sub_path import SubPath

_GRACE_SECONDS = 30
# Measured on two cores at four times the load that they can answer: 99 % of the refusals came
# within 0.05 to 0.19 s. With 5 it was 0.09 to 2 s, depending on the other work of the machine.
_NICENESS = 10


def main(arguments: Sequence[str]) -> int:
    """Serves until SIGINT or SIGTERM, then answers what was accepted and returns 0.

    Raises:
        UserError: an argument cannot be used, or a model cannot be opened.
    """
    options = _parser().parse_args(arguments)
    hang_up = HangUp()
    signal.signal(signal.SIGHUP, hang_up)
    if options.names is not None and len(options.names) != max(1, len(options.models)):
        raise UserError(
            f"--names gives {len(options.names)} names for {max(1, len(options.models))} models; "
            "give one for each, in the same order"
        )
    token = bearer_token()
    if not options.models:
        model_or_latest(None, sys.stdout)
    with listen(options.host, options.port) as listener, ExitStack() as closing:
        sources = [
            _opened(path, name, options, closing)
            for path, name in zip_longest(options.models or [None], options.names or ())
        ]
        models = ServedModels([source.served for source in sources])
        reloader = Reloader(
            sources,
            lambda path: _open_batcher(path, options),
            watch=options.watch,
            note=_print_note,
            after=freeze_loaded,
        )
        closing.enter_context(reloader)
        hang_up.hand_over(reloader)
        _serve(models, listener, options, token=token)
    return 0


def _opened(
    path: Path | None, name: str | None, options: argparse.Namespace, closing: ExitStack
) -> Source:
    """A model that is open and warmed up; `closing` closes it, or its successor."""
    state = state_of(path)
    batcher = _open_batcher(path, options)
    print(on_terminal(batcher.classifier.describe()))
    card = batcher.classifier.card
    served = ServedModel(default_name(card) if name is None else name, batcher)
    closing.callback(served.close)
    return source_of(served, path, state)


def _open_batcher(path: Path | None, options: argparse.Namespace) -> Batcher:
    classifier = open_classifier(
        path,
        backend=options.backend,
        precision=options.precision,
        # This gives the most images a second: each core has a run of the network, which has
        # one thread.
        threads=Threads(intra_op=1, spinning=False),
        limits=Limits(max_bytes=options.max_body_mb << 20, max_pixels=options.max_pixels),
    )
    with ExitStack() as failed:
        failed.callback(classifier.close)
        batcher = _batcher(classifier, options)
        failed.callback(batcher.close)
        classifier.warm_up(*range(1, batcher.max_batch + 1))
        failed.pop_all()
    return batcher


def _serve(
    models: ServedModels,
    listener: socket.socket,
    options: argparse.Namespace,
    *,
    token: str | None,
) -> None:
    import uvicorn

    from runtime.server.admission import MEMORY_BYTES, ServerSettings
    from runtime.server.api import build_api
    from runtime.server.server_config import server_config

    # It logs a warning for every malformed form. That is the client's mistake and is answered 400.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    max_body_bytes = options.max_body_mb << 20
    settings = ServerSettings(
        max_body_bytes=max_body_bytes,
        # A request that can never be accepted must be refused, not told to come again. Such are
        # 32 images where the queue takes 16, and a body larger than all bodies together may be.
        max_images=min(options.max_images, options.max_queue),
        max_memory_bytes=max(MEMORY_BYTES, max_body_bytes),
        timeout_seconds=options.timeout,
        token=token,
    )
    application: Any = build_api(models, settings=settings)
    if options.cors:
        application = _with_cors(application, options.cors)
    if options.root_path or options.trust_forwarded_prefix:
        application = SubPath(
            application, root=options.root_path, trust_header=options.trust_forwarded_prefix
        )
    config = server_config(
        application, keep_alive=options.keep_alive, timeout_graceful_shutdown=_GRACE_SECONDS
    )
    server = uvicorn.Server(config)
    if len(models.names) > 1:
        print(f"models: {', '.join(models.names)} (?model=NAME; default: the first)")
    if is_open_to_others(listener) and token is None:
        _warn_of_everybody(listener, options)
    freeze_loaded()
    # uvicorn takes both signals over while it runs, and raises them again behind its end, when the
    # model is not released yet. Before that, whoever has read the address may already send one.
    received: list[int] = []
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, partial(_end, server, received))
    _print_address(listener, options)
    server.run(sockets=[listener])
    # What closes now may wait for a thread that hangs. Another signal ends that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupt_on_sigterm()
    if signal.SIGINT in received:
        print("stopped")


def _end(server: Any, received: list[int], number: int, _: object) -> None:
    received.append(number)
    server.should_exit = True


def _print_note(line: str) -> None:
    print(on_terminal(f"note: {line}"), file=sys.stderr, flush=True)


def _with_cors(application: Any, origins: Sequence[str]) -> Any:
    """The application for browsers that show pages of other origins (the Fetch standard, CORS)."""
    from starlette.middleware.cors import CORSMiddleware

    return CORSMiddleware(
        application,
        allow_origins=origins,
        allow_methods=["GET", "HEAD", "POST"],
        allow_headers=["*"],  # the token is a header; cookies are neither needed nor allowed
        expose_headers=["Retry-After", "Inference-Header-Content-Length"],
    )


def _print_address(listener: socket.socket, options: argparse.Namespace) -> None:
    root = options.root_path
    print(
        f"listening on {http_address(listener)}   API: {root}/docs   metrics: {root}/metrics",
        flush=True,
    )


def _warn_of_everybody(listener: socket.socket, options: argparse.Namespace) -> None:
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
        max_wait_ms=wait_ms_of(options.max_wait_ms, on_cpu=on_cpu),
        max_queue=options.max_queue,
        runners=usable_cores() if on_cpu else classifier.session.lanes,
        niceness=_NICENESS if on_cpu else 0,
    )
