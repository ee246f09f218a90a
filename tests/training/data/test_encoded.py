"""The cache with the pictures' own bytes: the same pixels as arrays, decoded by processes."""

import io
import shutil
import subprocess
import sys
import time
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from runtime.base.errors import UserError
from training.config.cache_form import cache_form, jpeg_quality
from training.data import Dataset, encoded_images, load_dataset
from training.data.batches import Batches
from training.data.encoded_images import EncodedImages
from training.data.kept_rows import with_rows


def load(path: Path, cache: str, **options: Any) -> Dataset:
    return load_dataset(str(path), cache=cache, **{"image_size": 96, "progress": False, **options})


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of JPEGs, PNGs and a picture of many pixels, all of several shapes."""
    for number in range(40):
        generator = np.random.default_rng(number)
        noise = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        width, height = 60 + 7 * number, 340 - 6 * number
        file = (
            tmp_path
            / "photos"
            / "ab"[number % 2]
            / f"{number:02}.{'png' if number % 5 == 0 else 'jpg'}"
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        noise.resize((width, height)).save(file, quality=80 + number % 20)
    Image.new("RGB", (3000, 2000), (10, 90, 40)).save(tmp_path / "photos" / "a" / "large.jpg")
    return tmp_path / "photos"


def pixels(images: Any) -> Any:
    return np.array(images[:])


@pytest.mark.parametrize("fit", ["crop", "letterbox", "stretch"])
@pytest.mark.parametrize("form", ["folder", "zip", "tar"])
def test_the_same_pixels_digests_and_paths_as_arrays(photos: Path, form: str, fit: str) -> None:
    data = photos
    if form != "folder":
        data = Path(shutil.make_archive(str(photos), form, photos))
    arrays, encoded = load(data, "arrays", fit=fit), load(data, "encoded", fit=fit)
    assert isinstance(encoded.train_images, EncodedImages)
    for split in ("train", "test"):
        ours, theirs = (getattr(d, f"{split}_images") for d in (encoded, arrays))
        assert (ours.shape, ours.dtype, ours.nbytes) == (theirs.shape, theirs.dtype, theirs.nbytes)
        assert np.array_equal(pixels(ours), theirs)
        assert np.array_equal(ours[3], theirs[3])
        assert np.array_equal(ours[-1], theirs[-1])
        assert np.array_equal(ours[2:7:2], theirs[2:7:2])
        assert np.array_equal(ours[np.array([5, 0, 5])], theirs[[5, 0, 5]])
        for name in ("labels", "paths", "sha256", "pictures"):
            pair = [np.array(getattr(d, f"{split}_{name}")) for d in (encoded, arrays)]
            assert np.array_equal(*pair), name
    assert encoded.content_digest() == arrays.content_digest()
    assert encoded.digest() == arrays.digest()


def test_parquet_keeps_the_bytes_of_its_cells(photos: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    files = sorted(photos.rglob("*.jpg"))
    cells = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    table = pyarrow.table({"image": cells, "label": [file.parent.name for file in files]})
    parquet.write_table(table, tmp_path / "hub.parquet", row_group_size=7)
    arrays, encoded = (load(tmp_path / "hub.parquet", form) for form in ("arrays", "encoded"))
    assert np.array_equal(pixels(encoded.train_images), arrays.train_images)
    assert np.array_equal(pixels(encoded.test_images), arrays.test_images)


def test_the_file_holds_the_bytes_as_they_came(photos: Path, cache: Path) -> None:
    load(photos, "encoded")
    (entry,) = (path for path in (cache / "encoded").iterdir() if path.name[0] != ".")
    kept = set()
    for split in ("train", "test"):
        content = (entry / f"{split}_images.bin").read_bytes()
        places = np.load(entry / f"{split}_places.npy")
        assert places.dtype == np.uint64
        assert sum(end - start for start, end in places.tolist()) == len(content)
        kept |= {content[start:end] for start, end in places.tolist()}
    assert kept == {file.read_bytes() for file in photos.rglob("*.*")}


def test_a_quality_makes_jpegs_of_what_is_trained_on_and_is_told(photos: Path, cache: Path) -> None:
    arrays, encoded = load(photos, "arrays"), load(photos, "encoded:90")
    for row in (0, 7, 20):
        file = io.BytesIO()
        Image.fromarray(arrays.train_images[row]).save(file, "JPEG", quality=90)
        with Image.open(file) as image:
            assert np.array_equal(encoded.train_images[row], np.asarray(image))
    assert np.array_equal(pixels(encoded.test_images), arrays.test_images)
    assert encoded.jpeg_quality == 90
    others = [load(photos, form) for form in ("encoded:89", "encoded")]
    digests = {data.content_digest() for data in (arrays, encoded, *others)}
    assert len(digests) == 3  # that of arrays and of encoded is one


def test_many_rows_come_from_processes(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, encoded = load(photos, "arrays"), load(photos, "encoded")
    monkeypatch.setattr(encoded_images, "usable_cores", lambda: 2)
    monkeypatch.setattr(encoded_images, "_SHARED_BYTES", 1)  # two slots: they are used again
    first = np.zeros(50, np.int64)  # they start with it, and it does not wait for them
    assert np.array_equal(encoded.train_images[first], arrays.train_images[first])
    encoded_images._decoders._ready.result(timeout=60)
    here: list[int] = []
    real = encoded_images.decode_places
    monkeypatch.setattr(
        encoded_images, "decode_places", lambda *a: (here.append(len(a[1])), real(*a))[1]
    )
    rows = np.random.default_rng(0).integers(0, len(arrays.train_labels), 100)
    assert np.array_equal(encoded.train_images[rows], arrays.train_images[rows])
    assert np.array_equal(pixels(encoded.train_images), arrays.train_images)
    assert not here
    encoded_images._decoders._close()


def test_batches_are_the_same_and_valid_until_the_next(photos: Path) -> None:
    epochs = []
    for form in ("arrays", "encoded"):
        data = load(photos, form)
        batches = Batches(
            data.train_images,
            data.train_labels,
            batch_size=8,
            device=torch.device("cpu"),
            seed=3,
            partners=True,
        )
        assert batches.resident == (form == "arrays")
        epochs.append(
            [[part.clone() for part in batch] for epoch in (0, 1) for batch in batches.epoch(epoch)]
        )
    arrays, encoded = epochs
    assert len(arrays) == len(encoded) == 2 * (33 // 8)
    for ours, theirs in zip(encoded, arrays, strict=True):
        assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))


def test_a_broken_picture_is_left_out(photos: Path) -> None:
    (photos / "b" / "09.jpg").write_bytes((photos / "b" / "11.jpg").read_bytes()[:300])
    arrays, encoded = load(photos, "arrays"), load(photos, "encoded")
    assert encoded.train_paths == arrays.train_paths
    assert encoded.left_out == arrays.left_out == {"broken": 1}
    assert np.array_equal(pixels(encoded.train_images), arrays.train_images)


def test_rows_are_chosen_without_a_copy(photos: Path) -> None:
    data = load(photos, "encoded")
    rows = np.array([1, 4, 9])
    chosen = with_rows(data, rows)
    assert np.array_equal(pixels(chosen.train_images), data.train_images[rows])
    assert chosen.train_paths == tuple(data.train_paths[row] for row in rows)


def test_a_damaged_entry_is_made_again(
    photos: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = pixels(load(photos, "encoded").train_images)
    (entry,) = (path for path in (cache / "encoded").iterdir() if path.name[0] != ".")
    content = bytearray((entry / "train_images.bin").read_bytes())
    content[1000] ^= 1
    (entry / "train_images.bin").write_bytes(content)
    assert np.array_equal(pixels(load(photos, "encoded").train_images), before)
    assert "is damaged" in capsys.readouterr().out


KILLED = """
import os, signal, sys
from training.data import decode, load_dataset, resumable_decoding

