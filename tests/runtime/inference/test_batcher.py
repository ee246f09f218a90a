"""The batcher: every accepted image is answered once, and no more are accepted than promised."""

import math
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from runtime import BackendError, Batcher, Classifier, ImageError, OverloadedError, UserError
from runtime.backends.session import Session
from runtime.base.errors import DeviceLostError
from runtime.inference.open_classifier import open_classifier


class GatedSession(Session):
    """Passes images on to `inner`, one batch each time that the gate is opened."""

    def __init__(self, inner: Session) -> None:
        self.backend = inner.backend
        self.input_size, self.num_classes = inner.input_size, inner.num_classes
        self.inner = inner
        self.gate = threading.Semaphore(0)
        self.sizes: list[int] = []
        self.fail = False

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert self.gate.acquire(timeout=20)
        self.sizes.append(len(images))
        if self.fail:
            raise RuntimeError("out of memory")
        return self.inner.run(images)

    def close(self) -> None:
        self.inner.close()


class WideSession(Session):
    """Gives a thousand classes."""

    def __init__(self, inner: Session) -> None:
        self.backend = inner.backend
        self.input_size, self.num_classes = inner.input_size, 1000

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.full((len(images), self.num_classes), 1e-3, np.float32)

    def close(self) -> None:
        pass


@pytest.fixture
def classifier(toy_bundle: Path) -> Iterator[Classifier]:
    with open_classifier(toy_bundle) as classifier:
        yield classifier


@pytest.fixture
def gated(classifier: Classifier) -> GatedSession:
    session = GatedSession(classifier.session)
    classifier.session = session
    return session


def colour(name: str) -> NDArray[np.uint8]:
    image = np.zeros((40, 60, 3), np.uint8)
    image[..., ("red", "green", "blue").index(name)] = 255
    return image


