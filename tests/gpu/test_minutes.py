"""A run of minutes on a GPU, with a CPU as a stand-in: limits, what travels, and going on."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Thread
from time import sleep

import minutes
import numpy as np
import pytest
from gpu_parts import Part

from runtime.base.errors import UserError
from training.studies.evidence_plan import FULL, TINY, pairs_of_runs
from training.studies.pool import GRACE_SECONDS, run_all

ROOT = Path(__file__).resolve().parents[2]


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
        Part("quick", (sys.executable, "-c", "print('said')"), 1, 60),
        Part("endless", (sys.executable, "-c", "import time; time.sleep(99)"), 1, 2),
        Part("costly", (sys.executable, "-c", ""), 10_000, 20_000),
    ]
    monkeypatch.setattr(minutes, "parts", lambda scale, data_root: parts)
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


@pytest.mark.parametrize(
    ("many", "others", "most"),
    [(9.0, 3.0, 600), (9.0, 0.5, 600), (4.0, 1.0, 600), (9.0, 3.0, 60)],
)
def test_trainings_get_their_time_to_end_before_they_are_killed(
    many: float, others: float, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    part = Part("x", ("x",), 10_000, most)
    monkeypatch.setattr(minutes, "parts", lambda scale, data_root: [part])
    found: list[tuple[float, float]] = []

    def note_limits(command: tuple[str, ...], log: Path, *, seconds: float) -> int:
        found.append((60 * float(command[command.index("--minutes") + 1]), seconds))
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
        return 0

    monkeypatch.setattr(minutes, "run_limited", note_limits)
    words = ["run", "--scale", "tiny", "--out", "out", "--others", str(others)]
    assert minutes.main([*words, "--minutes", str(many)]) == 0
    ((trained, killed),) = found
    assert trained > 0
    assert killed >= trained + GRACE_SECONDS
    assert killed <= 60 * many
    apart = min(60 * others, most)  # no more than the other parts may take
    assert trained <= 60 * many - apart
    assert most > 60 or trained > 60 * (many - others)


def test_one_part_alone_is_done_again_and_an_unknown_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = [Part(name, (sys.executable, "-c", "pass"), 1, 60) for name in ("one", "other")]
    monkeypatch.setattr(minutes, "parts", lambda scale, data_root: said)
    for _ in range(2):
        assert minutes.main(["run", "--scale", "tiny", "--parts", "other", "--out", "out"]) == 0
    record = [json.loads(line) for line in Path("out/minutes.jsonl").read_text().splitlines()]
    assert [line["part"] for line in record] == ["other", "other"]
    with pytest.raises(UserError, match=r"no part 'both'; expected some of pairs,one,other"):
        minutes.main(["run", "--scale", "tiny", "--parts", "one,both", "--out", "out"])


def test_what_was_done_on_one_machine_is_not_done_on_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = (sys.executable, "-c", "import time; time.sleep(60)")
    parts = [Part("endless", slow, 0, 1), Part("quick", (sys.executable, "-c", "pass"), 0, 60)]
    monkeypatch.setattr(minutes, "parts", lambda scale, data_root: parts)
    # So short that no pair begins.
    words = ["run", "--scale", "tiny", "--minutes", "0.5", "--others", "0.5", "--out", "back"]
    began = []
    for number in range(2):
        at(tmp_path / f"machine {number}", monkeypatch)
        if number:
            assert minutes.main(["unpack", str(tmp_path / "home/.gpu/runs-1"), "--to", "in"]) == 0
        assert minutes.main(words) == 0
        record = [json.loads(line) for line in Path("back/minutes.jsonl").read_text().splitlines()]
        began.append([line["part"] for line in record if "exit_code" in line])
        at(tmp_path / "home", monkeypatch)
        assert minutes.main(["keep", str(tmp_path / f"machine {number}/back")]) == 0
        assert minutes.main(["pack", "--scale", "tiny", "--to", ".gpu"]) == 0
    assert began == [["endless", "quick"], ["endless"]]


@pytest.mark.parametrize("path", ["nothing", "."])
def test_a_folder_that_pack_did_not_write_is_refused(path: str, tmp_path: Path) -> None:
    folder = tmp_path / path
    folder.mkdir(exist_ok=True)
    with pytest.raises(UserError, match=r"pictures\.parts\.json; carry a folder"):
        minutes.main(["unpack", str(folder), "--to", str(tmp_path / "to")])


def test_a_folder_that_no_run_wrote_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder; name the one that `run` wrote"):
        minutes.main(["keep", str(tmp_path / "nothing")])


def test_a_folder_of_parts_and_all_files_of_the_tree_travel_together() -> None:
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
    ).stdout.split(b"\0")
    tree = sum((ROOT / os.fsdecode(name)).lstat().st_size for name in names if name)
    assert tree > 10**6
    assert minutes.MOST_THERE + tree < 64 * 2**20
    ignored = subprocess.run(["git", "check-ignore", "-q", ".gpu/1/pictures.000"], cwd=ROOT)
    assert ignored.returncode == 0


def test_what_may_come_back_fits_eight_files_and_64_mib() -> None:
    parts_of_runs = -(-minutes.MOST_RUNS_BACK // minutes.MOST_OF_PART)
    others = 4  # the record, both manifests, and the logs
    assert parts_of_runs + others <= 8
    assert minutes.MOST_OF_PART <= 16 * 2**20
    small = 2**20  # the record and the manifests
    assert minutes.MOST_RUNS_BACK + minutes.MOST_REPORTS + small < 64 * 2**20


@pytest.mark.parametrize(
    ("verb", "sizes"),
    [("pack", f"at most {minutes.MOST_THERE // 10**6} MB"), ("run", "60 MiB, logs of 2 MiB")],
)
def test_the_help_says_how_large_parts_are(
    verb: str, sizes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        minutes.main([verb, "--help"])
    assert sizes in " ".join(capsys.readouterr().out.split())


def test_a_long_log_comes_back_by_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(minutes, "MOST_REPORTS", 200)
    minutes.LOGS.mkdir(parents=True)
    (minutes.LOGS / "long.log").write_bytes(b"x" * 1000 + b"y" * 100)
    (minutes.LOGS / "short.log").write_bytes(b"all")
    minutes._give_reports_back(tmp_path / "back", TINY)
    shutil.rmtree(minutes.LOGS)
    minutes.main(["keep", "back"])
    long = (minutes.LOGS / "long.log").read_bytes()
    assert long == b"(1000 bytes before this do not travel)\n" + b"y" * 100
    assert (minutes.LOGS / "short.log").read_bytes() == b"all"


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
    before, after = (np.load(f / "test_images.npy") for f in (arrays, Path("in/cifar100-arrays")))
    np.testing.assert_array_equal(before, after)

    # Runs that come later do not make the pictures anew.
    run = pairs_of_runs(FULL)[0][0]
    run.folder.mkdir(parents=True)
    checkpoint = run.folder / "checkpoint.pt"
    for size, count in ((40_000, 2), (10_000, 1)):
        checkpoint.write_bytes(content := os.urandom(size))
        assert minutes.main(["pack", "--to", ".gpu"]) == 0
        checkpoint.unlink()
        folders = sorted(map(str, Path(".gpu").glob("runs-*")))
        assert len(folders) == count
        capsys.readouterr()
        # Of the first content both parts came, of the second one its only one.
        assert minutes.main(["unpack", *folders, "--to", "in"]) == 0
        assert capsys.readouterr().out == "begun runs in runs/\n"
        assert checkpoint.read_bytes() == content
    assert not list(Path("in/parts").glob("runs.001"))


def test_parts_of_an_earlier_content_do_not_stand_for_those_that_are_still_to_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second part of the new runs came, the first one is still that of the runs before."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(minutes, "MOST_THERE", 30_000)
    run = pairs_of_runs(FULL)[0][0]
    run.folder.mkdir(parents=True)
    checkpoint = run.folder / "checkpoint.pt"
    for folders in (["runs-1", "runs-2"], ["runs-2"]):
        checkpoint.write_bytes(os.urandom(40_000))
        assert minutes.main(["pack", "--to", ".gpu"]) == 0
        capsys.readouterr()
        paths = [f".gpu/{folder}" for folder in folders]
        assert minutes.main(["unpack", *paths, "--to", "in"]) == 0
    assert "1 parts of the runs are still to come: runs.000" in capsys.readouterr().out
    content = checkpoint.read_bytes()
    checkpoint.unlink()
    assert minutes.main(["unpack", ".gpu/runs-1", "--to", "in"]) == 0
    assert checkpoint.read_bytes() == content
