"""Which ONNX files a build has to export first, and from where."""

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from export.engines.onnx_sources import MissingOnnx, find_onnx, locate
from runtime.base.errors import UserError
from runtime.model.bundle import Bundle, read_card, write_card


def ensure(path: Path, *precisions: str, newest_opset: int | None = 20) -> list[tuple[tuple, int]]:
    """The precisions and the opset that would be exported; empty if the bundle has all files."""
    place = locate(path)
    found = find_onnx(place, precisions, newest_opset=newest_opset, allow_drop=False)
    if isinstance(found, MissingOnnx):
        assert found.run == place.run
        return [(found.options.precisions, found.options.opset)]
    assert isinstance(found, Bundle)
    assert found.path == place.bundle
    return []


def drop(bundle: Path, precision: str) -> None:
    card = json.loads((bundle / "card.json").read_text())
    card["files"] = [file for file in card["files"] if file["precision"] != precision]
    (bundle / "card.json").write_text(json.dumps(card))


def test_what_is_there_is_not_exported_again(exported_run: Path, bundle: Path) -> None:
    assert ensure(exported_run, "fp32", "fp16") == []
    assert ensure(bundle, "fp32", "fp16", "int8", newest_opset=17) == []
    assert ensure(bundle, "fp32", "fp16", "int8", newest_opset=None) == []


def test_a_missing_precision_is_exported_from_the_run(exported_run: Path) -> None:
    drop(exported_run / "bundle", "fp16")
    assert ensure(exported_run, "fp16", "fp32") == [(("fp16",), 20)]
    assert ensure(exported_run, "fp16", "int8", newest_opset=None) == [(("fp16",), 20)]


def test_a_run_without_a_bundle_also_gets_the_float32_file(exported_run: Path) -> None:
    shutil.rmtree(exported_run / "bundle")
    assert ensure(exported_run, "fp16") == [(("fp32", "fp16"), 20)]


def test_a_corrupt_card_or_another_checkpoint_is_exported_anew(exported_run: Path) -> None:
    whole = (exported_run / "bundle" / "card.json").read_text()
    (exported_run / "bundle" / "card.json").write_text("{")
    assert ensure(exported_run, "fp16") == [(("fp32", "fp16"), 20)]
    (exported_run / "bundle" / "card.json").write_text(whole)
    assert ensure(exported_run, "int8", newest_opset=17) == []
    (exported_run / "checkpoint.pt").write_bytes(b"trained again")
    assert ensure(exported_run, "int8", newest_opset=17) == [(("fp32", "int8"), 17)]


def test_tensorrt_8_gets_an_opset_that_it_reads(exported_run: Path) -> None:
    card = read_card(exported_run / "bundle")
    assert ensure(exported_run, "fp16", newest_opset=17) == []
    newer = [msgspec.structs.replace(file, opset=20) for file in card.files]
    write_card(exported_run / "bundle", msgspec.structs.replace(card, files=tuple(newer)))
    assert ensure(exported_run, "fp16", newest_opset=20) == []
    assert ensure(exported_run, "fp16", newest_opset=17) == [(("fp16",), 17)]
    with pytest.raises(
        UserError, match=r"of opset 20, this TensorRT reads up to 17; .*fp16 --opset 17 --out"
    ):
        ensure(locate(exported_run).bundle, "fp16", newest_opset=17)


@pytest.mark.parametrize("opset", [17, 18])
def test_int8_for_8_6_is_not_built_by_a_strongly_typed_version(
    exported_run: Path, opset: int
) -> None:
    """Its scales are float32, so all layers that are not int8 would run in float32, too."""
    card = read_card(exported_run / "bundle")
    older = [msgspec.structs.replace(file, opset=opset) for file in card.files]
    write_card(exported_run / "bundle", msgspec.structs.replace(card, files=tuple(older)))
    assert ensure(exported_run, "fp16", "int8") == [(("int8",), 20)]
    with pytest.raises(
        UserError,
        match=rf"bundle has model\.int8\.onnx of opset {opset}, too old for this TensorRT, which "
        r"needs 19 or newer for int8; .*--precision int8 --opset 20 --out",
    ):
        ensure(exported_run / "bundle", "fp16", "int8")


def test_a_bundle_without_the_file_says_where_to_export_it(bundle: Path) -> None:
    drop(bundle, "fp16")
    with pytest.raises(
        UserError, match=r"no ONNX file of fp16; .*--precision fp16 --opset 20 --out"
    ):
        ensure(bundle, "fp16")
