"""What an engine answers in the session that a user gets, and how near it is to torch's answers."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from runtime.backends.engine_session import EngineSession
from runtime.backends.tensorrt_library import LoadedEngine
from runtime.evaluation import gate
from runtime.model.card import EngineRecord, Parity
from runtime.model.holdout import Labelled


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
