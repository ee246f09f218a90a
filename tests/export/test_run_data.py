"""An export of other data than the run's, of data that moved, and of a result that is not true."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from export import build_trt
from export import run as export_command
from export.trained_run import RunToExport, read_run
from runtime.base.errors import UserError, VerificationError
from runtime.model.bundle import open_bundle
from runtime.model.card_json import card_from_json, json_from_card
from training.data import Dataset
from training.records.checkpoint import load_trained, read_checkpoint, save_checkpoint


def read(folder: Path, **moved: Any) -> RunToExport:
    return read_run(folder, lambda _text: None, **moved)


def with_checkpoint(folder: Path, *, finished: bool, **changes: object) -> None:
    path = folder / "checkpoint.pt"
    checkpoint = read_checkpoint(path)
    plan = msgspec.structs.replace(checkpoint.plan, **changes)
    save_checkpoint(path, replace(checkpoint, plan=plan, finished=finished))


@pytest.fixture
def data(patterns_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(patterns_folder, tmp_path / "elsewhere" / "patterns")


@pytest.fixture
def finished_run(fitted_run: Path, patterns: Dataset, data: Path, tmp_path: Path) -> Path:
    """The fitted run with a result and the digests of its data, which lie in a folder of its own.

    A test may change both.
    """
    folder = shutil.copytree(fitted_run, tmp_path / "finished")
    with_checkpoint(
        folder,
        finished=True,
        data_argument=str(data),
        data_digest=patterns.digest(),
        content_digest=patterns.content_digest(),
    )
    measured = read(folder).card.provenance
    fields = ("epochs", "top1", "top5", "ece", "params", "macs", "recipe", "versions")
    result = {name: msgspec.to_builtins(getattr(measured, name)) for name in fields}
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_a_run_whose_name_is_no_utf8_has_a_card(finished_run: Path) -> None:
    odd = finished_run.rename(finished_run.with_name(os.fsdecode(b"caf\xe9")))
    card = read(odd).card
    assert card.provenance.run == "caf\\xe9"
    assert card_from_json(json_from_card(card), source="the card") == card


def replace_test_pictures(data: Path, count: int) -> None:
    """Puts pictures of the next class in the place of `count` test pictures."""
    images, labels = np.load(data / "test_images.npy"), np.load(data / "test_labels.npy")
    images[-count:] = np.roll(images, 1, axis=0)[-count:]
    np.save(data / "test_images.npy", images)
    assert len(labels) == 240


@pytest.mark.parametrize("count", [1, 180])
def test_replaced_test_pictures_are_found(finished_run: Path, data: Path, count: int) -> None:
    replace_test_pictures(data, count)
    with pytest.raises(UserError, match="patterns now has other images or labels") as error:
        read(finished_run)
    assert "\n" not in str(error.value)


def test_a_result_that_is_not_true_is_an_error(finished_run: Path, data: Path) -> None:
    """Of a run made before every picture was in a digest: its top-1 shows it."""
    with_checkpoint(finished_run, finished=True, content_digest="", data_digest="")
    assert read(finished_run).card.provenance.top1 > 0.9
    replace_test_pictures(data, 180)
    with pytest.raises(
        VerificationError, match=r"states a top-1 of \d+.* the student has \d+"
    ) as error:
        read(finished_run)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("images_off", "fits"), [(0, True), (1, True), (2, False)])
def test_one_image_of_240_may_differ(finished_run: Path, images_off: int, fits: bool) -> None:
    path = finished_run / "result.json"
    result = json.loads(path.read_text())
    top1 = result["top1"] - images_off / 240
    path.write_text(json.dumps({**result, "top1": top1}))
    if fits:
        assert read(finished_run).card.provenance.top1 == top1
    else:
        with pytest.raises(VerificationError, match="on the 240 test images"):
            read(finished_run)


def test_the_card_states_both_digests(finished_run: Path) -> None:
    summary = read(finished_run).card.data
    plan = load_trained(finished_run).plan
    assert summary is not None
    assert (summary.digest, summary.content_digest) == (plan.data_digest, plan.content_digest)
    assert plan.content_digest != plan.data_digest != ""


def test_moved_data_are_named_with_the_option(
    finished_run: Path, data: Path, tmp_path: Path
) -> None:
    moved = data.rename(tmp_path / "renamed")
    bundle = tmp_path / "bundle"
    arguments = [str(finished_run), "--opset", "17", "--out", str(bundle)]
    with pytest.raises(UserError, match="which is not there; name the place") as error:
        export_command.main(arguments)
    assert "with --data" in str(error.value)
    assert "\n" not in str(error.value)
    assert export_command.main([*arguments, "--data", str(moved)]) == 0
    card = open_bundle(bundle).card
    assert card.provenance.data == "patterns"
    assert str(tmp_path) not in (bundle / "card.json").read_text()
    replace_test_pictures(moved, 1)
    with pytest.raises(UserError, match=f"data {moved} now has other images or labels"):
        export_command.main([*arguments, "--data", str(moved)])


def test_an_engine_build_exports_with_moved_data(
    finished_run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = data.rename(tmp_path / "renamed")
    monkeypatch.setattr(build_trt, "_try_flavor", lambda name: (None, "no TensorRT here"))
    with pytest.raises(UserError, match="with --data"):
        build_trt.main([str(finished_run)])
    with pytest.raises(UserError, match="no engine was built: no TensorRT here"):
        build_trt.main([str(finished_run), "--data", str(moved)])
    assert open_bundle(finished_run / "bundle").card.file("fp16") is not None
