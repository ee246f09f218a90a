"""`python -m runtime info`: the card for people, in every schema version."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import msgspec

from runtime.commands.info import card_lines
from runtime.model.bundle import read_card, write_card
from runtime.model.card import ClassRecall, DataSummary, Quality, Quantization

OLD_BUNDLE = Path(__file__).parent.parent / "data" / "bundle_of_schema_1"

Cli = Callable[..., CompletedProcess[str]]


def test_info_shows_a_bundle_of_schema_1(cli: Cli) -> None:
    shown = cli("info", OLD_BUNDLE)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "trained on   colours with drg+dsr, 1 epochs, seed 0\n" in shown.stdout
    assert "int8-cpu, opset 20, calibrated by minmax of 6 training images; top-1" in shown.stdout
    assert "tensorrt-rtx 1.7.0.29, compute capability 8.6, batch 1-16" in shown.stdout
    card = json.loads(cli("info", OLD_BUNDLE, "--json").stdout)
    assert (card["schema_version"], card["provenance"]["terms"]) == (4, ["drg", "dsr"])


def test_a_bundle_without_files_is_no_lone_file(cli: Cli, toy_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(toy_bundle, tmp_path / "bundle")
    write_card(bundle, msgspec.structs.replace(read_card(bundle), files=()))
    shown = cli("info", bundle).stdout
    assert "lone" not in shown
    assert "file         none; `python export/run.py RUN` makes them\n" in shown
    assert "none: a lone ONNX file carries no" in cli("info", bundle / "model.onnx").stdout


def test_info_shows_the_optional_parts_of_a_card(
    cli: Cli, toy_bundle: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(toy_bundle, bundle)
    quality = Quality(
        balanced_accuracy=0.9,
        macro_f1=0.8877,
        worst_class=ClassRecall(name="red", recall=0.75, images=8),
    )
    data = DataSummary(train_images=9000, validation_images=10, test_images=24)
    write_card(bundle, msgspec.structs.replace(read_card(bundle), quality=quality, data=data))
    shown = cli("info", bundle).stdout
    assert "balanced accuracy 90.00%, macro F1 88.77%, worst class red: 75.00% of 8 i" in shown
    assert "images       9,000 trained on, 10 held out, 24 tested on\n" in shown


def test_learned_ranges_are_not_called_calibrated(toy_bundle: Path) -> None:
    card = read_card(toy_bundle)

    def line(*, learned: bool) -> str:
        found = Quantization(calibration="learned in 3 epochs", learned_ranges=learned)
        file = msgspec.structs.replace(card.files[0], quantization=found)
        lines = card_lines(toy_bundle, msgspec.structs.replace(card, files=(file,)))
        return next(line for line in lines if line.startswith("file"))

    assert "opset 20, ranges learned in 3 epochs; top-1" in line(learned=True)
    assert "opset 20, calibrated by learned in 3 epochs; top-1" in line(learned=False)
