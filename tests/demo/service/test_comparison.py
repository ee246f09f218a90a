"""Two models on the same picture and the same test images, without a browser."""

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from demo.service.comparison import HoldoutComparison, compare_on_holdout, compare_on_picture
from demo.service.models import LIMITS, Models
from demo.service.picture import open_picture
from demo.tabs.compare import comparison_html, holdout_html
from runtime.base.errors import BundleError, UserError
from runtime.evaluation.compare_models import compare_answers
from runtime.model.bundle import read_card, write_card


def test_a_comparison_counts_agreement_on_the_test_images(
    models: Models, toy_bundle: Path, pictures: Path
) -> None:
    first, second = models.first, models.open(models.rival)
    content = (pictures / "green.jpg").read_bytes()
    picture = open_picture(content, models.input_specs, name="green.jpg", limits=LIMITS)
    found = compare_on_picture(first, second, picture)
    assert found.first.label == found.second.label == "green"
    assert set(found.labels) == {"red", "green", "blue"}
    assert 0 < found.max_difference < 1e-3  # float16 against float32
    assert "Both say “green”." in comparison_html(picture, found)
    with np.load(toy_bundle / "holdout.npz") as holdout:
        images = holdout["images"]
        one = first.classifier.session.run(images)
        two = second.classifier.session.run(images)
    tested = compare_on_holdout(first, second, progress=lambda *_: None)
    assert tested.compared.images == len(images)
    assert "No difference beyond chance: 0 only the first" in holdout_html(tested)
    assert tested.compared.agreement == (one.argmax(1) == two.argmax(1)).mean()
    assert tested.max_difference == pytest.approx(np.abs(one - two).max(), abs=1e-7)


def test_models_of_different_classes_are_compared_by_name(
    toy_bundle: Path, tmp_path: Path, pictures: Path
) -> None:
    other = tmp_path / "other" / "bundle"
    shutil.copytree(toy_bundle, other)
    card = read_card(other)
    write_card(other, msgspec.structs.replace(card, class_names=("rouge", "green", "blue")))
    models = Models([toy_bundle, other])
    try:
        assert models.rival == "1:onnx-cpu:fp32"
        assert "other: fp32, ONNX Runtime, CPU" in dict(models.menu)
        first, second = models.first, models.open(models.rival)
        content = (pictures / "red.png").read_bytes()
        picture = open_picture(content, models.input_specs, name="red.png", limits=LIMITS)
        found = compare_on_picture(first, second, picture)
        assert (found.first.label, found.second.label) == ("red", "rouge")
        assert "They give different answers." in comparison_html(picture, found)
        with pytest.raises(UserError, match="the two models know different classes"):
            compare_on_holdout(first, second, progress=lambda *_: None)
    finally:
        models.close()


def test_the_page_says_what_the_reader_of_the_figures_must_know(
    toy_bundle: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other" / "bundle"
    shutil.copytree(toy_bundle, other)
    with np.load(toy_bundle / "holdout.npz") as holdout:
        arrays = {**holdout}
    np.savez(other / "holdout.npz", **arrays | {"images": arrays["images"] // 2})
    models = Models([toy_bundle, other])
    try:
        tested = compare_on_holdout(
            models.first, models.open(models.rival), progress=lambda *_: None
        )
    finally:
        models.close()
    assert "Note: the two bundles hold different test images; those of the first" in holdout_html(
        tested
    )


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip"])
def test_a_damaged_holdout_is_one_clear_line(
    content: bytes, toy_bundle: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(toy_bundle, bundle)
    (bundle / "holdout.npz").write_bytes(content)
    models = Models([bundle])
    try:
        with pytest.raises(BundleError, match=r"holdout\.npz cannot be read"):
            compare_on_holdout(models.first, models.open(models.rival), progress=lambda *_: None)
    finally:
        models.close()


def test_the_page_judges_the_second_model_as_the_command_does() -> None:
    """Of 40 reds the second finds none; greens are equal, so that only the reds are listed."""
    labels = np.repeat([0, 1], [40, 10])
    compared = compare_answers(labels, np.ones(50, np.int64), labels, ("red", "green"), range(50))
    html = holdout_html(HoldoutComparison(compared, max_difference=0.5, disagreements=()))
    assert "<b>The second is worse beyond chance</b>: 40 only the first answers rightly" in html
    assert ">red</th><td>40</td><td>100.0\u202f%</td><td>0.0\u202f%</td>" in html
    assert ">green</th>" not in html
