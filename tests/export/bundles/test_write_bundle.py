"""A bundle is whole or as it was before, and nothing but a bundle is replaced."""

import contextlib
import errno
import io
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from export.bundles import write_bundle as bundle_module
from export.bundles.write_bundle import check_place, holdout_bytes, write_bundle
from runtime.base import files as runtime_files
from runtime.base.errors import BundleError, UserError
from runtime.base.files import check_writable, sha256_of_bytes, write_atomic
from runtime.evaluation.gate import compare, compared
from runtime.model.bundle import open_bundle, read_card, write_card
from runtime.model.card import (
    CARD_FILE,
    Card,
    EngineRecord,
    InputSpec,
    ModelFile,
    Parity,
    Profile,
    Provenance,
    example_names,
)
from runtime.model.holdout import (
    KeptApart,
    Labelled,
    read_holdout,
    read_validation,
    validation_bytes,
)
from runtime.model.preprocess import preprocess

SIZE = 8
NAMES = ("rose", "night/day", "night day", "..", "ünïcode", *(f"c{i}" for i in range(15)))


def card(checkpoint: str = "a" * 64, names: tuple[str, ...] = NAMES) -> Card:
    unit = (1.0, 1.0, 1.0)
    return Card(
        arch="toy",
        class_names=names,
        input=InputSpec(size=SIZE, resize=SIZE, crop=SIZE, mean=(0.0, 0.0, 0.0), std=unit),
        temperature=1.0,
        provenance=Provenance(
            run="toy",
            data="toy",
            terms=("ce",),
            seed=0,
            epochs=1,
            top1=0.5,
            top5=1.0,
            ece=0.1,
            params=1,
            macs=1,
            checkpoint_sha256=checkpoint,
        ),
    )


def model(precision: str, content: bytes) -> tuple[ModelFile, bytes]:
    record = ModelFile(
        path=f"model.{precision}.onnx",
        sha256=sha256_of_bytes(content),
        precision=precision,
        opset=20,
        exporter="test",
    )
    return record, content


@pytest.fixture(scope="module")
def test_split() -> Labelled:
    generator = np.random.default_rng(0)
    return Labelled(
        generator.integers(0, 256, (60, SIZE, SIZE, 3), dtype=np.uint8),
        np.arange(60) // 3,  # sorted by class, as many data sets are
        generator.dirichlet(np.ones(20), 60).astype(np.float32),
    )


@pytest.fixture
def folder(tmp_path: Path, test_split: Labelled) -> Path:
    path = tmp_path / "bundle"
    write_bundle(path, card(), [model("fp32", b"single"), model("fp16", b"half")], test_split)
    return path


def with_engine(folder: Path, onnx_sha256: str) -> Path:
    engine = EngineRecord(
        path="engines/model.fp16.engine",
        sha256="0" * 64,
        precision="fp16",
        flavor="tensorrt-rtx",
        tensorrt_version="1",
        compute_capability=("8.6",),
        gpu_name=None,
        platform="Linux-x86_64",
        profile=Profile(min=1, opt=1, max=1),
        onnx_sha256=onnx_sha256,
    )
    write_card(folder, msgspec.structs.replace(read_card(folder), engines=(engine,)))
    (folder / "engines").mkdir()
    (folder / engine.path).write_bytes(b"plan")
    return folder / engine.path


def test_a_new_bundle_has_everything(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "card.json",
        "examples",
        "holdout.npz",
        "model.fp16.onnx",
        "model.fp32.onnx",
    ]
    assert [file.precision for file in read_card(folder).files] == ["fp32", "fp16"]
    assert not list(folder.parent.glob(".*")), "nothing is left beside it"


def test_the_same_checkpoint_adds_and_replaces(folder: Path, test_split: Labelled) -> None:
    written = write_bundle(folder, card(), [model("int8", b"8"), model("fp16", b"H")], test_split)
    assert [file.precision for file in written.card.files] == ["fp32", "fp16", "int8"]
    assert read_card(folder) == written.card
    assert (folder / "model.fp16.onnx").read_bytes() == b"H"
    assert (folder / "model.fp32.onnx").read_bytes() == b"single"


