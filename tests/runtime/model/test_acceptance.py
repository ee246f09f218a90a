"""An answer below the threshold of its file is not accepted, and every way of asking says so."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import msgspec
import numpy as np
import pytest
from PIL import Image

from runtime import open_classifier
from runtime.model.acceptance import LONE_FILE
from runtime.model.bundle import read_card, write_card
from runtime.model.card import Threshold

Cli = Callable[..., CompletedProcess[str]]
THRESHOLD = Threshold(probability=0.8, max_error=0.05, confidence=0.9, coverage=0.834, images=200)
REFUSAL = "Not sure enough: at 5 % errors it answers 83 % of such pictures"


@pytest.fixture
def bundle(toy_bundle: Path, tmp_path: Path) -> Path:
    """A toy bundle whose float32 file accepts answers from 0.8 on; its float16 file has none."""
    copy = tmp_path / "bundle"
    shutil.copytree(toy_bundle, copy)
    card = read_card(copy)
    files = (
        msgspec.structs.replace(card.files[0], threshold=THRESHOLD),
        msgspec.structs.replace(card.files[1], no_threshold="60 images are too few"),
    )
    write_card(copy, msgspec.structs.replace(card, files=files))
    return copy


@pytest.fixture
def pictures(toy_bundle: Path, tmp_path: Path) -> list[Path]:
    """A red picture, of which the toy is sure, and a grey one, for which all classes are alike."""
    grey = tmp_path / "grey.png"
    Image.new("RGB", (32, 32), (128, 128, 128)).save(grey)
    return [toy_bundle / "examples" / "red.png", grey]


def test_words_are_those_of_the_file() -> None:
    assert THRESHOLD.refusal == REFUSAL
    assert THRESHOLD.words == (
        "accepts answers from 80.0% on, 83% of 200 validation images; with a probability of 0.9 at "
        "most 0.05 of the accepted ones are wrong"
    )


def test_python_says_whether_an_answer_is_accepted(bundle: Path, pictures: list[Path]) -> None:
    with open_classifier(bundle, precision="fp32") as classifier:
        assert classifier.threshold == THRESHOLD
        assert [a.accepted for a in classifier.classify_batch(pictures)] == [True, False]
        assert [classifier.classify(p, top_k=1).accepted for p in pictures] == [True, False]
        assert [a.accepted for a in classifier.classify_stream(iter(pictures))] == [True, False]
        exact = np.float32([0.8, 0.1, 0.1])
        assert classifier.rank(exact, 1).accepted is (float(exact[0]) >= 0.8)
    with open_classifier(bundle, precision="fp16") as classifier:
        assert (classifier.threshold, classifier.no_threshold) == (None, "60 images are too few")
        assert classifier.classify(pictures[1]).accepted is None
    with open_classifier(bundle / "model.onnx") as classifier:
        assert (classifier.threshold, classifier.no_threshold) == (None, LONE_FILE)


def test_classify_says_it_as_json_and_in_words(
    cli: Cli, bundle: Path, pictures: list[Path]
) -> None:
    shown = cli("classify", bundle, *pictures, "--precision", "fp32", "--json")
    assert [json.loads(line)["accepted"] for line in shown.stdout.splitlines()] == [True, False]
    words = cli("classify", bundle, *pictures, "--precision", "fp32").stdout.splitlines()
    assert words[1] == f"it {THRESHOLD.words}"
    assert [line.endswith("  (not sure enough)") for line in words[2:]] == [False, True]
    without = cli("classify", bundle, *pictures, "--precision", "fp16", "--json")
    assert all("accepted" not in json.loads(line) for line in without.stdout.splitlines())
    assert "every answer counts: 60 images are too few\n" in without.stderr
    lone = cli("classify", bundle / "model.onnx", *pictures)
    assert f"every answer counts: {LONE_FILE}\n" in lone.stdout


def test_a_card_without_thresholds_is_answered_as_before(
    cli: Cli, toy_bundle: Path, pictures: list[Path]
) -> None:
    shown = cli("classify", toy_bundle, *pictures, "--json")
    assert all("accepted" not in json.loads(line) for line in shown.stdout.splitlines())
    assert len(shown.stderr.splitlines()) == 1
    assert "threshold" not in cli("info", toy_bundle).stdout


def test_info_names_each_threshold(cli: Cli, bundle: Path) -> None:
    shown = cli("info", bundle).stdout
    assert f"; {THRESHOLD.words}\n" in shown
    assert "; no threshold: 60 images are too few\n" in shown
    assert f"threshold    none: {LONE_FILE}\n" in cli("info", bundle / "model.onnx").stdout


def test_evaluate_counts_what_is_accepted_and_wrong(
    cli: Cli, bundle: Path, toy_bundle: Path, tmp_path: Path
) -> None:
    """Of six images four are accepted, and one of them has a wrong label."""
    for place, (label, shade) in enumerate(
        [("red", "red"), ("red", "red"), ("green", "green"), ("blue", "green"), ("red", None)] * 1
        + [("green", None)]
    ):
        folder = tmp_path / "data" / label
        folder.mkdir(parents=True, exist_ok=True)
        if shade is None:
            Image.new("RGB", (32, 32), (120, 120, 120)).save(folder / f"{place}.png")
        else:
            shutil.copy(toy_bundle / "examples" / f"{shade}.png", folder / f"{place}.png")
    data = tmp_path / "data"
    found = json.loads(cli("evaluate", bundle, data, "--precision", "fp32", "--json").stdout)
    assert (found["accepted_share"], found["accepted_error"]) == (4 / 6, 1 / 4)
    assert found["threshold"] == msgspec.to_builtins(THRESHOLD)
    words = cli("evaluate", bundle, data, "--precision", "fp32").stdout
    assert (
        "accepted, at 80.0% or more: 66.67%, 25.00% of them wrong (promised: at most 0.05)" in words
    )
    without = json.loads(cli("evaluate", bundle, data, "--precision", "fp16", "--json").stdout)
    assert without["threshold"] is without["accepted_share"] is without["accepted_error"] is None


def test_verify_counts_what_is_accepted_of_the_test_images(cli: Cli, bundle: Path) -> None:
    shown = cli("verify", bundle, "--backend", "onnx-cpu", "--json")
    first, second = map(json.loads, shown.stdout.splitlines())
    assert (first["accepted_share"], first["accepted_error"]) == (1.0, 0.0)
    assert second["accepted_share"] is second["accepted_error"] is None
