"""Processes that change a bundle at a time lose nothing of each other's."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from export.bundles import write_bundle as bundle_module
from export.bundles.write_bundle import write_bundle
from export.engines import bundled_engines
from export.engines.bundled_engines import list_engine, replace_record
from runtime.base import files
from runtime.base.errors import BundleError, UserError
from runtime.base.files import sha256_of_bytes
from runtime.model.bundle import open_bundle, read_card
from runtime.model.card import Card, EngineRecord
from runtime.model.holdout import read_holdout

BUNDLE = Path(__file__).parents[2] / "runtime" / "data" / "bundle_of_schema_1"
SECONDS = 60  # until a thread that does not come is an error
PATIENCE = 0.3  # seconds in which the other thread would come to its end if no lock held it


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return shutil.copytree(BUNDLE, tmp_path / "bundle")


def record_of(bundle: Path, name: str) -> tuple[EngineRecord, bytes]:
    """A record like the one that the bundle has, of another file, and that file's content."""
    plan = name.encode()
    (listed,) = read_card(BUNDLE).engines
    path = f"engines/{name}.engine"
    return msgspec.structs.replace(listed, path=path, sha256=sha256_of_bytes(plan)), plan


def beside_each_other(*works: Callable[[], object]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def wait_within(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, ended: threading.Event
) -> threading.Event:
    """Lets the first call of a function wait until `ended`, as long as patience lasts.

    The event that is given says that the call has begun.
    """
    begun, real = threading.Event(), getattr(module, name)

    def call(*arguments: object) -> object:
        if not begun.is_set():
            begun.set()
            ended.wait(PATIENCE)
        return real(*arguments)

    monkeypatch.setattr(module, name, call)
    return begun


def test_two_engines_that_are_listed_at_a_time_are_both_in_the_card(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    begun = wait_within(monkeypatch, bundled_engines, "write_card", ended)

    def second() -> None:
        begun.wait(SECONDS)
        list_engine(bundle, *record_of(bundle, "b"))
        ended.set()

    beside_each_other(lambda: list_engine(bundle, *record_of(bundle, "a")), second)
    opened = open_bundle(bundle)
    assert [engine.path for engine in opened.card.engines][1:] == [
        "engines/a.engine",
        "engines/b.engine",
    ]
    assert [opened.read(engine) for engine in opened.card.engines[1:]] == [b"a", b"b"]


def test_an_engine_that_is_listed_during_an_export_stays(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The export has read the card already, and replaces the whole folder afterwards."""
    ended = threading.Event()
    begun = wait_within(monkeypatch, bundle_module, "write_card", ended)
    card = read_card(bundle)
    test = read_holdout(bundle, card)

    def second() -> None:
        begun.wait(SECONDS)
        list_engine(bundle, *record_of(bundle, "b"))
        ended.set()

    beside_each_other(lambda: write_bundle(bundle, card, [], test), second)
    opened = open_bundle(bundle)
    assert len(opened.card.engines) == 2
    assert opened.read(opened.card.engines[1]) == b"b"
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_files_of_two_first_exports_are_both_in_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, folder, ended = open_bundle(BUNDLE), tmp_path / "new" / "bundle", threading.Event()
    test = read_holdout(BUNDLE, whole.card)
    begun = wait_within(monkeypatch, bundle_module, "write_card", ended)

    def export(precision: str) -> None:
        record = whole.card.file(precision)  # type: ignore[arg-type]
        assert record is not None
        empty = msgspec.structs.replace(whole.card, files=(), engines=())
        write_bundle(folder, empty, [(record, whole.read(record))], test)

    def second() -> None:
        begun.wait(SECONDS)
        export("fp16")
        ended.set()

    beside_each_other(lambda: export("fp32"), second)
    assert [file.precision for file in read_card(folder).files] == ["fp32", "fp16"]


def test_an_engine_that_was_replaced_while_it_ran_keeps_its_new_record(bundle: Path) -> None:
    former, plan = record_of(bundle, "a")
    list_engine(bundle, former, plan)
    newer = msgspec.structs.replace(former, sha256=sha256_of_bytes(b"newer"))
    list_engine(bundle, newer, b"newer")
    for found in (None, msgspec.structs.replace(former, gpu_name="Orin")):
        with pytest.raises(BundleError, match="was replaced while it was run"):
            replace_record(bundle, former, found)
    assert open_bundle(bundle).read(newer) == b"newer"
    replace_record(bundle, newer, None)
    assert not (bundle / newer.path).exists()
    assert len(read_card(bundle).engines) == 1


def test_an_engine_that_is_built_again_while_the_former_one_is_removed_stays(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for the lock may have it as soon as there is a new card, which is its lock."""
    former, plan = record_of(bundle, "a")
    list_engine(bundle, former, plan)
    real = bundled_engines.write_card

    def write_and_let_others_in(folder: Path, card: Card) -> None:
        real(folder, card)
        monkeypatch.setattr(bundled_engines, "write_card", real)
        list_engine(folder, former, plan)

    monkeypatch.setattr(bundled_engines, "write_card", write_and_let_others_in)
    replace_record(bundle, former, None)
    assert open_bundle(bundle).read(former) == plan


def test_a_file_system_without_locks_is_named(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with pytest.raises(UserError, match=r"card.json cannot be locked \(Operation not supported\)"):
        list_engine(bundle, *record_of(bundle, "a"))
