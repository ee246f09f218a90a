"""The engines of a bundle: built, verified if they can run here, and listed in its card."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from export.bundles.file_threshold import Fitted, fitted
from export.engines.build_engine import BuildRequest, BuiltEngine, build_engine
from export.engines.engine_answers import engine_answers, verify_engine
from export.engines.flavors import EngineFlavor, Target
from runtime.backends import choice as backends
from runtime.backends.preflight import engine_problem, this_machine, this_platform
from runtime.base.errors import BackendError, BundleError, UserError, VerificationError
from runtime.base.files import sha256_of_bytes, write_atomic
from runtime.base.shown_text import pasted
from runtime.evaluation import gate
from runtime.evaluation.threshold import DEFAULT_MAX_ERROR
from runtime.model.bundle import Bundle, locked_card, read_card, write_card
from runtime.model.card import (
    ENGINE_FOLDER,
    FLAVORS,
    EnginePrecision,
    EngineRecord,
    Flavor,
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
        BundleError: the bundle has no such ONNX file, or no images to verify the engine with; or
            the ONNX file was replaced during the build, and then the engine is not kept.
        BackendError: TensorRT refused the graph or the configuration.
        VerificationError: the engine is outside its tolerance or of another precision; then it is
            not kept.
    """
    model = bundle.card.file(precision)
    if model is None:
        raise BundleError(f"{bundle.path} has no ONNX file of {precision}; export it first")
    path = f"{ENGINE_FOLDER}/model.{precision}.{flavor.name}.{_short(target)}.engine"
    # A build takes minutes. What the engine will be verified with must be there before.
    images = None
    if (reason := why_not_here(flavor.name, target)) is None:
        images = read_holdout(bundle.path, bundle.card), read_validation(bundle.path)
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
    if images is None:
        say(f"not run: {reason}")
        record = msgspec.structs.replace(record, no_threshold=_NOT_RUN)
    else:
        record = _verified(built, record, bundle, *images, allow_drop=options.allow_drop)
    list_engine(bundle.path, record, built.plan)
    return record


def verify_listed(bundle: Bundle, *, allow_drop: bool, say: Callable[[str], None]) -> None:
    """Runs the listed engines that fit this machine, and enters the results in the card.

    It is for engines that were built where no GPU could run them. An engine outside its tolerance
    is removed with its record as soon as it has been run. Errors are raised behind the last engine.

    Raises:
        VerificationError: some engines are outside their tolerance.
        BackendError: no engine runs here.
        UserError: a file of the bundle is missing or damaged, or an engine cannot be run.
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
    errors: list[UserError | VerificationError] = []
    for record in fitting:
        say(f"running {record.path}")
        try:
            plan = BuiltEngine(bundle.read(record), seconds=0)
            try:
                verified = _verified(plan, record, bundle, *images, allow_drop=allow_drop)
            except VerificationError as error:
                errors.append(error)
                verified = None
            replace_record(bundle.path, record, verified)
        except UserError as error:
            errors.append(error)
    raise_together(errors)


def raise_together(errors: Sequence[UserError | VerificationError]) -> None:
    """Raises the errors of several engines as one, if there are any.

    Raises:
        VerificationError: one of them is of this kind.
        UserError: all of them are of this kind. A single error is raised as it is.
    """
    if len(errors) == 1:
        raise errors[0]
    words = "; ".join(dict.fromkeys(map(str, errors)))
    if any(isinstance(error, VerificationError) for error in errors):
        raise VerificationError(words)
    if errors:
        raise UserError(words)


def why_not_here(flavor: Flavor, target: Target) -> str | None:
    """Why an engine that is built on this machine cannot run on it; None if it can."""
    if problem := engine_problem(flavor):
        return problem.reason
    machine = this_machine(flavor)
    if machine.compute_capability not in target:
        return f"this GPU has compute capability {machine.compute_capability}"
    return None


def list_engine(folder: Path, record: EngineRecord, plan: bytes) -> None:
    """Writes `plan` into the bundle `folder` and lists it, in place of the engine of its path.

    Raises:
        BundleError: the bundle no longer has the ONNX file from which the engine was built. Then
            nothing is written.
    """
    with locked_card(folder):
        card = read_card(folder)
        if record.onnx_sha256 not in {file.sha256 for file in card.files}:
            raise BundleError(
                f"{folder / record.path} not kept: the ONNX file of {record.precision} that it is "
                "of was replaced meanwhile; build it again"
            )
        others = [engine for engine in card.engines if engine.path != record.path]
        write_atomic(folder / record.path, plan)
        write_card(folder, msgspec.structs.replace(card, engines=(*others, record)))


def replace_record(folder: Path, former: EngineRecord, record: EngineRecord | None) -> None:
    """Lists `record` in place of `former`, of the same file; None removes record and file.

    Raises:
        BundleError: another process has replaced the engine meanwhile. Then nothing is changed.
    """
    with locked_card(folder):
        card = read_card(folder)
        others = [engine for engine in card.engines if engine.path != former.path]
        listed = {(engine.path, engine.sha256) for engine in card.engines}
        if (former.path, former.sha256) not in listed:
            raise BundleError(
                f"{folder / former.path} was replaced while it was run; run the command again"
            )
        engines = others if record is None else [*others, record]
        if record is None:  # before the new card, which others can lock and list a new engine in
            (folder / former.path).unlink(missing_ok=True)
        write_card(folder, msgspec.structs.replace(card, engines=tuple(engines)))


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
    exported = gate.at_export(card, record)
    complaint = gate.complaint(parity, record.precision, exported=exported)
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