resumable_decoding._CHUNK_IMAGES = 4
real, done = decode.decode_chunk, 0

def counted(chunk):
    global done
    done += len(chunk.images)
    if done > 20:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(chunk)

decode.decode_chunk = counted
load_dataset(sys.argv[1], image_size=96, cache=sys.argv[2])
"""


@pytest.mark.parametrize("form", ["encoded", "encoded:80"])
def test_a_killed_process_is_gone_on_with(
    photos: Path, cache: Path, form: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    command = [sys.executable, "-c", KILLED, str(photos), form]
    killed = subprocess.run(command, check=False, capture_output=True, timeout=120)
    assert killed.returncode == -9, killed.stderr
    resumed = load(photos, form, progress=True)
    assert "of 41 pictures are decoded already" in capsys.readouterr().out
    monkeypatch.setenv("SKD_EDGE_CACHE", str(cache) + "2")
    whole = load(photos, form)
    for split in ("train_images", "test_images"):
        assert np.array_equal(pixels(getattr(resumed, split)), pixels(getattr(whole, split)))


def test_the_line_before_states_the_bytes_that_are_kept(photos: Path, capsys: Any) -> None:
    size = sum(file.stat().st_size for file in photos.rglob("*.*"))
    load(photos, "encoded", progress=True)
    assert f"photos: 41 pictures; {size / 1e3:,.0f} kB in " in capsys.readouterr().out


@pytest.mark.parametrize("data", ["digits", "cifar10"])
def test_arrays_have_no_bytes_to_keep(data: str) -> None:
    with pytest.raises(UserError, match=f"{data} holds arrays, leave it out"):
        load_dataset(data, cache="encoded")


def test_a_folder_of_arrays_has_none_either(tmp_path: Path) -> None:
    for split in ("train", "test"):
        np.save(tmp_path / f"{split}_images.npy", np.zeros((4, 32, 32, 3), np.uint8))
        np.save(tmp_path / f"{split}_labels.npy", np.array([0, 1, 0, 1]))
    with pytest.raises(UserError, match="holds arrays, leave it out"):
        load(tmp_path, "encoded")


@pytest.mark.parametrize(
    "text",
    ["", "jpeg", "encoded:", "encoded:0", "encoded:101", "encoded:9.5", "arrays:90", "encoded:+9"],
)
def test_unknown_forms_are_refused(text: str, photos: Path) -> None:
    with pytest.raises(ArgumentTypeError, match=r"expected arrays, encoded or encoded:QUALITY"):
        cache_form(text)
    with pytest.raises(UserError, match=r"expected arrays, encoded or encoded:QUALITY"):
        load(photos, text)


def test_known_forms() -> None:
    assert [
        jpeg_quality(cache_form(f)) for f in ("arrays", "encoded", "encoded:1", "encoded:100")
    ] == [
        None,
        None,
        1,
        100,
    ]


# Each process imports this file, and so gets what is patched here.
KILLED_WORKER = """
import multiprocessing, os, sys
import numpy as np
from training.data import encoded_images, load_dataset
from training.data.worker_pool import KilledWorkerError

