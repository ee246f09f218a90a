"""What goes wrong while a model is loaded again never ends the thread that loads models."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.base.errors import BackendError
from runtime.server import reloading
from runtime.server.reloading import Reloader, Source, source_of, state_of
from runtime.server.served_models import ServedModel


class FakeClassifier:
    def __init__(self) -> None:
        self.closed = False

    def describe(self) -> str:
        return "a model"

    def close(self) -> None:
        self.closed = True


class FakeBatcher:
    """Closes, or cannot be closed."""

    device_lost = False

    def __init__(self, error: Exception | None = None) -> None:
        self.classifier = FakeClassifier()
        self.closed = False
        self._error = error

    def close(self) -> None:
        self.closed = True
        if self._error is not None:
            raise self._error

    def refusal(self) -> BackendError:
        return BackendError("it has lost its GPU")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloading, "_WATCH_SECONDS", 0.05)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "card.json").write_text("{}")
    (tmp_path / "model.onnx").write_bytes(b"old")
    return tmp_path


def source_at(bundle: Path, batcher: FakeBatcher) -> Source:
    served = ServedModel("toy", batcher)  # type: ignore[arg-type]
    return source_of(served, bundle, state_of(bundle))


def comes(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 5
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_a_folder_that_may_not_be_looked_into_is_a_failure_until_it_may_again(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbidden = threading.Event()
    find_model = reloading.find_model

    def found(path: Path | None) -> Path:
        if forbidden.is_set():
            raise PermissionError(13, "Permission denied", str(path))
        return find_model(path)

    def opened(path: Path | None) -> FakeBatcher:
        found(path)
        return FakeBatcher()

    monkeypatch.setattr(reloading, "find_model", found)
    source = source_at(bundle, FakeBatcher())
    notes: list[str] = []
    with Reloader([source], opened, watch=True, note=notes.append) as reloader:  # type: ignore[arg-type]
        forbidden.set()
        assert comes(lambda: source.served.failed_reloads == 1)
        assert "Permission denied" in notes[0]
        reloader.request()
        assert comes(lambda: source.served.failed_reloads == 2)
        assert source.served.current.version == "1"
        forbidden.clear()
        assert comes(lambda: source.served.current.version == "2")
    assert source.served.failed_reloads == 2


def test_a_broken_log_ends_nothing(bundle: Path) -> None:
    def broken(_line: str) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    batchers = [FakeBatcher()]

    def opened(_path: Path | None) -> FakeBatcher:
        if len(batchers) == 3:
            batchers.append(FakeBatcher())
            raise ValueError("damaged")
        batchers.append(FakeBatcher())
        return batchers[-1]

    source = source_at(bundle, batchers[0])
    with Reloader([source], opened, watch=False, note=broken) as reloader:  # type: ignore[arg-type]
        for version, failures in (("2", 0), ("3", 0), ("3", 1), ("4", 1)):
            reloader.request()
            wanted = (version, failures)
            assert comes(
                lambda: (source.served.current.version, source.served.failed_reloads) == wanted  # noqa: B023
            )
    assert [batcher.closed for batcher in batchers[:3]] == [True, True, True]
    assert all(batcher.classifier.closed for batcher in batchers[:3])


def test_a_former_model_that_cannot_be_closed_ends_nothing(bundle: Path) -> None:
    notes: list[str] = []
    first = FakeBatcher(RuntimeError("a thread is stuck"))
    source = source_at(bundle, first)
    with Reloader([source], lambda _: FakeBatcher(), watch=False, note=notes.append) as reloader:  # type: ignore[arg-type,return-value]
        reloader.request()
        assert comes(lambda: source.served.failed_reloads == 1)
        assert "a thread is stuck" in notes[-1]
        assert first.classifier.closed
        reloader.request()
        assert comes(lambda: source.served.current.version == "3")


def test_a_successor_that_cannot_take_its_place_is_closed(bundle: Path) -> None:
    first, second = FakeBatcher(), FakeBatcher()
    source = source_at(bundle, first)

    def refuse(_batcher: object) -> None:
        raise RuntimeError("no metrics")

    source.served.opened.append(refuse)
    with Reloader([source], lambda _: second, watch=False, note=print) as reloader:  # type: ignore[arg-type,return-value]
        reloader.request()
        assert comes(lambda: source.served.failed_reloads == 1)
    assert source.served.current.batcher is first  # type: ignore[comparison-overlap]
    assert (first.closed, second.closed, second.classifier.closed) == (False, True, True)


def test_nothing_is_loaded_into_a_process_that_has_lost_its_gpu(bundle: Path) -> None:
    """It could not run there, or would be another backend's model. Each is told once."""
    sources = [source_at(bundle, FakeBatcher()) for _ in range(2)]
    sources[1].served.current.batcher.device_lost = True
    notes: list[str] = []
    opened: list[Path | None] = []
    with Reloader(sources, opened.append, watch=True, note=notes.append) as reloader:  # type: ignore[arg-type]
        reloader.request()
        assert comes(lambda: len(notes) == 2)
        (bundle / "next").write_bytes(b"the next one")
        (bundle / "next").replace(bundle / "model.onnx")  # at once: half a file is a change, too
        assert comes(lambda: len(notes) == 4)
        time.sleep(0.5)  # the files are looked at ten times
    assert set(notes) == {"toy: the new model is not loaded: it has lost its GPU"}
    assert (len(notes), opened) == (4, [])
    assert [source.served.failed_reloads for source in sources] == [2, 2]


def test_a_bundle_that_is_complete_during_the_last_attempt_is_loaded(bundle: Path) -> None:
    attempts = 0

    def opened(path: Path | None) -> FakeBatcher:
        """While it reads, a copy goes on; what it has read is not complete."""
        nonlocal attempts
        attempts += 1
        if attempts <= reloading._ATTEMPTS:
            with (bundle / "model.onnx").open("ab") as file:
                file.write(b"more")
            raise ValueError("half copied")
        return FakeBatcher()

    source = source_at(bundle, FakeBatcher())
    with Reloader([source], opened, watch=True, note=print) as reloader:  # type: ignore[arg-type]
        reloader.request()
        assert comes(lambda: source.served.current.version == "2")
    assert (attempts, source.served.failed_reloads) == (reloading._ATTEMPTS + 1, 1)
