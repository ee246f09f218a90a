"""Cards of every schema version: what is read, what is ignored, what is refused and how.

`tests/runtime/data/bundle_of_schema_1` was written by the last version with that schema.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from runtime import BundleError, open_classifier
from runtime.backends.preflight import Machine, engine_mismatch
from runtime.inference.open_classifier import read_embedded_card
from runtime.model.bundle import open_bundle, read_card, write_card
from runtime.model.card import (
    SCHEMA_VERSION,
    Card,
    ClassRecall,
    DataSummary,
    EngineRecord,
    ModelFile,
    Parity,
    Profile,
    Provenance,
    Quality,
    Quantization,
    Threshold,
)
from runtime.model.card_json import card_from_json, json_from_card

OLD_BUNDLE = Path(__file__).parent.parent / "data" / "bundle_of_schema_1"

Json = dict[str, Any]
Change = Callable[[Json], object]


@pytest.fixture
def full_card(toy_bundle: Path) -> Card:
    """A card in which every optional part is there."""
    threshold = Threshold(probability=0.7, max_error=0.05, confidence=0.9, coverage=0.8, images=200)
    plain = read_card(toy_bundle)
    int8 = msgspec.structs.replace(
        plain.files[0],
        path="model.int8.onnx",
        precision="int8",
        quantization=Quantization(
            calibration="entropy of 500 training images",
            learned_ranges=True,
            higher_precision=("features.1.conv",),
            higher_precision_macs=0.04,
        ),
        threshold=threshold,
    )
    engine = EngineRecord(
        path="engines/model.int8.engine",
        sha256="1" * 64,
        precision="int8",
        flavor="tensorrt-rtx",
        tensorrt_version="1.7.0",
        compute_capability=("8.6", "8.9", "12.0"),
        gpu_name=None,
        platform="Linux-x86_64",
        profile=Profile(min=1, opt=4, max=16),
        onnx_sha256=int8.sha256,
        build_seconds=1.5,
        parity=plain.files[0].parity,
        threshold=threshold,
    )
    return msgspec.structs.replace(
        plain,
        provenance=msgspec.structs.replace(plain.provenance, terms=("drg", "dsr")),
        data=DataSummary(train_images=90, validation_images=10, test_images=24, digest="2" * 64),
        quality=Quality(
            balanced_accuracy=0.9,
            macro_f1=0.89,
            worst_class=ClassRecall(name="red", recall=0.75, images=8),
        ),
        files=(*plain.files, int8),
        engines=(engine,),
    )


def changed(card: Card, change: Change) -> bytes:
    """The card's JSON after `change` has edited it."""
    values = json.loads(json_from_card(card))
    change(values)
    return json.dumps(values).encode()


def test_a_card_is_read_as_it_was_written(full_card: Card, tmp_path: Path) -> None:
    write_card(tmp_path, full_card)
    assert read_card(tmp_path) == full_card
    written = json.loads((tmp_path / "card.json").read_bytes())
    assert (written["schema_version"], written["minimum_reader"]) == (4, 2)
    assert written["provenance"]["terms"] == ["drg", "dsr"]
    assert written["engines"][0]["compute_capability"] == ["8.6", "8.9", "12.0"]


def test_a_card_of_schema_1_is_read() -> None:
    card = read_card(OLD_BUNDLE)
    assert card.schema_version == SCHEMA_VERSION
    assert card.provenance.terms == ("drg", "dsr")
    assert card.provenance.history[0].loss == 0.5
    assert [file.precision for file in card.files] == ["fp32", "fp16", "int8-cpu"]
    assert [file.quantization for file in card.files] == [
        None,
        None,
        Quantization(calibration="minmax of 6 training images"),
    ]
    assert card.engines[0].compute_capability == ("8.6",)
    assert card.engines[0].build_seconds == 3.5
    assert card.data is card.quality is card.files[0].threshold is None


