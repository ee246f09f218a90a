"""Runs a new engine on the bundle's holdout images, with the session that a user gets."""

import numpy as np
from numpy.typing import NDArray

from export.bundles.gate import compare
from runtime.backends.engine_session import EngineSession
from runtime.backends.preflight import this_machine
from runtime.base.errors import BackendError
from runtime.model.card import EngineRecord, Parity
from runtime.model.holdout import Labelled


def why_not_here(record: EngineRecord) -> str | None:
    """Why an engine cannot run on this machine; None if it can."""
    try:
        machine = this_machine(record.flavor)
    except BackendError as missing:
        return str(missing)
    if machine.compute_capability not in record.compute_capability:
        return f"this GPU has compute capability {machine.compute_capability}"
    return None


def verify_engine(plan: bytes, record: EngineRecord, holdout: Labelled) -> Parity:
    """Compares the engine with torch's probabilities, in batches of its profile."""
    with EngineSession(
        plan, source=record.path, flavor=record.flavor, profile=record.profile
    ) as session:
        found = np.concatenate([session.run(b) for b in _batches(holdout.images, record)])
    return compare(found, holdout.probabilities, holdout.labels)


def _batches(images: NDArray[np.uint8], record: EngineRecord) -> list[NDArray[np.uint8]]:
    """Batches of the profile's three sizes in turn; the session fills up a rest below them."""
    profile = record.profile
    sizes = (profile.min, profile.opt, profile.max)
    batches: list[NDArray[np.uint8]] = []
    start = 0
    while start < len(images):
        batch = images[start : start + sizes[len(batches) % len(sizes)]]
        batches.append(batch)
        start += len(batch)
    return batches
