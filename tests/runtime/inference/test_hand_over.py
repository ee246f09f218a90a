"""What was handed over is what is answered, whatever the caller does with its buffer afterwards."""

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from runtime import Batcher, Classifier, ImageError, UserError, open_classifier
from runtime.base.parallel import in_chunks

COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def classifier(toy_bundle: Path) -> Iterator[Classifier]:
    with open_classifier(toy_bundle) as classifier:
        yield classifier


def paint(buffer: NDArray[np.uint8], name: str) -> None:
    buffer[:] = 0
    buffer[..., COLOURS.index(name)] = 255


def refilled_array(shape: tuple[int, int, int]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    buffer = np.empty(shape, np.uint8)
    for name in COLOURS * 5:
        paint(buffer, name)
        yield name, buffer
    buffer[:] = 255


def refilled_picture() -> Iterator[tuple[str, Image.Image]]:
    picture = Image.new("RGB", (50, 40))
    for name in COLOURS * 5:
        picture.paste(name if name != "green" else "lime", (0, 0, 50, 40))
        yield name, picture
    picture.paste("white", (0, 0, 50, 40))


def closed_files() -> Iterator[tuple[str, Image.Image]]:
    """Each picture's file is closed when the next one is asked for."""
    for name in COLOURS * 2:
        file = io.BytesIO()
        array = np.empty((40, 50, 3), np.uint8)
        paint(array, name)
        Image.fromarray(array).save(file, "PNG")
        with Image.open(file) as picture:
            yield name, picture
        file.close()


SOURCES = pytest.mark.parametrize(
    "source",
    [
        lambda: refilled_array((40, 60, 3)),
        lambda: refilled_array((32, 32, 3)),  # the network's input itself
        refilled_picture,
        closed_files,
    ],
    ids=["array", "prepared array", "picture", "closed files"],
)


@SOURCES
def test_a_stream_answers_what_it_was_given(
    classifier: Classifier, source: Callable[[], Iterator[tuple[str, object]]]
) -> None:
    given = []

    def images() -> Iterator[object]:
        for name, image in source():
            given.append(name)
            yield image

    answers = list(classifier.classify_stream(images(), top_k=1))  # type: ignore[arg-type]
    assert [answer[0].label for answer in answers] == given
    assert classifier.classify_batch(images(), top_k=1) == answers  # type: ignore[arg-type]


@SOURCES
def test_a_batcher_answers_what_it_was_given(
    classifier: Classifier, source: Callable[[], Iterator[tuple[str, object]]]
) -> None:
    with Batcher(classifier, decoders=1) as batcher:
        submitted = [(name, batcher.submit(image)) for name, image in source()]  # type: ignore[arg-type]
        assert [future.result(20)[0].label for _, future in submitted] == [
            name for name, _ in submitted
        ]


def test_prepared_images_may_be_changed_at_once(classifier: Classifier) -> None:
    prepared = np.empty((3, 32, 32, 3), np.uint8)
    for image, name in zip(prepared, COLOURS, strict=True):
        paint(image, name)
    with Batcher(classifier, max_wait_ms=50) as batcher:
        futures = batcher.submit_prepared(prepared, top_k=1)
        prepared[:] = 0
        assert [future.result(20)[0].label for future in futures] == list(COLOURS)


def test_broken_pictures_are_their_own_errors(classifier: Classifier) -> None:
    cut = Image.open(io.BytesIO(png((64, 64))[:60]))
    whole = Image.new("RGB", (9, 9), "red")
    first, second = classifier.classify_stream(iter([cut, whole]))
    assert "image 0: not a readable image" in str(first)
    assert second[0].label == "red"
    cut = Image.open(io.BytesIO(png((64, 64))[:60]))
    with Batcher(classifier) as batcher:
        broken, good = batcher.submit_all([cut, whole], names=["a.png", None])
        with pytest.raises(ImageError, match=r"a\.png: not a readable image"):
            broken.result(20)
        assert good.result(20)[0].label == "red"
        assert batcher.waiting == 0


def png(size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.effect_noise(size, 90).convert("RGB").save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "single",
    ["a.png", Path("a.png"), b"content", np.zeros((8, 8, 3), np.uint8), Image.new("L", (8, 8)), 3],
    ids=["text", "path", "bytes", "array", "picture", "number"],
)
def test_one_image_is_not_many(classifier: Classifier, single: object) -> None:
    words = "expected a sequence of images; call classify"
    for call in (classifier.classify_batch, classifier.classify_stream):
        with pytest.raises(UserError, match=words):
            call(single)  # type: ignore[operator]
    with Batcher(classifier) as batcher, pytest.raises(UserError, match=words):
        batcher.submit_all(single)  # type: ignore[arg-type]


def test_many_images_may_be_one_array(classifier: Classifier) -> None:
    images = np.zeros((2, 40, 40, 3), np.uint8)
    images[0, ..., 2] = images[1, ..., 0] = 255
    assert [answer[0].label for answer in classifier.classify_batch(images)] == ["blue", "red"]  # type: ignore[arg-type]


def test_a_slow_source_is_answered_item_by_item() -> None:
    """No answer is later than its item. A fast part is read ahead again, and a slow one is not."""
    read, ahead = 0, []

    def source() -> Iterator[int]:
        nonlocal read
        for number in range(60):
            time.sleep(0 if 20 <= number < 50 else 0.03)
            read += 1
            yield number

    def work(numbers: list[int]) -> list[int]:
        time.sleep(0.002 * len(numbers))
        return numbers

    answers = []
    for number in in_chunks(work, source(), chunk=4, workers=2, live=True):
        answers.append(number)
        ahead.append(read - number - 1)
    assert answers == list(range(60))
    assert sorted(ahead[:19])[-3] == 0  # of 19, two may be disturbed by other work of the machine
    assert max(ahead[20:50]) >= 8
    assert sorted(ahead[52:])[-3] == 0


def test_a_classifier_answers_a_slow_camera_frame_by_frame(classifier: Classifier) -> None:
    read = 0

    def camera() -> Iterator[NDArray[np.uint8]]:
        nonlocal read
        for _ in range(12):
            time.sleep(0.1)
            read += 1
            yield np.zeros((40, 40, 3), np.uint8)

    late = [read - place for place, _ in enumerate(classifier.classify_stream(camera()), start=1)]
    assert sorted(late)[-3] == 0