@pytest.mark.parametrize(
    ("terms", "recipe", "methods"),
    [
        ("ce", {}, ("ce",)),
        ("dsr", {"peer": "none"}, ("dsr",)),
        ("drg+dsr", {"epochs": 3}, ("drg", "dsr")),
        ("ce", {"peer": "zipf-ls"}, ("zipf-ls",)),  # schema 1 had no word for peers
    ],
)
def test_the_terms_of_schema_1_become_methods(
    terms: str, recipe: Json, methods: tuple[str, ...]
) -> None:
    values = json.loads((OLD_BUNDLE / "card.json").read_bytes())
    values["provenance"] |= {"terms": terms, "recipe": recipe}
    card = card_from_json(json.dumps(values), source="card")
    assert card.provenance.terms == methods


def test_a_bundle_of_schema_1_still_classifies(tmp_path: Path) -> None:
    """Its ONNX files, which carry their card themselves, do so without the bundle, too."""
    bundle = tmp_path / "bundle"
    shutil.copytree(OLD_BUNDLE, bundle)
    holdout = np.load(bundle / "holdout.npz")
    for file in read_card(bundle).files:
        lone = tmp_path / f"{file.precision}.onnx"
        shutil.copy(bundle / file.path, lone)
        assert read_embedded_card(lone).provenance.terms == ("drg", "dsr")
        for model, precision in ((bundle, file.precision), (lone, None)):
            with open_classifier(model, precision=precision, backend="onnx-cpu") as classifier:
                found = classifier.probabilities(holdout["images"])
                assert np.abs(found - holdout["probabilities"]).max() < 2e-3
                assert classifier.precision == file.precision
                best = classifier.classify(bundle / "examples" / "green.png")[0]
                assert best.label == "green"


def test_an_engine_of_schema_1_fits_the_machine_that_it_was_built_for() -> None:
    bundle = open_bundle(OLD_BUNDLE)
    (engine,) = bundle.card.engines
    machine = Machine(
        flavor="tensorrt-rtx",
        tensorrt_version="1.7.0.29",
        compute_capability="8.6",
        gpu_name="any",
        platform="Linux-x86_64",
    )
    assert engine_mismatch(bundle, engine, machine) is None
    other = Machine(**{**vars(machine), "compute_capability": "8"})
    words = "is for compute capability 8.6, this GPU (any) has 8"
    assert words in str(engine_mismatch(bundle, engine, other))


def test_a_card_of_schema_1_is_written_as_the_current_one(tmp_path: Path) -> None:
    card = read_card(OLD_BUNDLE)
    write_card(tmp_path, card)
    written = json.loads((tmp_path / "card.json").read_bytes())
    assert written["schema_version"] == SCHEMA_VERSION
    assert read_card(tmp_path) == card


def every_object(values: object) -> list[Json]:
    """All JSON objects in `values` that are structures of the card."""
    if isinstance(values, list):
        return [found for value in values for found in every_object(value)]
    if not isinstance(values, dict):
        return []
    free = ("recipe", "versions")  # mappings whose keys are data
    inner = [value for key, value in values.items() if key not in free]
    return [values, *every_object(inner)]


def test_unknown_keys_are_ignored_at_every_level(full_card: Card) -> None:
    count = 0

    def add(values: Json) -> None:
        nonlocal count
        values["schema_version"] = SCHEMA_VERSION + 1
        for found in every_object(values):
            found["from_the_future"] = {"a": [1]}
            count += 1

    text = changed(full_card, add)
    assert card_from_json(text, source="card") == full_card
    assert b"from_the_future" in text
    structures = (Card, ModelFile, Parity, Profile, Provenance, Quality, Quantization, Threshold)
    assert count > len(structures)


