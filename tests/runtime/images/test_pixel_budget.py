"""How many pixels a process that serves decodes at one time."""

import io
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from runtime import Batcher, Classifier, ImageError
from runtime.images import pixel_budget
from runtime.images.pixel_budget import PixelBudget, bounded_decoding, wait_for_room
from runtime.inference.open_classifier import open_classifier
from runtime.model import preprocess

SECONDS = 30  # until a thread that does not come is an error


@pytest.fixture
def classifier(toy_bundle: Path) -> Iterator[Classifier]:
    with open_classifier(toy_bundle) as classifier:
        yield classifier


@pytest.fixture
def budget(monkeypatch: pytest.MonkeyPatch) -> PixelBudget:
    """Room for one of the large pictures of `encoded`, but not for two."""
    budget = PixelBudget(2_000_000)
    monkeypatch.setattr(pixel_budget, "_budget", budget)
    return budget


def encoded(edge: int, kind: str = "PNG", **options: object) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (edge, edge), "red").save(content, kind, **options)
    return content.getvalue()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.001)


def test_large_pictures_of_a_batcher_wait_for_each_other(
    classifier: Classifier, budget: PixelBudget, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded, inside, most = 0, 0, 0
    fit = preprocess.fit_image

    def observed(*arguments: object) -> NDArray[np.uint8]:
        """Goes on when the next picture waits, or has wrongly come here, too."""
        nonlocal decoded, inside, most
        decoded, inside = decoded + 1, inside + 1
        most = max(most, inside)
        last = decoded == 4
        wait_until(lambda: last or most > 1 or batcher._aside)
        inside -= 1
        return fit(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(preprocess, "fit_image", observed)
    with Batcher(classifier, decoders=2) as batcher:
        for answer in batcher.submit_all([encoded(1200)] * 4):
            assert answer.result(SECONDS)[0].label == "red"
    assert most == 1
    assert budget._used == 0


def test_small_pictures_of_a_batcher_wait_for_nobody(
    classifier: Classifier, budget: PixelBudget, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2)
    fit = preprocess.fit_image

    def observed(*arguments: object) -> NDArray[np.uint8]:
        both.wait(SECONDS)
        return fit(*arguments)  # type: ignore[arg-type]

    budget.take(2_000_000)
    monkeypatch.setattr(preprocess, "fit_image", observed)
    with Batcher(classifier, decoders=2) as batcher:
        for answer in batcher.submit_all([encoded(1000)] * 2):
            assert answer.result(SECONDS)[0].label == "red"


def test_large_pictures_that_are_put_aside_hold_nobody_up(
    classifier: Classifier, budget: PixelBudget
) -> None:
    budget.take(2_000_000)
    with Batcher(classifier, decoders=2) as batcher:
        large = batcher.submit_all([encoded(1200)] * 4)
        wait_until(lambda: len(batcher._aside) == 4)
        small = batcher.submit_all([encoded(1000)] * 4)
        assert [answer.result(SECONDS)[0].label for answer in small] == ["red"] * 4
        assert not any(answer.done() for answer in large)
        large[0].unwanted = True  # as a server says of one that it has given up
        with pytest.raises(CancelledError):
            large[0].result(SECONDS)
        ending = threading.Thread(target=batcher.close)
        ending.start()
        budget.give_back(2_000_000)  # and what was accepted is answered before the end
        assert [answer.result(SECONDS)[0].label for answer in large[1:]] == ["red"] * 3
        ending.join(SECONDS)
        assert not ending.is_alive()
    assert batcher.waiting == 0
    assert budget._used == 0


def test_the_page_decodes_large_pictures_one_after_another(
    classifier: Classifier, budget: PixelBudget, monkeypatch: pytest.MonkeyPatch
) -> None:
    from demo.service.picture import open_picture
    from demo.tabs import many

    inside, most = 0, 0
    real = preprocess.fit_image

    def observed(*arguments: object) -> NDArray[np.uint8]:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.02)  # the others would come meanwhile
        inside -= 1
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(preprocess, "fit_image", observed)
    monkeypatch.setattr("demo.service.picture.fit_image", observed)
    monkeypatch.setattr(many, "usable_cores", lambda: 4)
    uploads = [SimpleNamespace(name="a", read=lambda _limits: encoded(1200))] * 4
    spec, limits = classifier.card.input, classifier.limits
    with Batcher(classifier) as batcher:
        model = SimpleNamespace(classifier=classifier, batcher=batcher)
        answers = many._classify_chunk(model, uploads)  # type: ignore[arg-type]
    assert [answer.predictions[0].label for answer in answers] == ["red"] * 4
    opened = [
        threading.Thread(
            target=open_picture,
            args=(encoded(1200), [spec]),
            kwargs={"name": "a", "limits": limits},
        )
        for _ in range(4)
    ]
    for thread in opened:
        thread.start()
    for thread in opened:
        thread.join(SECONDS)
    assert most == 1
    assert budget._used == 0


def test_a_picture_that_fails_gives_its_room_back_and_leaves_no_pixels(
    classifier: Classifier, budget: PixelBudget
) -> None:
    content = io.BytesIO()
    Image.fromarray(np.zeros((1200, 1200), np.float32)).save(content, "TIFF")
    with Batcher(classifier, decoders=1) as batcher:
        error = batcher.submit(content.getvalue()).exception(SECONDS)
    assert budget._used == 0
    assert isinstance(error, ImageError)
    # Its frames would hold the decoded picture.
    assert error.__cause__ is error.__context__ is None
    assert error.__traceback__ is None


@pytest.mark.parametrize(
    ("content", "counted"),
    [
        (encoded(1200), [1200**2]),
        (encoded(1200, "JPEG"), []),  # it is decoded at 1/8, and small then
        (encoded(1200, "JPEG", progressive=True), [1200**2]),  # libjpeg keeps all of it
    ],
    ids=["png", "jpeg", "progressive"],
)
def test_what_is_decoded_counts(
    content: bytes, counted: list[int], classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(preprocess, "wait_for_room", seen.append)
    classifier.prepare(content)
    assert seen == counted


def test_a_thread_takes_once_and_only_inside_of_the_block(budget: PixelBudget) -> None:
    wait_for_room(1_500_000)
    assert budget._used == 0
    with bounded_decoding():
        with bounded_decoding():
            wait_for_room(1_500_000)
            wait_for_room(1_500_000)  # it would wait for itself
        assert budget._used == 1_500_000
    assert budget._used == 0
    with bounded_decoding():
        wait_for_room(99_000_000)  # more than there is goes alone
        assert budget._used == 99_000_000


def test_the_sum_stays_below_the_bound_and_everybody_gets_a_turn() -> None:
    budget = PixelBudget(100)
    sums: list[tuple[int, int]] = []

    def work(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(50):
            pixels = draw.choice([1, 30, 60, 100, 150])
            budget.take(pixels)
            sums.append((budget._used, pixels))
            budget.give_back(pixels)

    threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()
    assert len(sums) == 200
    assert max(used for used, _ in sums if used != 150) <= 100
    assert budget._used == 0


def test_who_comes_later_does_not_overtake() -> None:
    budget = PixelBudget(100)
    order: list[int] = []
    budget.take(60)

    def work(pixels: int) -> None:
        budget.take(pixels)
        order.append(pixels)
        budget.give_back(pixels)

    threads = []
    for place, pixels in enumerate((90, 20), start=1):  # there is room for the second one at once
        threads.append(threading.Thread(target=work, args=(pixels,), daemon=True))
        threads[-1].start()
        wait_until(lambda: len(budget._line) == place or order)  # noqa: B023
    assert order == []
    budget.give_back(60)
    for thread in threads:
        thread.join(SECONDS)
    assert list(order) == [90, 20]


def test_a_forked_process_begins_with_all_of_it() -> None:
    done = threading.Event()
    budget = pixel_budget._budget

    def hold() -> None:
        with bounded_decoding():
            wait_for_room(pixel_budget.MOST_PIXELS)
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        wait_until(lambda: budget._used)
        if (process := os.fork()) == 0:
            signal.alarm(SECONDS)
            with bounded_decoding():
                wait_for_room(pixel_budget.MOST_PIXELS)
            os._exit(0)
        assert os.waitpid(process, 0)[1] == 0
    finally:
        done.set()
        thread.join()