def test_another_checkpoint_replaces_it_whole(folder: Path, test_split: Labelled) -> None:
    write_bundle(folder, card("b" * 64), [model("fp32", b"other")], test_split)
    assert not (folder / "model.fp16.onnx").exists()
    assert [file.precision for file in read_card(folder).files] == ["fp32"]
    assert not list(folder.parent.glob(".*"))


def test_a_corrupt_card_is_mended_by_exporting_again(folder: Path, test_split: Labelled) -> None:
    (folder / CARD_FILE).write_text("{")
    write_bundle(folder, card(), [model("fp32", b"new")], test_split)
    assert read_card(folder).files[0].precision == "fp32"


def test_engines_stay_with_their_onnx_file_and_go_when_it_changes(
    folder: Path, test_split: Labelled
) -> None:
    engine = with_engine(folder, model("fp16", b"half")[0].sha256)
    kept = write_bundle(folder, card(), [model("fp16", b"half")], test_split)
    assert (len(kept.card.engines), list(kept.dropped), engine.exists()) == (1, [], True)
    changed = write_bundle(folder, card(), [model("fp16", b"HALF")], test_split)
    assert (len(changed.card.engines), len(changed.dropped), engine.exists()) == (0, 1, False)


def whole(folder: Path) -> dict[str, bytes]:
    """All listed files by their precision, with their digests checked."""
    bundle = open_bundle(folder)
    return {file.precision: bundle.read(file) for file in bundle.card.files}


@pytest.mark.parametrize("one_step", [True, False])
@pytest.mark.parametrize("call", ["link", "replace", "rename", "fsync"])
def test_whatever_stops_an_export_the_former_bundle_or_the_new_one_is_there(
    call: str,
    folder: Path,
    test_split: Labelled,
    monkeypatch: pytest.MonkeyPatch,
    one_step: bool,
) -> None:
    """Ctrl-C comes after the first call that changes or saves a name, or after a later one."""
    place = Path if call in ("replace", "rename") else os
    really = getattr(place, call)

    def interrupted_at(moment: int) -> Callable[..., object]:
        calls = itertools.count(1)

        def interrupted(*arguments: object, **named: object) -> object:
            done = really(*arguments, **named)
            if next(calls) == moment:
                raise KeyboardInterrupt
            return done

        return interrupted

    if not one_step:
        monkeypatch.setattr(runtime_files, "_exchange", lambda *_: False)
    former = whole(folder)
    new = {"fp32": b"SINGLE", "fp16": b"half", "int8": b"8"}
    made = [model("fp32", b"SINGLE"), model("int8", b"8")]
    ended = []
    for moment in range(1, 100):
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(place, call, interrupted_at(moment))
            write_bundle(folder, card(), made, test_split)
            break
        ended.append(whole(folder))
        assert not list(folder.parent.glob(".*"))
        if ended[-1] == new:
            shutil.rmtree(folder)
            write_bundle(folder, card(), [model(p, c) for p, c in former.items()], test_split)
    assert all(content in (former, new) for content in ended)
    assert ended or (call == "rename" and one_step)
    assert whole(folder) == new


