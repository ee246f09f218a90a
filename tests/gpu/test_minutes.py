"""A run of minutes on a GPU, with a CPU as a stand-in: limits, what travels, and going on."""

import json
import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path
from threading import Thread
from time import sleep

import minutes
import numpy as np
import pytest
from carried import join, pack_files, pack_pictures, split, unpack_files, unpack_pictures

from runtime.base.errors import UserError
from training.studies.evidence_plan import FULL, TINY, pairs_of_runs
from training.studies.pool import run_all

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    """A data folder of noise, which compresses worst, and of plain pictures."""
    folder = tmp_path / "arrays"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for which, count in (("train", 12), ("test", 5)):
        images = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        images[0] = 7
        np.save(folder / f"{which}_images.npy", images)
        np.save(folder / f"{which}_labels.npy", np.arange(count) % 2)
    (folder / "classes.txt").write_text("a\nb\n")
    return folder


def test_pictures_travel_without_loss(arrays: Path, tmp_path: Path) -> None:
    paths = split(pack_pictures(arrays), tmp_path / "parts", "pictures", most_bytes=9000)
    assert len(paths) > 3
    assert all(path.stat().st_size <= 9000 for path in paths)
    unpack_pictures(join([tmp_path / "parts"], "pictures"), tmp_path / "back")
    for file in ("train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy"):
        np.testing.assert_array_equal(np.load(tmp_path / "back" / file), np.load(arrays / file))
    assert (tmp_path / "back" / "classes.txt").read_text() == "a\nb\n"


def test_parts_may_lie_in_several_folders_but_none_may_be_missing_or_damaged(
    tmp_path: Path,
) -> None:
    one, two = tmp_path / "1", tmp_path / "2"
    *_, last = split(bytes(range(250)), one, "x", most_bytes=100)
    two.mkdir()
    last = last.rename(two / last.name)
    assert join([one, two], "x") == bytes(range(250))
    with pytest.raises(UserError, match=r"x\.002 is in none of .*expected all parts"):
        join([one], "x")
    last.write_bytes(b"another 50 bytes of content that nobody has packed")
    with pytest.raises(UserError, match=r"part 2 of x in .* is damaged"):
        join([one, two], "x")


def test_a_second_pack_leaves_no_part_of_the_first(tmp_path: Path) -> None:
    split(bytes(500), tmp_path, "x", most_bytes=100)
    split(b"short", tmp_path, "x", most_bytes=100)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.000", "x.parts.json"]


def test_a_file_from_outside_of_the_folder_is_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "root" / "below").mkdir(parents=True)
    (tmp_path / "outside").write_text("secret")
    content = pack_files(tmp_path / "root", [tmp_path / "root" / ".." / "outside"])
    with pytest.raises(Exception, match="outside"):
        unpack_files(content, tmp_path / "root" / "below")


def test_pairs_are_of_one_student_and_seed_and_the_smaller_student_comes_first() -> None:
    pairs = pairs_of_runs(FULL)
    first = [(run.arch, run.method.name, run.seed, run.recipe.epochs) for run in pairs[0]]
    assert first == [("shufflenetv2", "ce", 0, 200), ("shufflenetv2", "drg", 0, 200)]
    for one, other in pairs:
        assert (one.arch, one.seed, one.study) == (other.arch, other.seed, other.study)
        assert one.method != other.method
    assert {run.recipe.cutmix for pair in pairs for run in pair if run.study == "strong"} == {1.0}
    assert {run.recipe.cutmix for pair in pairs for run in pair if run.study == "main"} == {0.0}
    folders = [run.folder for pair in pairs for run in pair]
    assert len(set(folders)) == len(folders)


