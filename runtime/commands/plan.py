"""`python -m runtime plan MODEL --rate R --p99 MS`: how many servers answer a load in time."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime.backends.registry import backend_named
from runtime.backends.session import Threads
from runtime.base.command import (
    EXIT_VERIFICATION,
    CommandParser,
    fail,
    float_from_0,
    interrupt_on_sigterm,
    positive_float,
    positive_int,
    print_json,
)
from runtime.base.errors import UserError
from runtime.base.resources import usable_cores
from runtime.bench.capacity_plan import (
    CLIENTS,
    Measured,
    Prediction,
    fewest_replicas,
    measure_server,
    predicted,
)
from runtime.bench.sample_images import sample_jpeg
from runtime.commands.model_options import add_backend, add_model, model_or_latest
from runtime.commands.serve_options import MAX_BATCH, wait_ms_of
from runtime.images.image_folders import ImageFolders, in_order
from runtime.inference.open_classifier import open_classifier
from runtime.model.locate import find_model
from runtime.server.listening import TOKEN_VARIABLE

_LOADS = (0.5, 0.8)  # of the capacity, which the answer shows in any case
_MOST_PICTURES, _PHOTOS = 50, 10
_DIGITS = 3


def main(arguments: Sequence[str]) -> int:
    """Measures, predicts, and prints the plan. Returns 0, or 3 if no number of servers is enough.

    Raises:
        UserError: there is no such model or folder, or the server does not start.
    """
    given = _parser().parse_args(arguments)
    interrupt_on_sigterm()  # the server that is measured ends, too; it asks for no token
    model = model_or_latest(given.model, sys.stderr if given.json else sys.stdout)
    path = find_model(model)
    files = _pictures(given.images, path)
    bodies = [file.read_bytes() for file in files] or [sample_jpeg(n) for n in range(_PHOTOS)]
    if not given.json:
        print(
            f"measuring the server on this machine with {len(bodies)} pictures, about "
            f"{8 * given.seconds:.0f} s; other work here would make the plan too large",
            flush=True,
        )
    classifier = open_classifier(
        path,
        backend=given.backend,
        precision=given.precision,
        threads=Threads(intra_op=1, spinning=False),
    )
    on_cpu = backend_named(classifier.backend).runs_on_cpu
    runners = usable_cores() if on_cpu else classifier.session.lanes
    what = {"model": str(model), "backend": classifier.backend, "precision": classifier.precision}
    with classifier:
        for file in files:  # the error of a broken one names it; the bodies have no names
            classifier.prepare(file)
        measured = measure_server(
            classifier,
            path,
            bodies,
            cores=usable_cores(),
            runners=runners,
            on_cpu=on_cpu,
            max_batch=given.max_batch,
            max_wait_ms=wait_ms_of(given.max_wait_ms, on_cpu=on_cpu),
            options=_server_options(given.backend, given.precision, given),
            token_variable=TOKEN_VARIABLE,
            seconds=given.seconds,
        )
    found = fewest_replicas(measured, rate=given.rate, p99_ms=given.p99)
    loads = [predicted(measured, rate=load * measured.capacity) for load in _LOADS]
    if given.json:
        print_json({**what, **_plan(given.rate, given.p99, measured, found), "loads": loads})
    else:
        print("\n".join(_lines(given.rate, given.p99, measured, found, loads)))
    if found is None:
        alone = predicted(measured, rate=0.001 * measured.capacity).p99_ms
        return fail(
            f"no number of servers answers 99 % within {given.p99:g} ms: a request that is alone "
            f"takes {alone:.1f} ms here; choose a smaller model, faster cores or a longer --p99",
            EXIT_VERIFICATION,
        )
    return 0


def _plan(
    rate: float, p99: float, measured: Measured, found: tuple[int, Prediction] | None
) -> dict[str, Any]:
    """The plan and what it rests on, as one object; milliseconds have `_ms` in their names."""
    service = measured.service
    replicas, prediction = found if found is not None else (None, None)
    return {
        "rate": rate,
        "target_p99_ms": p99,
        "replicas": replicas,
        "cores_of_replica": service.cores,
        "cores": None if replicas is None else replicas * service.cores,
        "gpus": 0 if service.on_cpu else replicas,
        "predicted": prediction,
        "capacity_per_second": round(measured.capacity, 1),
        "service": {
            "loop_ms": round(1e3 * service.loop, _DIGITS),
            "decode_ms": round(1e3 * service.decode, _DIGITS),
            "unevenness": [round(factor, _DIGITS) for _, factor in measured.unevenness],
            "network_ms": [round(1e3 * seconds, _DIGITS) for seconds in service.network],
        },
    }


def _lines(
    rate: float,
    p99: float,
    measured: Measured,
    found: tuple[int, Prediction] | None,
    loads: Sequence[Prediction],
) -> list[str]:
    service = measured.service
    largest = len(service.network)
    cores = f"{service.cores} core{'s' if service.cores > 1 else ''}"
    each = cores if service.on_cpu else f"{cores} and a GPU"
    lines = [
        f"one server ({each}): {measured.capacity:,.0f} answers/s to {CLIENTS} clients; decoding "
        f"{1e3 * service.decode:.2f} ms, network {1e3 * service.network[0]:.2f} ms for one and "
        f"{1e3 * service.network[-1]:.2f} ms for {largest}, HTTP {1e3 * service.loop:.2f} ms",
        *(
            f"at {each.load:.0%} of that, {each.rate:,.0f}/s: p50 {each.p50_ms:.1f} ms, "
            f"p99 {each.p99_ms:.1f} ms"
            for each in loads
        ),
    ]
    if found is not None:
        replicas, what = found
        total = f"{replicas * service.cores} cores"
        gpus = "" if service.on_cpu else f" and {replicas} GPUs"
        lines.append(
            f"{rate:,g}/s within {p99:g} ms: {replicas} such server{'s' if replicas > 1 else ''}, "
            f"{total}{gpus}; each at {what.load:.0%}, p99 {what.p99_ms:.1f} ms"
        )
    return lines


def _pictures(folder: Path | None, model: Path) -> list[Path]:
    """The files that are sent: those of `folder` or the bundle's examples; none: photographs."""
    if folder is None and (model / "examples").is_dir():
        folder = model / "examples"
    if folder is None:
        return []
    if not folder.is_dir():
        raise UserError(f"--images {folder} is no folder; name one that has pictures")
    files = in_order(ImageFolders(folder).images_below(folder))[:_MOST_PICTURES]
    if not files:
        raise UserError(f"--images {folder}: there is no picture; name a folder that has some")
    return files


