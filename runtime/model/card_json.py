"""A card as JSON: which versions of it can be read, and how those of other versions are read.

A card states two numbers. `schema_version` is the schema of the program that wrote the card.
`minimum_reader` is the lowest schema that a program must know to understand the card correctly.
These are the rules for changes of the schema:

- A new key that readers may ignore is optional. It raises `schema_version` alone. Readers ignore
  all keys that they do not know, at every level, so that an older runtime reads the newer card.
- A new key or value may change how images are prepared, or what answers mean. Then the cards that
  use it, and only those, also have a higher `minimum_reader`. An older runtime refuses them in one
  line instead of giving wrong answers.
- A new precision or flavor raises `schema_version` alone. An older runtime leaves out the files and
  engines that it cannot run, and uses the others.
"""

import codecs
from collections.abc import Mapping
from typing import Any

import msgspec

from runtime.base.errors import BundleError
from runtime.model.card import FLAVORS, MINIMUM_READER, PRECISIONS, SCHEMA_VERSION, Card


def card_from_json(text: bytes | str, *, source: str) -> Card:
    """Reads a card of this schema, of an older one, or of a newer one that allows it.

    Args:
        text: the card's JSON.
        source: what to call the card in an error, such as its path.

    Raises:
        BundleError: the text is no card, a value has the wrong type, or it needs a newer reader.
    """
    encoded = text.encode() if isinstance(text, str) else text
    try:
        # Some editors of Windows put a byte order mark before the text.
        card = msgspec.json.decode(encoded.removeprefix(codecs.BOM_UTF8), type=dict[str, Any])
        needed = _needed_reader(card)
        if needed <= SCHEMA_VERSION:
            current = _as_current(card)
            return msgspec.convert(current, Card)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise BundleError(
            f"{source} is not a valid model card ({error}); "
            "export the run again with `python export/run.py`"
        ) from error
    raise BundleError(
        f"{source} needs a reader of card schema {needed}, and this version reads schemas up to "
        f"{SCHEMA_VERSION}; update SKD Edge here, or export the run again with this version"
    )


def json_from_card(card: Card) -> bytes:
    """The card as indented JSON, with a final newline."""
    return msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n"


def _needed_reader(card: Mapping[str, Any]) -> int:
    """The lowest schema version whose reader understands a decoded card.

    A card without `minimum_reader` needs a reader of its own schema.

    Raises:
        ValueError: the card states no version.
    """
    version = card.get("schema_version")
    needed = card.get("minimum_reader", version)
    for key, value in (("schema_version", version), ("minimum_reader", needed)):
        if type(value) is not int or value < 1:
            raise ValueError(f"{key} is {value!r}, expected a whole number above 0")
    return int(needed)


def _as_current(card: Mapping[str, Any]) -> dict[str, Any]:
    """A decoded card that this version can read, as one of `SCHEMA_VERSION`.

    Values are not checked here: one of a wrong type stays as it is, and the check that follows
    refuses it.
    """
    current = dict(card)
    if card["schema_version"] == 1:
        current = _from_schema_1(current)
    elif card["schema_version"] > SCHEMA_VERSION:
        current = _without_unknown_files(current)
    return current | {"schema_version": SCHEMA_VERSION}


def _from_schema_1(card: dict[str, Any]) -> dict[str, Any]:
    """A card of schema 1 with the names and types that schema 2 has for the same things."""
    card["minimum_reader"] = MINIMUM_READER
    provenance = card.get("provenance")
    if isinstance(provenance, dict) and isinstance(provenance.get("terms"), str):
        card["provenance"] = provenance | {"terms": _methods(provenance)}
    if isinstance(card.get("files"), list):
        card["files"] = [_file_of_schema_1(file) for file in card["files"]]
    if isinstance(card.get("engines"), list):
        card["engines"] = [_engine_of_schema_1(engine) for engine in card["engines"]]
    return card


def _methods(provenance: dict[str, Any]) -> list[str]:
    """Schema 1 wrote "drg+dsr". It wrote "ce" for every peer, whose name was in the recipe."""
    recipe = provenance.get("recipe")
    peer = recipe.get("peer", "none") if isinstance(recipe, dict) else "none"
    terms: str = provenance["terms"]
    return terms.split("+") if peer == "none" else [peer]


def _file_of_schema_1(file: Any) -> Any:
    if not isinstance(file, dict) or "calibration" not in file:
        return file
    others = {key: value for key, value in file.items() if key != "calibration"}
    if file["calibration"] is None:
        return others
    return others | {"quantization": {"calibration": file["calibration"]}}


def _engine_of_schema_1(engine: Any) -> Any:
    """Schema 1 had one compute capability for each engine, and no list."""
    if not isinstance(engine, dict) or "compute_capability" not in engine:
        return engine
    return engine | {"compute_capability": [engine["compute_capability"]]}


def _without_unknown_files(card: dict[str, Any]) -> dict[str, Any]:
    """A newer card without the files and engines of kinds that this version does not know."""

    def is_known(record: Any) -> bool:
        if not isinstance(record, dict):
            return True  # the check that follows refuses it
        flavor = record.get("flavor", FLAVORS[0])  # ONNX files have no flavor
        return record.get("precision") in PRECISIONS and flavor in FLAVORS

    for key in ("files", "engines"):
        if isinstance(card.get(key), list):
            card[key] = [record for record in card[key] if is_known(record)]
    return card
