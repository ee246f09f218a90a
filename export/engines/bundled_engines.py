"""The engines of a bundle: built, verified if they can run here, and listed in its card."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from export.bundles.file_threshold import Fitted, fitted
from export.engines.build_engine import BuildRequest, BuiltEngine, build_engine
from export.engines.engine_records import list_engine, replace_record
from export.engines.flavors import EngineFlavor, Target
from runtime.backends import choice as backends
from runtime.backends.engine_session import EngineSession
from runtime.backends.preflight import engine_problem, this_machine, this_platform
from runtime.backends.tensorrt_library import LoadedEngine
from runtime.base.errors import BackendError, BundleError, VerificationError
from runtime.base.files import sha256_of_bytes
from runtime.base.shown_text import pasted
from runtime.evaluation import gate
from runtime.evaluation.threshold import DEFAULT_MAX_ERROR
from runtime.model.bundle import Bundle
from runtime.model.card import (
    ENGINE_FOLDER,
    FLAVORS,
    EnginePrecision,
    EngineRecord,
    Parity,
    Profile,
)
from runtime.model.holdout import (
    VALIDATION_FILE,
    KeptApart,
    Labelled,
    read_holdout,
    read_validation,
)

_NOT_RUN = "it has not run; `python export/build_trt.py BUNDLE --verify` on its GPU finds one"


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How engines are built, whatever their precision and GPU.

    Attributes:
        profile: the batches that an engine takes.
        workspace_bytes: what the builder may use for a layer; None: its own limit.
        optimization_level: 0 to 5; None: the builder's default.
        allow_drop: whether engines outside their tolerance are kept.
    """

    profile: Profile
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    allow_drop: bool = False


def add_engine(
    bundle: Bundle,
    flavor: EngineFlavor,
    precision: EnginePrecision,
    target: Target,
    options: EngineOptions,
    say: Callable[[str], None],
) -> EngineRecord:
    """Builds an engine of the bundle's ONNX file, verifies it if it can run here, and lists it.

    `say` is told what is being done.

    Raises:
        BundleError: the bundle has no such ONNX file, or it was replaced during the build; then
            the engine is not kept.
        BackendError: TensorRT refused the graph or the configuration.
        VerificationError: the engine is outside its tolerance or of another precision; then it is
            not kept.
    """
    model = bundle.card.file(precision)
    if model is None:
        raise BundleError(f"{bundle.path} has no ONNX file of {precision}; export it first")
    path = f"{ENGINE_FOLDER}/model.{precision}.{flavor.name}.{_short(target)}.engine"
    say(f"building {path}")
    built = build_engine(
        flavor,
        BuildRequest(
            model=bundle.read(model),
            source=model.path,
            precision=precision,
            profile=options.profile,
            input_size=bundle.card.input.size,
            target=target,
            workspace_bytes=options.workspace_bytes,
            optimization_level=options.optimization_level,
            timing_cache=bundle.path / ENGINE_FOLDER / _cache_name(flavor, target),
        ),
    )
    record = EngineRecord(
        path=path,
        sha256=sha256_of_bytes(built.plan),
        precision=precision,
        flavor=flavor.name,
        tensorrt_version=flavor.version,
        compute_capability=target,
        gpu_name=flavor.gpu_name(),
        platform=this_platform(),
        profile=options.profile,
        onnx_sha256=model.sha256,
        build_seconds=round(built.seconds, 2),
    )
    if (reason := why_not_here(record)) is not None:
        say(f"not run: {reason}")
        record = msgspec.structs.replace(record, no_threshold=_NOT_RUN)
    else:
        images = read_holdout(bundle.path, bundle.card), read_validation(bundle.path)
        record = _verified(built, record, bundle, *images, allow_drop=options.allow_drop)
    list_engine(bundle.path, record, built.plan)
    return record


def verify_listed(bundle: Bundle, *, allow_drop: bool, say: Callable[[str], None]) -> None:
    """Runs the listed engines that fit this machine, and enters the results in the card.

    It is for engines that were built where no GPU could run them. An engine outside its tolerance
    is no longer listed and its file is removed, after all engines have been run.

    Raises:
        VerificationError: some engines are outside their tolerance.
        BackendError: no engine runs here.
        BundleError: a file of the bundle is missing or damaged.
    """
    problems = {
        option.record.path: option.problem
        for flavor in FLAVORS
        for option in backends.options(bundle, flavor)
    }
    fitting: list[EngineRecord] = []
    for record in bundle.card.engines:
        if problem := problems[record.path]:
            say(f"not run: {problem}")
        else:
            fitting.append(record)
    if not fitting:
        raise BackendError(
            f"{bundle.path} has no engine that runs here; build one: "
            f"`python export/build_trt.py {pasted(bundle.path)}`"
        )
    images = read_holdout(bundle.path, bundle.card), read_validation(bundle.path)
    failed: list[VerificationError] = []
    for record in fitting:
        say(f"running {record.path}")
        plan = BuiltEngine(bundle.read(record), seconds=0)
        try:
            verified = _verified(plan, record, bundle, *images, allow_drop=allow_drop)
        except VerificationError as error:
            failed.append(error)
            replace_record(bundle.path, record, None)
        else:
            replace_record(bundle.path, record, verified)
    if failed:
        raise VerificationError("; ".join(map(str, failed)))