def dying(*given):
    if multiprocessing.parent_process() is not None and not os.path.exists(sys.argv[2]):
        os._exit(9)
    return real(*given)

real, encoded_images.decode_places = encoded_images.decode_places, dying
encoded_images.usable_cores = lambda: 2
if __name__ == "__main__":
    images = load_dataset(sys.argv[1], image_size=96, cache="encoded", progress=False).train_images
    rows = np.arange(len(images))
    whole = images[rows]  # decoded here, while the processes start
    encoded_images._decoders._ready.result()
    try:
        images[rows]
    except KilledWorkerError as error:
        print(error)
    print(encoded_images._decoders._pool, encoded_images._decoders._memory)
    open(sys.argv[2], "w").close()
    images[rows]
    encoded_images._decoders._ready.result()
    encoded_images.decode_places = None  # from now on the processes decode
    print(np.array_equal(images[rows], whole))
"""


def test_a_killed_process_is_one_clear_line_and_the_next_call_starts_others(
    photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "killed.py").write_text(KILLED_WORKER)
    ended = subprocess.run(
        [sys.executable, tmp_path / "killed.py", photos, tmp_path / "healthy"],
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    told, freed, equal = ended.stdout.splitlines()
    assert "a process that decodes images was killed, perhaps for want of memory (2 ran)" in told
    assert (freed, equal) == ("None None", "True")


def test_the_processes_end_with_a_killed_training(photos: Path) -> None:
    code = (
        "import os, signal, sys, numpy as np;"
        "from training.data import load_dataset, encoded_images;"
        "encoded_images.usable_cores = lambda: 2;"
        "d = load_dataset(sys.argv[1], image_size=96, cache='encoded', progress=False);"
        "d.train_images[np.zeros(64, np.int64)];"
        "encoded_images._decoders._ready.result(); d.train_images[np.zeros(64, np.int64)];"
        "print(*encoded_images._decoders._pool._processes, flush=True);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(photos)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    workers = [int(word) for word in ended.stdout.split()]
    assert len(workers) == 2
    for _ in range(100):
        if not any(Path(f"/proc/{worker}").exists() for worker in workers):
            return
        time.sleep(0.1)
    raise AssertionError("the processes go on")


def test_rows_that_are_kept_are_those_of_the_same_fit(photos: Path) -> None:
    """A file of kept rows that was made with one `fit` is not taken for another one's."""
    rows = np.arange(5)
    for fit in ("crop", "letterbox", "stretch"):
        data = load(photos, "arrays", fit=fit)
        assert np.array_equal(with_rows(data, rows).train_images, data.train_images[rows])
