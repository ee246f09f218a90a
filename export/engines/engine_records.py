"""The engines that a bundle's card lists: one is added, replaced or removed at a time.

The card is read again under its lock whenever an engine is listed. A build takes minutes, and a
card that was read before it could lack an engine that another process has listed meanwhile.
"""

from pathlib import Path

import msgspec

from export.bundles.card_lock import locked_card
from runtime.base.errors import BundleError
from runtime.base.files import write_atomic
from runtime.model.bundle import read_card, write_card
from runtime.model.card import EngineRecord


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
        write_card(folder, msgspec.structs.replace(card, engines=tuple(engines)))
        if record is None:
            (folder / former.path).unlink(missing_ok=True)
