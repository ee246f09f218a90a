"""Engines in a bundle: built, verified where they can run, and listed in the card one by one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from export.bundles import gate
from export.engines.build_engine import BuildRequest, build_engine
from export.engines.flavors import EngineFlavor
from export.engines.verify import verify_engine, why_not_here
from runtime.backends import choice as backends
from runtime.backends.preflight import this_platform
from runtime.base.errors import BackendError, BundleError, VerificationError
from runtime.base.files import sha256_of_bytes, write_atomic
from runtime.model.bundle import Bundle, open_bundle, read_card, write_card
from runtime.model.card import ENGINE_FOLDER, FLAVORS, EnginePrecision, EngineRecord, Profile
from runtime.model.holdout import read_holdout


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How engines are built, whatever their precision and GPU."""

    profile: Profile
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    allow_drop: bool = False


def add_engine(
    folder: Path,
    flavor: EngineFlavor,
    precision: EnginePrecision,
    capability: str,
    options: EngineOptions,
    say: Callable[[str], None],
) -> EngineRecord:
    """Builds an engine of the bundle's ONNX file, verifies it if it can run here, and lists it.

    VerificationError if it is outside its tolerance, BundleError if the ONNX file was replaced
    while it was built; then it is not kept.
    """
    bundle = open_bundle(folder)
    model = bundle.card.file(precision)
    if model is None:
        raise BundleError(f"{folder} has no ONNX file of {precision}; export it first")
    stem = f"{flavor.name}.sm{capability.replace('.', '')}"
    path = f"{ENGINE_FOLDER}/model.{precision}.{stem}.engine"
    say(f"building {path}")
    built = build_engine(
        flavor,
        BuildRequest(
            model=bundle.read(model),
            source=model.path,
            precision=precision,
            profile=options.profile,
            input_size=bundle.card.input.size,
            capability=capability,
            workspace_bytes=options.workspace_bytes,
            optimization_level=options.optimization_level,
            timing_cache=folder / ENGINE_FOLDER / _cache_name(flavor, capability),
        ),
    )
    record = EngineRecord(
        path=path,
        sha256=sha256_of_bytes(built.plan),
        precision=precision,
        flavor=flavor.name,
        tensorrt_version=flavor.version,
        compute_capability=(capability,),
        gpu_name=flavor.gpu_name(capability),
        platform=this_platform(),
        profile=options.profile,
        onnx_sha256=model.sha256,
        build_seconds=round(built.seconds, 2),
    )
    if (reason := why_not_here(record)) is not None:
        say(f"not run: {reason}")
    else:
        record = _verified(bundle, built.plan, record, allow_drop=options.allow_drop)
    _list(folder, path, record, built.plan)
    return record


def verify_listed(folder: Path, *, allow_drop: bool, say: Callable[[str], None]) -> None:
    """Runs the listed engines that fit this machine, and enters in the card what they gave.

    For engines that were built where no GPU could run them. VerificationError, after all of them,
    if some are outside their tolerance; then those are no longer listed, and removed. BackendError
    if none fits.
    """
    bundle = open_bundle(folder)
    problems = {
        option.record.path: option.problem
        for flavor in FLAVORS
        for option in backends.options(bundle, flavor)
    }
    failed: list[VerificationError] = []
    for record in bundle.card.engines:
        if problem := problems[record.path]:
            say(f"not run: {problem}")
            continue
        say(f"running {record.path}")
        plan = bundle.read(record)
        try:
            _list(folder, record.path, _verified(bundle, plan, record, allow_drop=allow_drop))
        except VerificationError as error:
            failed.append(error)
            _list(folder, record.path, None)
            (folder / record.path).unlink()
    if failed:
        raise VerificationError("; ".join(map(str, failed)))
    if all(problems.values()):
        raise BackendError(
            f"{folder} has no engine that runs here; build one: "
            f"`python export/build_trt.py {folder}`"
        )


def _list(folder: Path, path: str, record: EngineRecord | None, plan: bytes | None = None) -> None:
    """Puts `record` in the card in place of the one of `path`, and a new `plan` in its file.

    Without a record, that of `path` is taken away. BundleError, and nothing is written, if the
    bundle no longer has the ONNX file that the engine is of.
    """
    card = read_card(folder)  # anew: a build takes minutes, and another may have ended meanwhile
    engines = [engine for engine in card.engines if engine.path != path]
    if record is not None:
        if record.onnx_sha256 not in {file.sha256 for file in card.files}:
            raise BundleError(
                f"{folder / path} not kept: the ONNX file of {record.precision} that it is of was "
                "replaced meanwhile; build it again"
            )
        engines.append(record)
    if plan is not None:
        write_atomic(folder / path, plan)
    write_card(folder, msgspec.structs.replace(card, engines=tuple(engines)))


def _verified(
    bundle: Bundle, plan: bytes, record: EngineRecord, *, allow_drop: bool
) -> EngineRecord:
    """`record` with what the engine gave; VerificationError if that is outside the tolerance."""
    parity = verify_engine(plan, record, read_holdout(bundle.path))
    complaint = gate.complaint(parity, record.precision)
    if complaint is not None and not allow_drop:
        raise VerificationError(
            f"{record.path} not kept: {complaint}; --allow-drop keeps it in spite of that"
        )
    return msgspec.structs.replace(record, parity=parity)


def _cache_name(flavor: EngineFlavor, capability: str) -> str:
    return f"timing.{flavor.name}.{flavor.version}.sm{capability.replace('.', '')}.cache"
