"""Corruptions: they grow with severity; a line of robustness agrees with its run's result."""

import colorsys
import io
import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import gaussian_blur

from runtime.base.errors import UserError
from training import robustness, run
from training.config.options import Options
from training.config.plan import MovedData
from training.config.recipe import load_recipe
from training.records.checkpoint import read_checkpoint, save_checkpoint
from training.studies.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from training.studies.result_lines import read_lines
from training.studies.robustness_lines import (
    measure_missing_robustness,
    robustness_table,
)
from training.studies.study_methods import METHODS
from training.studies.study_run import StudyRun


def photographs(size: int = 32) -> np.ndarray:
    """Smooth colours with an edge and fine texture: uint8 (4, size, size, 3)."""
    generator = np.random.default_rng(0)
    ramp = np.linspace(40, 150, size)
    images = ramp[None, :, None, None] + 30 * generator.random((4, size, size, 3))
    images[:, :, size // 2 :] += 40
    return images.astype(np.uint8)


@pytest.mark.parametrize("size", [32, 96])  # the strengths of CIFAR-10-C and of ImageNet-C
@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_severity_moves_images_further_away(corruption: str, size: int) -> None:
    images = photographs(size)
    distances = []
    for severity in SEVERITIES:
        corrupted = corrupt(images, corruption, severity, seed=0)
        assert corrupted.dtype == np.uint8
        assert corrupted.shape == images.shape
        distances.append(np.abs(corrupted.astype(int) - images).mean())
    assert distances[0] > 0
    assert all(nearer < further for nearer, further in pairwise(distances)), distances


# Numbers of make_cifar_c.py and make_imagenet_c.py. The kernel covers 4 deviations to each side.
@pytest.mark.parametrize(
    ("size", "severity", "deviation", "side"), [(32, 3, 0.7, 7), (96, 2, 2.0, 17)]
)
def test_blur_is_torchvisions_with_the_strength_of_the_table(
    size: int, severity: int, deviation: float, side: int
) -> None:
    images = photographs(size)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    expected = gaussian_blur(pixels, [side, side], [deviation, deviation])
    found = corrupt(images, "blur", severity, seed=0)
    assert np.array_equal(found, expected.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize(("size", "severity", "quality"), [(32, 3, 58), (96, 2, 18)])
def test_jpeg_is_pillows_with_the_quality_of_the_table(
    size: int, severity: int, quality: int
) -> None:
    images = photographs(size)
    found = corrupt(images, "jpeg", severity, seed=0)
    for before, after in zip(images, found, strict=True):
        file = io.BytesIO()
        Image.fromarray(before).save(file, "JPEG", quality=quality)
        with Image.open(file) as expected:
            assert np.array_equal(after, np.asarray(expected))


def test_noise_has_its_deviation_and_depends_on_the_seed_alone() -> None:
    grey = np.full((8, 32, 32, 3), 128, np.uint8)
    state = torch.random.get_rng_state()
    noisy = corrupt(grey, "noise", 5, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert noisy.std() == pytest.approx(0.10 * 255, rel=0.03)
    assert np.array_equal(noisy, corrupt(grey, "noise", 5, seed=1))
    assert not np.array_equal(noisy, corrupt(grey, "noise", 5, seed=2))
    large = np.full((1, 96, 96, 3), 128, np.uint8)  # as ImageNet-C
    assert corrupt(large, "noise", 1, seed=1).std() == pytest.approx(0.08 * 255, rel=0.03)


def test_brightness_is_added_to_the_value_of_hsv() -> None:
    """As in the original; compared pixel by pixel with Python's own conversion."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    pixels[0, 0] = [[0, 0, 0], [255, 255, 255], [255, 0, 0], [1, 0, 0]] * 8
    for severity, added in ((1, 0.05), (5, 0.3)):
        brighter = corrupt(pixels, "brightness", severity, seed=0)
        for before, after in zip(pixels.reshape(-1, 3), brighter.reshape(-1, 3), strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*before / 255)
            expected = colorsys.hsv_to_rgb(hue, saturation, min(1.0, value + added))
            assert np.abs(np.array(expected) * 255 - after).max() < 0.51


def test_contrast_is_linear() -> None:
    halves = np.full((1, 32, 32, 3), 100, np.uint8)
    halves[:, 16:] = 140
    flatter = corrupt(halves, "contrast", 2, seed=0)
    # Around the mean, 120; torchvision's weights of grey sum to 0.9999.
    assert np.abs(flatter[0, [0, -1], 0, 0].astype(int) - [110, 130]).max() <= 1


def test_the_smallest_images_can_be_blurred() -> None:
    tiny = photographs(size=8)
    assert corrupt(tiny, "blur", 5, seed=0).shape == tiny.shape


@pytest.fixture
def tiny_run(tiny_options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    assert run.main([*tiny_options, "--out", "trained"]) == 0
    return Path("trained")


def test_a_line_agrees_with_the_runs_result(
    tiny_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):  # the second line replaces the first
        assert robustness.main([str(tiny_run), "--study", "s", "--device", "cpu"]) == 0
    (line,) = read_lines(Path("results/s-robustness.jsonl"))
    result = json.loads((tiny_run / "result.json").read_text())
    assert line["clean"]["top1"] == result["top1"]
    assert line["clean"]["ece"] == pytest.approx(result["ece"], abs=1e-6)
    assert (line["method"], line["recipe"]) == ("drg+dsr", result["recipe"])
    assert line["command"] == ("python training/robustness.py --study s --device cpu RUN [RUN ...]")
    assert {name: len(each) for name, each in line["corrupted"].items()} == dict.fromkeys(
        CORRUPTIONS, 5
    )
    means = [np.mean([figures["top1"] for figures in line["corrupted"][c]]) for c in CORRUPTIONS]
    last = capsys.readouterr().out.splitlines()[-3]
    assert [cell.strip() for cell in last.split("|")[1:-3]] == [
        *("mobilenetv2 x0.25", "drg+dsr", "0", f"{100 * result['top1']:.2f}"),
        *(f"{100 * mean:.2f}" for mean in [*means, np.mean(means)]),
        "",
    ]


def test_data_that_was_moved_is_named(tiny_run: Path, tiny_folder: Path) -> None:
    checkpoint = read_checkpoint(tiny_run / "checkpoint.pt")
    elsewhere = msgspec.structs.replace(checkpoint.plan, data_argument="/nowhere/tiny")
    save_checkpoint(tiny_run / "checkpoint.pt", replace(checkpoint, plan=elsewhere))
    with pytest.raises(UserError, match="/nowhere/tiny"):
        robustness.main([str(tiny_run)])
    assert robustness.main([str(tiny_run), "--data", str(tiny_folder)]) == 0


def test_an_unfinished_run_is_refused(tiny_run: Path) -> None:
    (tiny_run / "result.json").unlink()
    with pytest.raises(UserError, match="is not finished"):
        robustness.main([str(tiny_run)])
    with pytest.raises(UserError, match="does not exist"):
        robustness.main(["nowhere"])


def test_the_table_takes_no_mean_over_data_sets() -> None:
    def line(data: str, top1: float) -> dict[str, object]:
        figures = {"top1": top1, "ece": 0.0}
        facts = {"arch": "a", "width": 1.0, "image_size": 32, "method": "ce", "seed": 0}
        found = {"clean": figures, "corrupted": {"noise": [figures]}, "recipe": {"epochs": 2}}
        return {**facts, **found, "data": data}

    table = robustness_table([line("cifar10", 0.9), line("cifar100", 0.7)])
    assert "| a x1 on cifar10 at 32 px | ce | 0 | 90.00 |" in table
    assert "| a x1 on cifar100 at 32 px | ce | 0 | 70.00 |" in table
    assert "| a x1 | ce | 0 | 90.00 |" in robustness_table([line("cifar10", 0.9)])


def test_a_finished_run_without_its_checkpoint_is_named(tmp_path: Path) -> None:
    """Its result is enough for a study's line, so it is among the runs to measure."""
    given = StudyRun(METHODS["ce"], 0, "s", load_recipe("digits"), tmp_path, Options(arch="a"))
    with pytest.raises(UserError, match=r"has a result and no checkpoint\.pt: put it back to"):
        measure_missing_robustness(
            [given],
            tmp_path / "lines.jsonl",
            command="python training/evidence.py",
            device="cpu",
            moved=MovedData(),
            deadline=math.inf,
        )
