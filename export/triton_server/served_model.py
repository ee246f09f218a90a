"""One model of a Triton repository: what of a bundle is served, and the files that this takes."""

from pathlib import Path

from export.triton_server.config import (
    LABELS_FILE,
    MARK,
    MODEL_FILES,
    Backend,
    TritonModel,
    config_text,
    labels_text,
)
from runtime.backends.engine_backends import TENSORRT
from runtime.base.errors import UserError
from runtime.base.files import atomic_folder, check_writable, remove_abandoned, write_atomic
from runtime.base.shown_text import pasted
from runtime.model.bundle import Bundle, run_word
from runtime.model.card import CARD_FILE, EngineRecord, ModelFile
from runtime.model.locate import CHECKPOINT
from runtime.model.model_name import checked_name, default_name

CONFIG_FILE = "config.pbtxt"
DEFAULT_MAX_BATCH = 64
Source = EngineRecord | ModelFile | None  # None: the whole bundle, for the python backend
_VERSION = "1"
_LARGEST_BATCH = 2**31 - 1  # model_config.proto: max_batch_size is an int32


def source_of(
    bundle: Bundle, backend: Backend, precision: str | None, capability: str | None
) -> Source:
    """What is served: a file or an engine of the bundle, or None for the whole bundle.

    Raises:
        UserError: the bundle has no such file or engine, or the backend would answer wrongly.
    """
    if backend == "tensorrt":
        return _engine(bundle, precision or "fp16", capability)
    if backend == "python":
        if precision is not None:
            _onnx_file(bundle, precision)  # the runtime uses an engine only beside its ONNX file
        return None
    if precision == "int8":
        # One optimiser of ONNX Runtime computes int8 over float16 wrongly. The session in
        # `runtime.backends.onnx_session` leaves it out; Triton can only switch off all optimisers.
        raise UserError(
            "Triton's onnxruntime backend answers wrongly from the int8 file, which is for "
            "TensorRT; choose --precision int8-cpu, or --backend tensorrt with an int8 engine"
        )
    return _onnx_file(bundle, precision or "fp32")


def describe(
    bundle: Bundle,
    source: Source,
    *,
    name: str | None,
    backend: Backend,
    precision: str | None,
    max_batch: int | None,
) -> TritonModel:
    """The model, with batches that every session behind it takes.

    Without a `name` it is made of the data set and the architecture.

    Raises:
        UserError: `name` cannot be a folder's name, or `max_batch` is beyond an engine's profile,
            or beyond an int32.
    """
    if isinstance(source, EngineRecord):
        bounded = [source.profile]
    else:
        # The runtime in the python backend may choose any engine of the bundle.
        bounded = [e.profile for e in bundle.card.engines] if backend == "python" else []
    limit = min((profile.max for profile in bounded), default=DEFAULT_MAX_BATCH)
    if max_batch is not None and max_batch > _LARGEST_BATCH:
        raise UserError(
            f"--max-batch {max_batch} is more than Triton's configuration can state; expected at "
            f"most {_LARGEST_BATCH}"
        )
    if max_batch is not None and bounded and max_batch > limit:
        raise UserError(
            f"--max-batch {max_batch} is beyond the engine's profile, which ends at {limit}"
        )
    largest = max_batch if max_batch is not None else limit
    tuned_for = {min(profile.opt, largest) for profile in bounded}
    return TritonModel(
        name=default_name(bundle.card) if name is None else checked_name(name, option="--name"),
        backend=backend,
        card=bundle.card,
        max_batch=largest,
        warm_up=sorted({1, *tuned_for, largest}),
        precision=precision,
        threshold=source.threshold.probability if source and source.threshold else None,
    )


def files_of(bundle: Bundle, model: TritonModel, source: Source) -> dict[str, bytes]:
    """The contents of the model's files, by their path in its folder.

    Raises:
        BundleError: a file of the bundle is missing or is not the one that the card lists.
    """
    files = {
        CONFIG_FILE: config_text(model).encode(),
        LABELS_FILE: labels_text(model.card).encode(),
    }
    main_file = f"{_VERSION}/{MODEL_FILES[model.backend]}"
    if source is not None:
        files[main_file] = bundle.read(source)
    else:
        files[main_file] = (Path(__file__).parent / "python_model.py").read_bytes()
        files[f"{_VERSION}/bundle/{CARD_FILE}"] = (bundle.path / CARD_FILE).read_bytes()
        records: list[ModelFile | EngineRecord] = [*model.card.files, *model.card.engines]
        for record in records:
            files[f"{_VERSION}/bundle/{record.path}"] = bundle.read(record)
    return files


def check_target(target: Path) -> None:
    """Checks that the model's folder may be written.

    Raises:
        UserError: it exists and was not written by this project, or this user may not write there,
            or the repository is a bundle or a run, which another export would replace whole.
    """
    check_writable(target.parent)
    for file in (CARD_FILE, CHECKPOINT):
        if (target.parent / file).exists():
            raise UserError(
                f"--out {target.parent} holds a {file}; expected a folder of its own for the "
                "model repository"
            )
    if not target.exists():
        return
    config = target / CONFIG_FILE
    if not config.is_file() or not config.read_text(errors="replace").startswith(MARK):
        raise UserError(
            f"{target} exists and was not written by this command; choose another --name"
        )


def write_model(target: Path, files: dict[str, bytes]) -> None:
    """Writes the model beside its place and moves it there whole, because Triton may be watching.

    Raises:
        OSError: the system refused; what was there is still there.
    """
    with atomic_folder(target) as staging:
        for path, content in files.items():
            write_atomic(staging / path, content)
    remove_abandoned(target)


def _engine(bundle: Bundle, precision: str, capability: str | None) -> EngineRecord:
    """The one engine that is meant; UserError if there is none, or if there are several."""
    if precision not in TENSORRT.precisions:
        raise UserError(
            f"there are no {precision} engines; choose one of {', '.join(TENSORRT.precisions)}"
        )
    found = [
        engine
        for engine in bundle.card.engines
        # Triton's tensorrt backend does not load engines of TensorRT-RTX.
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
            f"`python export/build_trt.py {pasted(bundle.path)} --precision {precision} "
            "--flavor tensorrt`"
        )
    (engine,) = found
    if engine.profile.min > 1:
        raise UserError(
            f"{engine.path} takes batches from {engine.profile.min}, Triton also sends single "
            "images; build it with `--batch 1,OPT,MAX`"
        )
    return engine


def _onnx_file(bundle: Bundle, precision: str) -> ModelFile:
    """The ONNX file of a precision; UserError if the bundle has none."""
    if (file := bundle.card.file(precision)) is not None:
        return file
    listed = ", ".join(file.precision for file in bundle.card.files)
    raise UserError(
        f"{bundle.path} has no ONNX file of {precision}, only of {listed}; add it with "
        f"`python export/run.py {run_word(bundle.path)} "
        f"--precision {precision.removesuffix('-cpu')}`"
    )