def until(condition: object) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_many_threads_get_their_own_answer(classifier: Classifier) -> None:
    wrong = []

    def client(name: str) -> None:
        for _ in range(30):
            if batcher.submit(colour(name)).result(timeout=20)[0].label != name:
                wrong.append(name)

    with Batcher(classifier, max_batch=4, runners=2) as batcher:
        threads = [
            threading.Thread(target=client, args=(name,)) for name in ("red", "green", "blue") * 4
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    assert batcher.waiting == 0


def test_waiting_images_form_one_batch(classifier: Classifier, gated: GatedSession) -> None:
    batches: list[int] = []
    with Batcher(classifier, max_batch=4) as batcher:
        batcher.observers.append(lambda size, _: batches.append(size))
        first = batcher.submit(colour("red"))
        until(lambda: batcher._decoding == 0 and not batcher._ready)  # it is in the network
        rest = batcher.submit_all([colour("green")] * 6)
        until(lambda: len(batcher._ready) == 6)
        gated.gate.release(3)
        wait([first, *rest], timeout=10)
    assert gated.sizes == batches == [1, 4, 2]


def test_a_lone_image_does_not_wait_for_others(classifier: Classifier) -> None:
    with Batcher(classifier, max_wait_ms=5000) as batcher:
        started = time.perf_counter()
        batcher.submit(colour("blue")).result(timeout=4)
        assert time.perf_counter() - started < 2


def test_a_full_queue_refuses_and_recovers(classifier: Classifier, gated: GatedSession) -> None:
    with Batcher(classifier, max_batch=2, max_queue=4) as batcher:
        accepted = batcher.submit_all([colour("red")] * 4)
        with pytest.raises(OverloadedError, match=r"4 images are waiting and 1 more came, .* is 4"):
            batcher.submit(colour("red"))
        gated.gate.release(4)
        wait(accepted, timeout=10)
        until(lambda: batcher.waiting == 0)
        with pytest.raises(OverloadedError):  # all or none
            batcher.submit_all([colour("red")] * 5)
        assert batcher.waiting == 0
        assert batcher.submit(colour("green")).result(timeout=10)[0].label == "green"


def test_who_has_an_answer_may_ask_again_at_once(classifier: Classifier) -> None:
    """An answered image is not a waiting one: room for all clients is never too little for them."""
    clients, refused = 8, []
    classifier.card = msgspec.structs.replace(
        classifier.card, class_names=tuple(f"class {i}" for i in range(1000))
    )
    classifier.session = WideSession(classifier.session)  # to rank so many takes a while

    def client() -> None:
        for _ in range(100):
            try:
                batcher.submit(colour("red"), top_k=1000).result(timeout=20)
            except OverloadedError as error:
                refused.append(error)

    with Batcher(classifier, max_batch=clients, max_queue=clients) as batcher:
        threads = [threading.Thread(target=client) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not refused


def test_broken_images_and_failing_batches_spare_the_others(
    classifier: Classifier, gated: GatedSession
) -> None:
    gated.gate.release(100)
    with Batcher(classifier) as batcher:
        broken, good = batcher.submit_all([b"text", colour("red")], names=["a.jpg", None])
        with pytest.raises(ImageError, match=r"a\.jpg: not a readable image"):
            broken.result(timeout=10)
        assert good.result(timeout=10)[0].label == "red"
        gated.fail = True
        with pytest.raises(RuntimeError, match="out of memory"):
            batcher.submit(colour("red")).result(timeout=10)
        gated.fail = False
        assert batcher.submit(colour("blue")).result(timeout=10)[0].label == "blue"
        until(lambda: batcher.waiting == 0)


def test_a_lost_gpu_ends_the_acceptance_of_images(
    classifier: Classifier, gated: GatedSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(_: object) -> NDArray[np.float32]:
        raise DeviceLostError("CUDA 700")

    gated.gate.release(100)
    with Batcher(classifier) as batcher:
        assert batcher.submit(colour("red")).result(timeout=10)
        assert (batcher.running, batcher.device_lost) == (True, False)
        monkeypatch.setattr(gated, "_run", lose)
        with pytest.raises(DeviceLostError, match="CUDA 700"):
            batcher.submit(colour("red")).result(timeout=10)
        assert (batcher.running, batcher.device_lost) == (False, True)
        with pytest.raises(BackendError, match=r"has lost its GPU .* only a new process"):
            batcher.submit(colour("red"))


def test_an_answer_without_numbers_fails_alone(
    classifier: Classifier, gated: GatedSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a float16 file that overflows for one picture: it answered the first class."""
    really = gated.inner.run

    def overflowing(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        rows = really(images)
        rows[images[:, 0, 0, 2] > 100] = np.nan  # the blue ones
        return rows

    monkeypatch.setattr(gated.inner, "run", overflowing)
    gated.gate.release(6)
    ready = [classifier.prepare(colour(name)) for name in ("green", "blue", "red")]
    with Batcher(classifier, max_batch=3) as batcher:
        futures = batcher.submit_prepared(ready)
        assert futures[0].result(timeout=20)[0].label == "green"
        with pytest.raises(BackendError, match="no numbers, expected 0 to 1: an overflow; use --p"):
            futures[1].result(timeout=20)
        assert futures[2].result(timeout=20)[0].label == "red"
    for ask in (classifier.probabilities, classifier.classify_prepared):
        with pytest.raises(BackendError, match="no numbers"):
            ask(np.stack(ready))
    with pytest.raises(BackendError, match="no numbers"):
        classifier.classify(colour("blue"))


def test_cancelled_images_are_dropped(classifier: Classifier, gated: GatedSession) -> None:
    blocked = threading.Event()
    prepare = classifier.prepare

    def wait_and_prepare(image: object, **options: object) -> NDArray[np.uint8]:
        assert blocked.wait(timeout=10)
        return prepare(image, **options)  # type: ignore[arg-type]

    classifier.prepare = wait_and_prepare  # type: ignore[assignment, method-assign]
    with Batcher(classifier, decoders=1) as batcher:
        first, second = batcher.submit_all([colour("red"), colour("green")])
        until(first.running)
        assert second.cancel()
        blocked.set()
        gated.gate.release(2)
        assert first.result(timeout=10)[0].label == "red"
        until(lambda: batcher.waiting == 0)
    assert gated.sizes == [1]


def test_a_runner_leaves_the_busy_ones_their_part(
    classifier: Classifier, gated: GatedSession
) -> None:
    with Batcher(classifier, runners=2, max_wait_ms=5000) as batcher:
        futures = batcher.submit_all([colour("red")] * 8)
        until(lambda: batcher._decoding == 0 and len(batcher._ready) <= 2)
        assert len(batcher._ready) == 2  # half of all for the first, half of the rest for the other
        gated.gate.release(4)
        wait(futures, timeout=10)
    assert sorted(gated.sizes) == [1, 1, 2, 4]


def test_closing_answers_what_was_accepted(classifier: Classifier, gated: GatedSession) -> None:
    batcher = Batcher(classifier, max_batch=2)
    futures = batcher.submit_all([colour("green")] * 5)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    until(lambda: batcher._closed)
    with pytest.raises(BackendError, match="closed"):
        batcher.submit(colour("red"))
    gated.gate.release(5)
    closing.join(timeout=10)
    assert not closing.is_alive()
    assert [future.result(timeout=0)[0].label for future in futures] == ["green"] * 5
    batcher.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.parametrize("kind", ["submit", "submit_prepared"])
def test_a_forked_copy_refuses(classifier: Classifier, gated: GatedSession, kind: str) -> None:
    with Batcher(classifier) as batcher:
        image = np.zeros((32, 32, 3), np.uint8)
        accepted = batcher.submit(image)
        reading, writing = os.pipe()
        with warnings.catch_warnings(), batcher._changed:  # as another thread may hold it just now
            warnings.simplefilter("ignore")  # a fork beside threads is what is tested
            child = os.fork()
        if child == 0:
            try:
                batcher.submit(image) if kind == "submit" else batcher.submit_prepared([image])
                told = b"accepted"
            except BackendError as error:
                told = str(error).encode()
            batcher.close()
            os.write(writing, told + b" running" * batcher.running)
            os._exit(0)
        os.waitpid(child, 0)
        told = os.read(reading, 1000).decode()
        assert told == (
            "the batcher was opened before this process was forked; open it in this process"
        )
        gated.gate.release(2)  # the parent goes on
        accepted.result(timeout=10)
        assert batcher.submit(image).result(timeout=10)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("method", ["_prepare", "_next_batch", "_finish"])
def test_a_thread_that_dies_fails_what_was_accepted_and_refuses_more(
    classifier: Classifier, gated: GatedSession, method: str
) -> None:
    def die(*_: object) -> None:
        raise MemoryError

    gated.gate.release(100)
    batcher = Batcher(classifier, decoders=2, runners=2)
    batcher.submit(colour("red")).result(timeout=10)
    setattr(batcher, method, die)
    futures = []
    with suppress(BackendError):  # it may have died between two of them
        for _ in range(3):
            futures.append(batcher.submit(colour("red")))
    answers = [future.exception(timeout=10) for future in futures]
    assert all(error is None or "has lost a thread" in str(error) for error in answers)
    until(lambda: not batcher.running)
    with pytest.raises(BackendError, match="the batcher has lost a thread by an error"):
        batcher.submit(colour("red"))
    batcher.close()
    assert not any(thread.is_alive() for thread in (*batcher.decoders, *batcher.runners))


def test_an_observer_that_fails_is_logged_and_all_are_answered(
    classifier: Classifier, caplog: pytest.LogCaptureFixture
) -> None:
    with Batcher(classifier) as batcher:
        batcher.observers.append(lambda *_: 1 / 0)
        for name in ("red", "blue"):
            assert batcher.submit(colour(name)).result(timeout=10)[0].label == name
        until(lambda: "an observer of the batches has failed" in caplog.text)


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
def test_threads_stand_back_behind_the_rest(classifier: Classifier) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    with Batcher(classifier, niceness=3) as batcher:
        batcher.submit(colour("red")).result(timeout=10)
        found = {
            os.getpriority(os.PRIO_PROCESS, thread.native_id)
            for thread in (*batcher.decoders, *batcher.runners)
            if thread.native_id is not None
        }
    assert max(found) == own + 3
    assert os.getpriority(os.PRIO_PROCESS, 0) == own


def test_senseless_settings_are_refused(classifier: Classifier) -> None:
    for name in ("max_batch", "max_queue", "decoders", "runners"):
        for count in (0, -1):
            with pytest.raises(UserError, match=f"{name} {count}"):
                Batcher(classifier, **{name: count})  # type: ignore[arg-type]
    for wait_ms in (-1.0, math.nan, math.inf, 1e300):  # the last would hang at the first image
        with pytest.raises(UserError, match=r"max_wait_ms .* from 0 to 3600000"):
            Batcher(classifier, max_wait_ms=wait_ms)
    with Batcher(classifier) as batcher, pytest.raises(UserError, match="top_k 0"):
        batcher.submit(colour("red"), top_k=0)


def test_no_batch_is_larger_than_what_may_wait(classifier: Classifier) -> None:
    """A server warms each size up: of 1,000,000,000 it would never begin to serve."""
    with Batcher(classifier, max_batch=1_000_000_000, max_queue=5) as batcher:
        assert batcher.max_batch == 5


def test_prepared_images_are_answered_without_preprocessing(classifier: Classifier) -> None:
    """Also by a network whose preprocessing would cut their border off."""
    spec = msgspec.structs.replace(classifier.card.input, resize=2 * classifier.card.input.size)
    classifier.card = msgspec.structs.replace(classifier.card, input=spec)
    size = classifier.session.input_size
    images = np.random.default_rng(0).integers(0, 256, (9, size, size, 3), dtype=np.uint8)
    expected = classifier.session.run(images)

    def refuse(*_: object, **__: object) -> NDArray[np.uint8]:
        raise AssertionError("a prepared image was prepared again")

    classifier.prepare = refuse  # type: ignore[assignment, method-assign]
    with Batcher(classifier, max_batch=4) as batcher:
        from_array = batcher.submit_prepared(images, top_k=1)
        from_list = batcher.submit_prepared([images[2], images[3]], top_k=1)
        answers = [future.result(timeout=10)[0] for future in from_array + from_list]
        until(lambda: batcher.waiting == 0)
    rows = np.concatenate([expected, expected[2:4]])
    assert [answer.index for answer in answers] == rows.argmax(axis=1).tolist()
    np.testing.assert_allclose([answer.probability for answer in answers], rows.max(1), atol=1e-6)


def test_prepared_and_encoded_images_share_a_batch(
    classifier: Classifier, gated: GatedSession
) -> None:
    size = classifier.session.input_size
    red = np.zeros((size, size, 3), np.uint8) + np.uint8([255, 0, 0])
    with Batcher(classifier, max_batch=4) as batcher:
        first = batcher.submit(colour("green"))
        until(lambda: batcher._decoding == 0 and not batcher._ready)
        [prepared] = batcher.submit_prepared([red])
        encoded = batcher.submit(colour("blue"))
        until(lambda: len(batcher._ready) == 2)
        gated.gate.release(2)
        labels = [future.result(timeout=10)[0].label for future in (first, prepared, encoded)]
    assert labels == ["green", "red", "blue"]
    assert gated.sizes == [1, 2]


def test_prepared_images_are_refused_all_or_none(
    classifier: Classifier, gated: GatedSession
) -> None:
    size = classifier.session.input_size
    good = np.zeros((size, size, 3), np.uint8)
    batcher = Batcher(classifier, max_queue=2)
    for wrong in (
        good.astype(np.float32),
        np.zeros((size + 1, size, 3), np.uint8),
        good[..., 0],
        good.tolist(),
    ):
        with pytest.raises(UserError, match=r"^received .*, expected a prepared image: uint8 \(\d"):
            batcher.submit_prepared([good, wrong])  # type: ignore[list-item]
    with pytest.raises(UserError, match="top_k 0"):
        batcher.submit_prepared([good], top_k=0)
    with pytest.raises(OverloadedError, match="the limit is 2"):
        batcher.submit_prepared([good] * 3)
    assert batcher.waiting == 0
    assert batcher.submit_prepared([]) == []
    batcher.close()
    with pytest.raises(BackendError, match="closed"):
        batcher.submit_prepared([good])
