"""Writes a model repository for Triton Inference Server.

python export/to_triton.py BUNDLE --out REPOSITORY                       # onnxruntime backend
python export/to_triton.py BUNDLE --out REPOSITORY --backend tensorrt    # an engine of the bundle
python export/to_triton.py BUNDLE --out REPOSITORY --backend python      # this project's runtime
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from export.bundles.printed_tables import say
from export.triton_server.config import (
    BACKENDS,
    LABELS_FILE,
    MARK,
    MODEL_FILES,
    Backend,
    TritonModel,
    config_text,
    labels_text,
)
from runtime.backends.engine_backends import TENSORRT
from runtime.base.command import CommandParser, folder_path, positive_int, run_command
from runtime.base.errors import BundleError, UserError
from runtime.base.files import atomic_folder, remove_abandoned, write_atomic
from runtime.model.bundle import Bundle, open_bundle, run_word
from runtime.model.card import CARD_FILE, EngineRecord, ModelFile
from runtime.model.card import MODEL_FILES as PRECISION_FILES
from runtime.model.locate import find_model

CONFIG_FILE = "config.pbtxt"
_VERSION = "1"
_DEFAULT_MAX_BATCH = 64
Source = EngineRecord | ModelFile | None  # None: the whole bundle, for the python backend
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def main(arguments: Sequence[str]) -> int:
    """Writes the model that `arguments` describe and says how to serve it."""
    options = _parser().parse_args(arguments)
    path = find_model(options.bundle)
    if path.is_file():
        raise BundleError(f"{path} is a lone ONNX file; expected its bundle, a folder with a card")
    bundle = open_bundle(path)
    name = _model_name(options.name, bundle)
    target = options.out / name
    _check_target(target)
    source = _source(bundle, options.backend, options.precision, options.compute_capability)
    model = _described(bundle, name, options.backend, options.precision, options.max_batch, source)
    _write(target, _files(bundle, model, source))
    say(f"model: {target}")
    say(f"serve: tritonserver --model-repository {options.out.resolve()}")
    if isinstance(source, EngineRecord):
        say(f"The server's TensorRT must be {source.tensorrt_version}, its GPU {source.gpu_name}.")
    if model.backend == "python":
        say("The server's Python needs this project: `pip install .` in its environment.")
    return 0


def _source(
    bundle: Bundle, backend: Backend, precision: str | None, capability: str | None
) -> Source:
    """What is served; UserError if the bundle has no such thing, or the backend would garble it."""
    if backend == "tensorrt":
        return choose_engine(bundle, precision or "fp16", capability)
    if backend == "python":
        if precision is not None:
            choose_file(bundle, precision)  # an engine, too, runs only beside its ONNX file
        return None
    if precision == "int8":
        # One optimiser of ONNX Runtime garbles int8 over float16; `runtime.backends.onnx_session`
        # leaves it out. Triton can only switch off all of them.
        raise UserError(
            "Triton's onnxruntime backend answers wrongly from the int8 file, which is for "
            "TensorRT; choose --precision int8-cpu, or --backend tensorrt with an int8 engine"
        )
    return choose_file(bundle, precision or "fp32")


def choose_engine(bundle: Bundle, precision: str, capability: str | None) -> EngineRecord:
    """The one engine that is meant; UserError if there is none, or several."""
    if precision not in TENSORRT.precisions:
        raise UserError(
            f"there are no {precision} engines; choose one of {', '.join(TENSORRT.precisions)}"
        )
    found = [
        engine
        for engine in bundle.card.engines
        # Triton's tensorrt backend does not load TensorRT-RTX engines.
        if engine.flavor == "tensorrt"
        and engine.precision == precision
        and (capability is None or capability in engine.compute_capability)
    ]
    if len(found) > 1:
        choices = ", ".join(own for engine in found for own in engine.compute_capability)
        raise UserError(
            f"{bundle.path} has several such engines; add --compute-capability of {choices}"
        )
    if not found:
        raise UserError(
            f"{bundle.path} has no {precision} engine of flavor tensorrt"
            f"{f' for {capability}' if capability else ''}; build it on the server's GPU: "
            f"`python export/build_trt.py {bundle.path} --precision {precision} --flavor tensorrt`"
        )
    (engine,) = found
    if engine.profile.min > 1:
        raise UserError(
            f"{engine.path} takes batches from {engine.profile.min}, Triton also sends single "
            "images; build it with `--batch 1,OPT,MAX`"
        )
    return engine


def choose_file(bundle: Bundle, precision: str) -> ModelFile:
    """The ONNX file of a precision; UserError if the bundle has none."""
    if (file := bundle.card.file(precision)) is not None:
        return file
    listed = ", ".join(file.precision for file in bundle.card.files)
    raise UserError(
        f"{bundle.path} has no ONNX file of {precision}, only of {listed}; add it with "
        f"`python export/run.py {run_word(bundle.path)} "
        f"--precision {precision.removesuffix('-cpu')}`"
    )


def command() -> NoReturn:
    """Runs `main` as a command."""
    run_command(main, extra="export")


def _described(
    bundle: Bundle,
    name: str,
    backend: Backend,
    precision: str | None,
    max_batch: int | None,
    source: Source,
) -> TritonModel:
    """The model with batches that every session behind it takes."""
    if isinstance(source, EngineRecord):
        bounded = [source.profile]
    else:
        # The runtime in the python backend may choose any engine of the bundle.
        bounded = [e.profile for e in bundle.card.engines] if backend == "python" else []
    limit = min((profile.max for profile in bounded), default=_DEFAULT_MAX_BATCH)
    if max_batch is not None and bounded and max_batch > limit:
        raise UserError(
            f"--max-batch {max_batch} is beyond the engine's profile, which ends at {limit}"
        )
    largest = max_batch if max_batch is not None else limit
    tuned_for = {min(profile.opt, largest) for profile in bounded}
    return TritonModel(
        name=name,
        backend=backend,
        card=bundle.card,
        max_batch=largest,
        warm_up=sorted({1, *tuned_for, largest}),
        precision=precision,
    )


def _files(bundle: Bundle, model: TritonModel, source: Source) -> dict[str, bytes]:
    """The model's files by their path in it, read with their digests checked."""
    files = {
        CONFIG_FILE: config_text(model).encode(),
        LABELS_FILE: labels_text(model.card).encode(),
    }
    main_file = f"{_VERSION}/{MODEL_FILES[model.backend]}"
    if source is not None:
        files[main_file] = bundle.read(source)
    else:
        files[main_file] = (
            Path(__file__).parent.joinpath("triton_server", "python_model.py").read_bytes()
        )
        files[f"{_VERSION}/bundle/{CARD_FILE}"] = (bundle.path / CARD_FILE).read_bytes()
        records: list[ModelFile | EngineRecord] = [*model.card.files, *model.card.engines]
        for record in records:
            files[f"{_VERSION}/bundle/{record.path}"] = bundle.read(record)
    return files


