"""Classifying with an open model from Python."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime import (
    ImageError,
    UserError,
    open_classifier,
)


def test_every_kind_of_source_gives_the_same_answer(toy_bundle: Path) -> None:
    path = toy_bundle / "examples" / "green.png"
    image = Image.open(path)
    with open_classifier(toy_bundle) as classifier:
        expected = classifier.classify(path)
        assert expected[0].label == "green"
        assert sum(prediction.probability for prediction in expected) == pytest.approx(1)
        for source in (str(path), path.read_bytes(), image, np.asarray(image)):
            assert classifier.classify(source) == expected
        with pytest.raises(ImageError, match="received int, expected a path, bytes"):
            classifier.classify(3)  # type: ignore[arg-type]


def test_probabilities_equal_the_holdout(toy_bundle: Path) -> None:
    holdout = np.load(toy_bundle / "holdout.npz")
    for precision, tolerance in (("fp32", 1e-6), ("fp16", 2e-3)):
        with open_classifier(toy_bundle, precision=precision) as classifier:
            assert classifier.precision == precision
            found = classifier.session.run(holdout["images"])
        assert found.dtype == np.float32
        assert np.abs(found - holdout["probabilities"]).max() < tolerance


def test_prepared_images_are_classified_in_batches_that_the_session_takes(
    toy_bundle: Path,
) -> None:
    with open_classifier(toy_bundle) as classifier:
        images = np.load(toy_bundle / "holdout.npz")["images"][:7]
        expected = classifier.session.run(images)
        classifier.session.max_batch = 3
        np.testing.assert_allclose(classifier.probabilities(images), expected, atol=1e-6)
        answers = classifier.classify_prepared(images, top_k=2)
        assert [answer[0].index for answer in answers] == expected.argmax(axis=1).tolist()
        assert [len(answer) for answer in answers] == [2] * 7
        for wrong in (images[:0], images[0], images.astype(np.float32), images[:, 1:]):
            with pytest.raises(UserError, match=r"^received .*, expected uint8"):
                classifier.classify_prepared(wrong)  # type: ignore[arg-type]


def test_batches_keep_their_order_around_broken_images(toy_bundle: Path) -> None:
    colours = [toy_bundle / "examples" / f"{name}.png" for name in ("red", "green", "blue")]
    sources = [*colours * 7, b"broken", *colours]
    with open_classifier(toy_bundle) as classifier:
        answers = classifier.classify_batch(sources, on_error="return", top_k=1)
        labels = [a if isinstance(a, ImageError) else a[0].label for a in answers]
        assert labels[:21] == ["red", "green", "blue"] * 7
        assert "image 21: not a readable image" in str(labels[21])
        assert labels[22:] == ["red", "green", "blue"]
        with pytest.raises(ImageError, match="image 21"):
            classifier.classify_batch(sources)
        assert classifier.classify_batch([]) == []


def test_a_stream_that_fails_gives_what_came_before(toy_bundle: Path) -> None:
    def camera() -> Iterator[Path]:
        for _ in range(19):
            yield toy_bundle / "examples" / "green.png"
        raise OSError("the camera is gone")

    answers = []
    with (
        open_classifier(toy_bundle) as classifier,
        pytest.raises(OSError, match="the camera is gone"),
    ):
        answers.extend(answer[0].label for answer in classifier.classify_stream(camera()))
    assert answers == ["green"] * 19


@pytest.mark.parametrize(("images", "largest"), [(6, 2), (2, 1), (100, 8)])
def test_few_images_are_for_all_cores(
    toy_bundle: Path, images: int, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.inference.classifier.usable_cores", lambda: 4)
    with open_classifier(toy_bundle) as classifier:
        sizes, run = [], classifier.session.run
        monkeypatch.setattr(
            classifier.session, "run", lambda batch: (sizes.append(len(batch)), run(batch))[1]
        )
        paths = [toy_bundle / "examples" / "green.png"] * images
        assert len(list(classifier.classify_stream(paths))) == images
    assert (sum(sizes), max(sizes)) == (images, largest)


def test_a_stream_reads_only_a_little_ahead(toy_bundle: Path) -> None:
    read = 0

    def endless() -> "object":
        nonlocal read
        while True:
            read += 1
            yield np.full((32, 32, 3), 9, np.uint8)

    with open_classifier(toy_bundle) as classifier:
        stream = classifier.classify_stream(endless())
        for _ in range(10):
            next(stream)
        assert read < 200
        stream.close()
