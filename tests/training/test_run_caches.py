"""Runs on a cache of arrays and of encoded pictures are equal bit for bit."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from export import run as export_run
from runtime.base.errors import UserError
from runtime.commands.info import card_lines
from runtime.model.bundle import read_card
from training import check_data, run, study, tune
from training.config.plan import MovedData, differences
from training.records.checkpoint import load_trained, read_checkpoint
from training.records.run_data import load_run_dataset


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of JPEGs of several shapes, and of each a copy across the splits."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path / "cache"))
    for split, first, count in (("train", 0, 48), ("test", 48, 12)):
        for number in range(first, first + count):
            noise = np.random.default_rng(number).integers(0, 256, (9, 9, 3), dtype=np.uint8)
            file = Path("photos", split, "ab"[number % 2], f"{number}.jpg")
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise).resize((80 + number, 120 - number)).save(file, quality=92)
    return Path("photos")


@pytest.fixture
def words(photos: Path, tiny_recipe_file: Path) -> list[str]:
    return [
        *("--arch", "shufflenetv2", "--width", "0.5", "--drg", "--dsr", "--device", "cpu"),
        *("--data", str(photos), "--recipe", str(tiny_recipe_file), "--image-size", "72"),
        *("--batch-size", "8"),
    ]


def journal(out: str) -> list[dict[str, object]]:
    lines = Path(out, "journal.jsonl").read_text().splitlines()
    timed = {"seconds", "images_per_second", "data_wait_share"}
    return [{k: v for k, v in json.loads(line).items() if k not in timed} for line in lines]


def test_losses_and_weights_of_encoded_pictures_are_those_of_arrays(words: list[str]) -> None:
    for form in ("arrays", "encoded"):
        assert run.main([*words, "--cache", form, "--out", form]) == 0
    assert journal("arrays") == journal("encoded")
    arrays, encoded = (
        read_checkpoint(Path(form, "checkpoint.pt")) for form in ("arrays", "encoded")
    )
    assert arrays.history[0]["loss"] == encoded.history[0]["loss"] > 0
    assert arrays.student.keys() == encoded.student.keys()
    for name, weights in arrays.student.items():
        assert torch.equal(weights, encoded.student[name]), name
    assert (arrays.plan.cache, encoded.plan.cache) == ("arrays", "encoded")
    assert arrays.plan.content_digest == encoded.plan.content_digest
    assert not differences(arrays.plan, encoded.plan)


def test_a_run_goes_on_with_the_other_form_of_the_same_pixels(words: list[str]) -> None:
    assert run.main([*words, "--epochs", "1", "--out", "run"]) == 0
    again = [*words, "--epochs", "1", "--out", "run", "--resume"]
    assert run.main([*again, "--cache", "encoded"]) == 0
    with pytest.raises(UserError, match="cache: arrays, now encoded:90"):
        run.main([*again, "--cache", "encoded:90"])


def test_the_card_names_the_quality(words: list[str]) -> None:
    forms = {"arrays": "arrays", "encoded": "encoded", "low": "encoded:30"}
    for out, form in forms.items():
        assert run.main([*words, "--epochs", "1", "--cache", form, "--out", out]) == 0
    data = {out: load_run_dataset(load_trained(Path(out)), MovedData()) for out in forms}
    assert data["low"].content_digest() != data["arrays"].content_digest()
    assert (data["low"].jpeg_quality, data["encoded"].jpeg_quality) == (30, None)
    assert json.loads(Path("low", "result.json").read_text())["command"].count("--cache encoded:30")
    assert export_run.main(["low"]) == 0
    card = read_card(Path("low", "bundle"))
    assert card.data is not None
    assert (card.data.jpeg_quality, card.data.content_digest) == (30, data["low"].content_digest())
    assert "JPEGs of quality 30" in "\n".join(card_lines(Path("low", "bundle"), card))


def test_leaks_are_dropped_without_a_copy(words: list[str], photos: Path) -> None:
    for number in (48, 50):
        content = (photos / "test" / "a" / f"{number}.jpg").read_bytes()
        (photos / "train" / "a" / f"copy{number}.jpg").write_bytes(content)
    for form in ("arrays", "encoded"):
        options = [*words, "--epochs", "1", "--cache", form, "--drop-leaks", "--out", form]
        assert run.main(options) == 0
    plans = [
        msgspec.structs.replace(load_trained(Path(f)).plan, cache="") for f in ("arrays", "encoded")
    ]
    assert plans[0] == plans[1]
    assert journal("arrays") == journal("encoded")


@pytest.mark.parametrize("name", ["run", "study", "tune"])
def test_unknown_forms_are_refused(name: str) -> None:
    command = {"run": run.main, "study": study.main, "tune": tune.main}[name]
    for form in ("jpeg", "encoded:0", "encoded:101", "encoded:x"):
        with pytest.raises(UserError, match="expected arrays, encoded or encoded:QUALITY"):
            command(["--arch", "mobilenetv2", "--cache", form])


def test_the_check_of_data_takes_the_form(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_data.main([str(photos), "--cache", "encoded", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["used"] == 60
    assert not Path("cache", "arrays").exists()