def _model_name(asked: str | None, bundle: Bundle) -> str:
    card = bundle.card
    default = re.sub(r"[^A-Za-z0-9._+-]+", "_", f"{card.provenance.data}-{card.arch}")
    name = default if asked is None else asked
    if not _NAME.fullmatch(name):
        raise UserError(f"--name {name!r} is no folder name; use letters, digits, and . _ + -")
    return name


def _check_target(target: Path) -> None:
    """UserError if the folder is there and is not one that this command wrote."""
    if not target.exists():
        return
    config = target / CONFIG_FILE
    if not config.is_file() or not config.read_text(errors="replace").startswith(MARK):
        raise UserError(
            f"{target} exists and was not written by this command; choose another --name"
        )


def _write(target: Path, files: dict[str, bytes]) -> None:
    """Writes the model beside its place and moves it there whole: Triton may be watching."""
    with atomic_folder(target) as staging:
        for path, content in files.items():
            write_atomic(staging / path, content)
    remove_abandoned(target)


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="python export/to_triton.py", description=__doc__.splitlines()[0])
    parser.add_argument(
        "bundle", type=Path, metavar="BUNDLE", help="a bundle, or a run that has one"
    )
    parser.add_argument(
        "--out", type=folder_path, required=True, metavar="REPOSITORY", help="the model repository"
    )
    parser.add_argument(
        "--backend", choices=BACKENDS, default="onnxruntime", help="default: %(default)s"
    )
    parser.add_argument(
        "--precision",
        choices=tuple(PRECISION_FILES),
        help="default: fp32 for onnxruntime, fp16 for tensorrt, the runtime's choice for python",
    )
    parser.add_argument("--name", help="the model's name; default: DATA-ARCH")
    parser.add_argument(
        "--max-batch",
        type=positive_int,
        metavar="N",
        help=f"default: the end of the engine's profile, else {_DEFAULT_MAX_BATCH}",
    )
    parser.add_argument(
        "--compute-capability", metavar="C", help="which engine, if there are several"
    )
    return parser


if __name__ == "__main__":
    command()