def test_a_file_system_without_hard_links_is_fine(
    folder: Path, test_split: Labelled, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    engine = with_engine(folder, model("fp16", b"half")[0].sha256)
    monkeypatch.setattr(os, "link", refuse)
    write_bundle(folder, card(), [model("int8", b"8")], test_split)
    assert whole(folder) == {"fp32": b"single", "fp16": b"half", "int8": b"8"}
    assert engine.read_bytes() == b"plan"
    assert len(list((folder / "examples").iterdir())) == 12


def test_what_the_user_put_into_a_bundle_stays(folder: Path, test_split: Labelled) -> None:
    (folder / "notes").mkdir()
    (folder / "notes" / "mine.txt").write_text("keep")
    (folder / "absent").symlink_to("nowhere")
    (folder / f".model.onnx.{8 * '0'}.tmp").touch()  # of a process that was killed
    folder.chmod(0o700)
    write_bundle(folder, card(), [model("fp32", b"new")], test_split)
    assert (folder / "notes" / "mine.txt").read_text() == "keep"
    assert (folder / "absent").readlink() == Path("nowhere")
    assert not list(folder.glob(".*.tmp"))
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("checkpoint", ["a" * 64, "b" * 64])
def test_a_failure_half_way_leaves_the_former_bundle(
    checkpoint: str, folder: Path, test_split: Labelled, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_card(folder)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle_module, "write_card", fail)
    with pytest.raises(OSError, match="No space"):
        write_bundle(folder, card(checkpoint), [model("int8", b"8")], test_split)
    assert read_card(folder) == before
    assert (folder / "model.fp16.onnx").read_bytes() == b"half"
    assert not list(folder.parent.glob(".*"))


def test_a_file_that_was_let_through_goes_when_its_precision_fails(
    folder: Path, test_split: Labelled
) -> None:
    """An export without `--allow-drop` removes a file that it let through; a good file stays."""
    bad = Parity(images=60, top1=0.5, reference_top1=0.9, agreement=0.5, max_difference=0.4)
    good = Parity(images=60, top1=0.9, reference_top1=0.9, agreement=1.0, max_difference=0.0)
    former = read_card(folder)
    for parity, stays in ((bad, False), (None, False), (good, True)):
        listed = tuple(msgspec.structs.replace(file, parity=parity) for file in former.files)
        write_card(folder, msgspec.structs.replace(former, files=listed))
        (folder / "model.fp16.onnx").write_bytes(b"half")
        engine = with_engine(folder, listed[1].sha256)
        written = write_bundle(folder, card(), [], test_split, refused=["fp16"])
        assert read_card(folder) == written.card
        assert [file.precision for file in written.card.files] == ["fp32", "fp16"][: 1 + stays]
        assert (folder / "model.fp16.onnx").exists() == engine.exists() == stays
        assert (folder / "model.fp32.onnx").exists()
        shutil.rmtree(engine.parent)


@pytest.mark.parametrize("damage", ["holdout", "its kind", "examples"])
def test_exporting_again_mends_what_was_held_out(
    damage: str, folder: Path, test_split: Labelled
) -> None:
    """The error of `read_holdout` says that an export mends it."""
    whole = (folder / "holdout.npz").read_bytes()
    if damage == "holdout":
        (folder / "holdout.npz").write_bytes(whole[:100])
    elif damage == "its kind":
        np.savez(folder / "holdout.npz", images=1, labels=1, probabilities=1)
    else:
        shutil.rmtree(folder / "examples")
    write_bundle(folder, card(), [model("fp32", b"single")], test_split)
    assert (folder / "holdout.npz").read_bytes() == whole
    assert len(list((folder / "examples").iterdir())) == 12


def test_what_is_not_a_bundle_is_not_touched(tmp_path: Path, test_split: Labelled) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="holds files and is no bundle"):
        write_bundle(tmp_path, card(), [model("fp32", b"x")], test_split)
    with pytest.raises(UserError, match="is a file"):
        check_place(tmp_path / "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("place", [".", "../empty"])
def test_the_folder_that_one_is_in_is_not_replaced(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UserError, match="holds, the folder you are in; choose another --out"):
        check_place(Path(place))


@pytest.mark.parametrize("place", ["bundle", "bundle/engines", "absent/bundle"])
def test_a_place_that_may_not_be_written_is_named_before_the_work(
    place: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`os.access` is replaced, because root may write everywhere."""
    refused = folder if place.startswith("bundle") else folder.parent
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != refused)
    with pytest.raises(UserError, match=f"{refused} may not be written to"):
        check_writable(folder.parent / place)
    if place == "bundle":  # it is exchanged for another, which its parent has to allow
        for refused in (folder, folder.parent):
            with pytest.raises(UserError, match=f"{refused} may not be written to"):
                check_place(folder)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: io.BytesIO())
    check_writable(Path("/"))


def test_a_mount_point_is_not_replaced() -> None:
    with pytest.raises(UserError, match="/proc is a mount point"):
        check_place(Path("/proc"))


def test_examples_are_the_test_images_of_twelve_classes(folder: Path, test_split: Labelled) -> None:
    files = sorted((folder / "examples").iterdir())
    assert len(files) == 12
    assert all(file.suffix == ".png" and file.parent.name == "examples" for file in files)
    np.testing.assert_array_equal(
        preprocess(folder / "examples" / "rose.png", read_card(folder).input),
        test_split.images[0],
    )


def test_labels_that_are_no_file_names_do_not_collide(tmp_path: Path, test_split: Labelled) -> None:
    names = NAMES[:5]
    labels = test_split.labels % 5
    split = Labelled(test_split.images, labels, test_split.probabilities)
    write_bundle(tmp_path / "b", card(names=names), [model("fp32", b"x")], split)
    found = sorted(path.name for path in (tmp_path / "b" / "examples").iterdir())
    assert found == ["3.png", "night_day-2.png", "night_day.png", "rose.png", "ünïcode.png"]


def test_long_labels_have_example_names_that_file_systems_take(tmp_path: Path) -> None:
    labels = ("L" * 250, "L" * 249, "語" * 90, "ok")
    names = example_names(labels)
    assert len({*names}) == len(labels)
    for name in names:
        write_atomic(tmp_path / f"{name}.png", "")
    assert names[-1] == "ok"


def test_the_holdout_is_a_random_part_of_limited_size(tmp_path: Path) -> None:
    images = np.zeros((1200, 1, 1, 3), np.uint8)
    labels = np.arange(1200) // 100
    split = Labelled(images, labels, np.eye(12, dtype=np.float32)[labels])
    (tmp_path / "holdout.npz").write_bytes(holdout_bytes(split))
    model_card = card(names=NAMES[:12])
    spec = msgspec.structs.replace(model_card.input, size=1)
    held = read_holdout(tmp_path, msgspec.structs.replace(model_card, input=spec))
    assert held.images.shape == (1000, 1, 1, 3)
    assert set(held.labels) == set(range(12))
    assert (held.probabilities.argmax(axis=1) == held.labels).all()
    assert holdout_bytes(split) == holdout_bytes(split)
    large = Labelled(np.zeros((900, 224, 224, 3), np.uint8), np.zeros(900, int), np.ones((900, 1)))
    with np.load(io.BytesIO(holdout_bytes(large))) as arrays:
        assert len(arrays["images"]) == 445


def test_the_holdout_is_drawn_class_by_class() -> None:
    """A rare class keeps all of its images, where a plain draw of 1,000 would leave it a fifth."""
    labels = np.repeat([0, 1, 2], [4000, 990, 10])
    images = np.arange(5000, dtype=np.uint32).view(np.uint8).reshape(5000, 4)[:, :3]
    split = Labelled(images.reshape(5000, 1, 1, 3), labels, np.eye(3, dtype=np.float32)[labels])
    with np.load(io.BytesIO(holdout_bytes(split))) as arrays:
        assert np.bincount(arrays["labels"]).tolist() == [495, 495, 10]
        numbers = arrays["images"].reshape(-1, 3).astype(int) @ [1, 256, 65536]
        assert len(set(numbers)) == 1000
        assert (labels[numbers] == arrays["labels"]).all()
        assert not (np.diff(numbers[:495]) == 1).all()  # at random, not the first of the class


def test_what_a_file_did_on_the_held_out_images_is_of_those_in_the_bundle(
    tmp_path: Path,
) -> None:
    labels = np.repeat([0, 1], [1100, 100])
    images = np.arange(1200, dtype=np.uint32).view(np.uint8).reshape(1200, 1, 1, 4)[..., :3]
    test = Labelled(images, labels, np.eye(2, dtype=np.float32)[labels])
    answers = np.eye(2, dtype=np.float32)[np.where(np.arange(1200) % 7 == 0, 1 - labels, labels)]
    whole, part = compared(answers, test, "ab")
    assert whole == compare(answers, test.probabilities, labels, "ab")
    with np.load(io.BytesIO(holdout_bytes(test))) as held:
        rows = held["images"].reshape(-1, 3).astype(int) @ [1, 256, 65536]
        assert part == compare(answers[rows], held["probabilities"], held["labels"], "ab")
    assert (whole.images, part.images) == (1200, 1000)


def test_files_that_stay_beside_other_held_out_images_state_nothing_of_the_former(
    folder: Path, test_split: Labelled
) -> None:
    found = Parity(images=60, top1=1, reference_top1=1, agreement=1, max_difference=0)

    def stating(precision: str) -> tuple[ModelFile, bytes]:
        record, content = model(precision, precision.encode())
        return msgspec.structs.replace(record, parity=found, holdout_parity=found), content

    def stated() -> dict[str, bool]:
        return {f.precision: f.holdout_parity is not None for f in read_card(folder).files}

    write_bundle(folder, card(), [stating("fp16")], test_split)
    write_bundle(folder, card(), [stating("int8")], test_split)
    assert stated() == {"fp32": False, "fp16": True, "int8": True}
    fewer = Labelled(*(array[:40] for array in vars(test_split).values()))
    write_bundle(folder, card(), [stating("int8")], fewer)
    assert stated() == {"fp32": False, "fp16": False, "int8": True}
    assert len(read_holdout(folder, card()).images) == 40


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 not a zip", json.dumps({}).encode()])
def test_a_damaged_holdout_is_named(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "holdout.npz").write_bytes(content)
    with pytest.raises(BundleError, match=r"holdout\.npz cannot be read"):
        read_holdout(tmp_path, card())


def write_with_byte(file: Path, *, place: int, value: int) -> None:
    """Replaces one byte of a file."""
    content = bytearray(file.read_bytes())
    content[place] = value
    file.write_bytes(content)


def test_damaged_bytes_of_held_out_arrays_are_named(folder: Path, tmp_path: Path) -> None:
    """zipfile, zlib and numpy have errors of many classes for them."""
    few = np.arange(4)
    kept = KeptApart(few.astype(np.uint8), few, few, few / 4, few > 1)
    (tmp_path / "validation.npz").write_bytes(validation_bytes(kept))
    model_card = read_card(folder)
    readings: list[tuple[Path, Callable[[], object]]] = [
        (folder / "holdout.npz", lambda: read_holdout(folder, model_card)),
        (tmp_path / "validation.npz", lambda: read_validation(tmp_path)),
    ]
    for file, read in readings:
        whole = file.read_bytes()
        places = range(0, len(whole), len(whole) // 100)
        refused = 0
        for place in places:
            write_with_byte(file, place=place, value=whole[place] ^ 255)
            try:
                read()
            except BundleError as error:
                assert str(error).startswith(f"{file} cannot be read (")  # noqa: PT017
                refused += 1
            file.write_bytes(whole)
        assert refused > len(places) / 2  # not all bytes are checked, such as those of the time
        read()


@pytest.mark.parametrize("shape", [(), (2, 1)])
def test_held_out_arrays_of_other_shapes_are_named(shape: tuple[int, ...], tmp_path: Path) -> None:
    array = np.zeros(shape, np.uint8)
    names = ("images", "labels", "probabilities", *KeptApart.__dataclass_fields__)
    for file in ("holdout.npz", "validation.npz"):
        np.savez(tmp_path / file, **dict.fromkeys(names, array))
    with pytest.raises(BundleError, match=r"holdout\.npz cannot be read"):
        read_holdout(tmp_path, card())
    if shape == ():
        with pytest.raises(BundleError, match=r"validation\.npz cannot be read"):
            read_validation(tmp_path)