def at(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    folder.mkdir(exist_ok=True)
    for name in ("training", "runtime"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    patch.chdir(folder)
    return folder


def stop_trainings_after_an_epoch(folder: Path) -> None:
    """What a machine does that is taken back: SIGTERM to the command that trains."""
    while not any(path.stat().st_size for path in folder.glob("runs/tiny/main/*/journal.jsonl")):
        sleep(0.1)
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended meanwhile
            here = (path.parent / "cwd").resolve() == folder.resolve()
            if here and b"training/evidence.py\0--pairs" in path.read_bytes():
                os.kill(int(path.parent.name), signal.SIGTERM)


@pytest.mark.slow
def test_minutes_leave_a_pair_that_goes_on_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first machine is stopped early; another one has what came back, and goes on."""
    parts = [
        minutes.Part("quick", (sys.executable, "-c", "print('said')"), 1, 60),
        minutes.Part("endless", (sys.executable, "-c", "import time; time.sleep(99)"), 1, 2),
        minutes.Part("costly", (sys.executable, "-c", ""), 10_000, 20_000),
    ]
    monkeypatch.setattr(minutes, "parts", lambda scale, data: parts)
    first = at(tmp_path / "first", monkeypatch)
    machine = Thread(target=stop_trainings_after_an_epoch, args=(first,), daemon=True)
    machine.start()
    assert minutes.main(["run", "--scale", "tiny", "--minutes", "10", "--out", "back"]) == 0
    machine.join()
    record = [json.loads(line) for line in Path("back/minutes.jsonl").read_text().splitlines()]
    states = {line["part"]: line.get("exit_code", "left out") for line in record}
    assert states == {"pairs": 1, "quick": 0, "endless": None, "costly": "left out"}
    back = list(Path("back").iterdir())
    assert len(back) <= 8
    assert all(path.stat().st_size <= 16 * 2**20 for path in back)
    capsys.readouterr()
    assert minutes.main(["plan", "--scale", "tiny"]) == 0
    here = capsys.readouterr().out

    second = at(tmp_path / "second", monkeypatch)
    shutil.copytree(first / "back", second / "back")
    assert minutes.main(["keep", "back"]) == 0
    assert (second / "runs/minutes-logs/quick.log").read_text() == "said\n"
    capsys.readouterr()
    assert minutes.main(["plan", "--scale", "tiny"]) == 0
    assert capsys.readouterr().out == here
    assert "shufflenetv2 seed 0: ce and drg" in here
    begun = [path.parent for path in second.glob("runs/tiny/main/*/journal.jsonl")]
    assert begun
    shutil.rmtree(first)  # nothing of it is needed
    log = second / "runs/tiny/main" / f"{begun[0].name}.log"
    state = (begun[0] / "journal.jsonl").read_bytes()
    pair = next(
        pair for pair in pairs_of_runs(TINY) if begun[0].name in [run.folder.name for run in pair]
    )
    assert run_all(pair, jobs=2, in_step=True).failed == []
    assert all(run.line() is not None for run in pair)
    assert (begun[0] / "journal.jsonl").read_bytes().startswith(state)  # no epoch was done again
    assert "Traceback" not in log.read_text()


def test_a_part_that_is_too_long_is_ended_with_all_that_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    grandchild = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    minutes._do(tmp_path, "long", [sys.executable, "-c", child], 2)
    line = json.loads((tmp_path / "minutes.jsonl").read_text())
    assert line["exit_code"] is None
    sleep(0.2)
    number = int((tmp_path / "pid").read_text())
    stat = Path(f"/proc/{number}/stat")
    assert not stat.exists() or stat.read_text().split()[2] == "Z"


@pytest.mark.parametrize("path", ["nothing", "."])
def test_a_folder_that_pack_did_not_write_is_refused(path: str, tmp_path: Path) -> None:
    folder = tmp_path / path
    folder.mkdir(exist_ok=True)
    with pytest.raises(UserError, match=r"pictures\.parts\.json; carry a folder"):
        minutes.main(["unpack", str(folder), "--to", str(tmp_path / "to")])


def test_what_is_packed_comes_in_folders_that_may_travel(
    arrays: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(minutes, "MOST_THERE", 30_000)
    assert minutes.main(["pack", str(arrays), "--to", ".gpu"]) == 0
    folders = sorted(Path(".gpu").iterdir())
    assert [folder.name for folder in folders] == ["1", "2"]
    assert all(sum(f.stat().st_size for f in folder.iterdir()) < 31_000 for folder in folders)
    capsys.readouterr()
    assert minutes.main(["unpack", ".gpu/1", "--to", "in"]) == 0
    assert "1 parts of the pictures are still to come: pictures.001" in capsys.readouterr().out
    assert minutes.main(["unpack", ".gpu/2", "--to", "in"]) == 0
    before, after = (np.load(f / "test_images.npy") for f in (arrays, Path("in/cifar100")))
    np.testing.assert_array_equal(before, after)