def why_not_here(record: EngineRecord) -> str | None:
    """Why an engine that was just built cannot run on this machine; None if it can."""
    if problem := engine_problem(record.flavor):
        return problem.reason
    machine = this_machine(record.flavor)
    if machine.compute_capability not in record.compute_capability:
        return f"this GPU has compute capability {machine.compute_capability}"
    return None


def verify_engine(
    plan: bytes,
    record: EngineRecord,
    holdout: Labelled,
    class_names: Sequence[str],
    *,
    loaded: LoadedEngine | None = None,
) -> Parity:
    """Compares an engine with torch's probabilities, with the session that a user gets.

    `loaded` is the engine if `plan` has been deserialised already.

    Raises:
        BackendError: TensorRT or CUDA is missing, or a call of theirs failed.
        BundleError: TensorRT refuses the plan, or it is not one of this project's networks.
    """
    found = engine_answers(plan, record, holdout.images, loaded=loaded)
    return gate.compare(found, holdout.probabilities, holdout.labels, class_names)


def engine_answers(
    plan: bytes,
    record: EngineRecord,
    images: NDArray[np.uint8],
    *,
    loaded: LoadedEngine | None = None,
) -> NDArray[np.float32]:
    """The engine's probabilities (N, K) of uint8 images (N, S, S, 3), as `verify_engine` runs it.

    Raises:
        BackendError, BundleError: as `verify_engine`.
    """
    with EngineSession(
        plan, source=record.path, flavor=record.flavor, profile=record.profile, loaded=loaded
    ) as session:
        return np.concatenate([session.run(b) for b in _batches(images, record)])


def _batches(images: NDArray[np.uint8], record: EngineRecord) -> list[NDArray[np.uint8]]:
    """Cuts `images` into batches of the profile's three sizes in turn.

    The last one may be smaller than the profile allows; the session fills it up.
    """
    profile = record.profile
    sizes = (profile.min, profile.opt, profile.max)
    batches: list[NDArray[np.uint8]] = []
    start = 0
    while start < len(images):
        batch = images[start : start + sizes[len(batches) % len(sizes)]]
        batches.append(batch)
        start += len(batch)
    return batches


def _verified(
    built: BuiltEngine,
    record: EngineRecord,
    bundle: Bundle,
    holdout: Labelled,
    kept: KeptApart | None,
    *,
    allow_drop: bool,
) -> EngineRecord:
    """`record` with the measured accuracy and the engine's own threshold.

    Raises:
        VerificationError: it is outside its tolerance.
    """
    card = bundle.card
    parity = verify_engine(built.plan, record, holdout, card.class_names, loaded=built.loaded)
    complaint = gate.complaint(parity, record.precision)
    if complaint is not None and not allow_drop:
        raise VerificationError(
            f"{record.path} not kept: {complaint}; --allow-drop keeps it in spite of that"
        )
    threshold = Fitted(threshold=None, no_threshold=_why_none(bundle, record))
    if kept is not None:
        threshold = fitted(
            kept,
            lambda images: engine_answers(built.plan, record, images),
            max_error=card.max_error or DEFAULT_MAX_ERROR,
        )
    return msgspec.structs.replace(record, parity=parity, **threshold)


def _why_none(bundle: Bundle, record: EngineRecord) -> str:
    """Why an engine of a bundle without `validation.npz` has no threshold."""
    model = bundle.card.file(record.precision)
    if model is not None and model.no_threshold is not None:
        return model.no_threshold
    return f"the bundle was exported without {VALIDATION_FILE}"


def _short(target: Target) -> str:
    """The target as file names have it: "sm86", or "sm86-89-120" of one engine for several."""
    return "sm" + "-".join(capability.replace(".", "") for capability in target)


def _cache_name(flavor: EngineFlavor, target: Target) -> str:
    return f"timing.{flavor.name}.{flavor.version}.{_short(target)}.cache"