def test_a_newer_card_that_allows_it_is_read_without_the_files_of_new_kinds(
    full_card: Card,
) -> None:
    def add(values: Json) -> None:
        values["schema_version"] = 7
        values["files"].append(values["files"][0] | {"precision": "int4", "path": "x.onnx"})
        values["engines"].append(values["engines"][0] | {"flavor": "tensorrt-next"})

    assert card_from_json(changed(full_card, add), source="card") == full_card

    def add_to_present(values: Json) -> None:
        add(values)
        values["schema_version"] = SCHEMA_VERSION

    with pytest.raises(BundleError, match=r"Invalid enum value 'int4'"):
        card_from_json(changed(full_card, add_to_present), source="card")


@pytest.mark.parametrize(
    ("versions", "needed"),
    [
        ({"schema_version": 9, "minimum_reader": 5}, 5),
        ({"schema_version": 9, "minimum_reader": None}, 9),
    ],
)
def test_a_card_for_newer_readers_is_refused_in_one_line(
    full_card: Card, versions: Json, needed: int
) -> None:
    def edit(values: Json) -> None:
        values |= versions
        if values["minimum_reader"] is None:
            del values["minimum_reader"]
        values["input"]["fit"] = "panorama"

    with pytest.raises(BundleError) as refused:
        card_from_json(changed(full_card, edit), source="bundle/card.json")
    assert str(refused.value) == (
        f"bundle/card.json needs a reader of card schema {needed}, and this version reads schemas "
        "up to 4; update SKD Edge here, or export the run again with this version"
    )


def put(values: Any, place: str, value: object) -> None:
    """Sets what `place` names, such as "files.0.path"."""
    *parents, last = place.split(".")
    for key in parents:
        values = values[int(key) if key.isdecimal() else key]
    values[last] = value


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("schema_version", "2", "schema_version is '2', expected a whole"),
        ("schema_version", 0, "schema_version is 0, expected a whole"),
        ("schema_version", None, "schema_version is None, expected a whole"),
        ("minimum_reader", [], r"minimum_reader is \[\], expected a whole"),
        ("provenance.terms", "drg+dsr", r"`array`, got `str`.*terms"),
        ("provenance.terms", [], r"length >= 1.*terms"),
        ("engines.0.compute_capability", "8.6", r"`array`, got `str`.*engines"),
        ("engines.0.compute_capability", [], r"length >= 1.*engines"),
        ("engines.0.path", "../x", "leaves the bundle"),
        ("engines", [3], r"`object`, got `int`.*engines"),
        ("data", [1], r"`object \| null`, got `array`.*data"),
        ("quality.macro_f1", 2, r"<= 1.*quality\.macro_f1"),
        ("files.2.threshold", {"probability": 0.5}, r"required field `max_error`.*threshold"),
        ("files.2.quantization", "entropy", r"got `str`.*quantization"),
        ("files", {}, r"`array`, got `object`.*files"),
        ("class_names", [], "class_names is empty"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(
    full_card: Card, place: str, value: object, words: str
) -> None:
    text = changed(full_card, lambda values: put(values, place, value))
    with pytest.raises(BundleError, match=rf"^here is not a valid model card \(.*{words}") as error:
        card_from_json(text, source="here")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("provenance", 3),
        ("provenance.terms", 3),
        ("provenance.recipe", 3),
        ("files", 3),
        ("files", [3]),
        ("files.2.calibration", 3),
        ("engines", {"a": 1}),
        ("engines", [None]),
        ("engines.0.compute_capability", 8.6),
    ],
)
def test_a_wrong_value_in_schema_1_is_refused_in_one_line(place: str, value: object) -> None:
    values = json.loads((OLD_BUNDLE / "card.json").read_bytes())
    put(values, place, value)
    with pytest.raises(BundleError, match=r"^here is not a valid model card \(.*\$") as error:
        card_from_json(json.dumps(values), source="here")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '"card"', "[" * 10_000])
def test_what_is_no_card_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(BundleError, match=r"^here is not a valid model card \(.+\)") as error:
        card_from_json(text, source="here")
    assert "\n" not in str(error.value)
