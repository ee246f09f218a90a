"""How a request waits for the answers of its images."""

import asyncio
import threading
import time
from unittest import mock

import pytest

from runtime.base.errors import BackendError, ImageError, OverloadedError
from runtime.inference.pending_image import FutureAnswer
from runtime.inference.predictions import Predictions
from runtime.server.routes import answers_of
from runtime.server.served_models import ServedModel


def served() -> ServedModel:
    return ServedModel("toy", mock.Mock())


def test_the_loop_wakes_once_for_all_images_of_a_request() -> None:
    futures = [FutureAnswer() for _ in range(32)]
    broken = ImageError("image 5: is empty")

    def finish(places: range) -> None:
        for place in places:
            if place == 5:
                futures[place].set_exception(broken)
            else:
                futures[place].set_result(Predictions())
            time.sleep(0.001)

    async def ask() -> int:
        loop = asyncio.get_running_loop()
        # One is done before anybody waits, the others by two threads.
        finish(range(1))
        threads = [threading.Thread(target=finish, args=[range(i, 32, 2)]) for i in (1, 2)]
        with mock.patch.object(
            loop, "call_soon_threadsafe", wraps=loop.call_soon_threadsafe
        ) as woken:
            for thread in threads:
                thread.start()
            answers = await answers_of(served(), futures, 10)
        for thread in threads:
            thread.join()
        assert answers == [broken if place == 5 else [] for place in range(32)]
        return woken.call_count

    assert asyncio.run(ask()) == 1


def test_images_whose_answers_are_late_are_given_up() -> None:
    futures = [FutureAnswer(), FutureAnswer()]
    futures[0].set_result(Predictions())
    with pytest.raises(OverloadedError, match=r"not answered within 0\.05 s"):
        asyncio.run(answers_of(served(), futures, 0.05))
    assert futures[1].cancelled()


def test_an_error_of_the_network_is_raised() -> None:
    futures = [FutureAnswer(), FutureAnswer()]
    futures[0].set_result(Predictions())
    futures[1].set_exception(BackendError("out of memory"))
    with pytest.raises(BackendError, match="out of memory"):
        asyncio.run(answers_of(served(), futures, 10))


def test_an_answer_that_comes_when_the_loop_is_closed_is_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    future = FutureAnswer()
    future.set_running_or_notify_cancel()  # a decoder has it, so that it is not cancelled
    with pytest.raises(OverloadedError):
        asyncio.run(answers_of(served(), [future], 0.01))
    future.set_result(Predictions())
    assert not caplog.records
