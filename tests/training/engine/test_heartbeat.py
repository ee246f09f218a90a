"""The heartbeat beside the collectives: silence, an end without a goodbye, an ordinary end."""

import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from runtime.base.errors import UserError
from training.engine import heartbeat
from training.engine.heartbeat import VARIABLE, Heartbeat, open_heartbeat, silence_seconds

SILENCE = 0.8


class Pair:
    """The heartbeats of two processes, here in one, and what each has found."""

    def __init__(self) -> None:
        shared: queue.Queue[object] = queue.Queue()
        self.found: list[list[str]] = [[], []]
        self.beats: list[Heartbeat] = []

        def share(value: object) -> object:
            if value is not None:
                shared.put(value)
                return value
            return shared.get(timeout=10)

        main = threading.Thread(target=lambda: self.beats.insert(0, self._open(0, share)))
        main.start()
        self.beats.append(self._open(1, share))
        main.join()

    def _open(self, rank: int, share: object) -> Heartbeat:
        return open_heartbeat(rank, 2, share, self.found[rank].append)


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    monkeypatch.setenv(VARIABLE, str(SILENCE))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setattr(heartbeat, "_GRACE", 0.1)
    made = Pair()
    with ExitStack() as ending:
        for each in made.beats:
            ending.callback(each.stop, goodbye=True)
        yield made


def wait_for_words(found: list[str]) -> str:
    end = time.monotonic() + 20
    while not found:
        assert time.monotonic() < end
        time.sleep(0.01)
    return found[0]


@pytest.mark.alone
def test_who_beats_is_not_lost_and_may_say_goodbye(pair: Pair) -> None:
    time.sleep(3 * SILENCE)
    pair.beats[1].stop(goodbye=True)
    time.sleep(2 * SILENCE)
    assert pair.found == [[], []]


def test_who_ends_without_a_goodbye_is_lost(pair: Pair) -> None:
    pair.beats[1].stop(goodbye=False)
    words = wait_for_words(pair.found[0])
    assert words.startswith(f"process 1 on {socket.gethostname()} has ended; ")
    assert words.endswith("--resume")
    assert pair.found[1] == []


def test_who_is_silent_is_lost(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair.beats[1], "_send", lambda _word: None)
    words = wait_for_words(pair.found[0])
    assert words.startswith(f"nothing was heard from process 1 on {socket.gethostname()} for 0.8 s")


@pytest.mark.parametrize("text", ["0", "-3", "nan", "inf", "soon"])
def test_an_impossible_silence_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(UserError, match=f"{VARIABLE}: received '{text}', expected seconds above 0"):
        silence_seconds()


def test_a_cut_link_is_found_within_a_minute() -> None:
    assert silence_seconds() * (1 + 1 / heartbeat._BEATS) < 60