def _server_options(backend: str | None, precision: str | None, given: Any) -> list[str]:
    asked = {
        "--backend": backend,
        "--precision": precision,
        "--max-batch": given.max_batch,
        "--max-wait-ms": given.max_wait_ms,
    }
    pairs = ((name, str(value)) for name, value in asked.items() if value is not None)
    return [word for pair in pairs for word in pair]


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m runtime plan",
        description="How many servers answer a load in time: measured here, then simulated.",
        epilog="It measures decoding, the network and the whole server on this machine, as it is "
        "(so run it on an idle machine of the kind that will serve), and simulates the server's "
        "batches under requests at random. Exit code 3: no number of servers is enough.",
    )
    add_model(parser)
    parser.add_argument(
        "--rate", type=positive_float, required=True, metavar="R", help="pictures a second"
    )
    parser.add_argument(
        "--p99",
        type=positive_float,
        required=True,
        metavar="MS",
        help="milliseconds within which 99 of 100 must be answered",
    )
    add_backend(parser)
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="pictures like those that will be sent (default: the bundle's examples)",
    )
    parser.add_argument(
        "--max-batch",
        type=positive_int,
        default=MAX_BATCH,
        help="as for serve (default %(default)s)",
    )
    parser.add_argument(
        "--max-wait-ms",
        type=float_from_0,
        help="as for serve (default: 5 on a GPU, 0 on a CPU)",
    )
    parser.add_argument(
        "--seconds",
        type=positive_float,
        default=4.0,
        help="for each measurement of the server (default %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser
