"""The command `training/run.py`: folders, resuming, signals, mistakes."""

import fcntl
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from runtime.base.errors import UserError
from training import run
from training.data.class_names import classes_line
from training.engine.device import choose_device
from training.engine.interruption import stop_request
from training.records.checkpoint import (
    load_trained,
    read_checkpoint,
    save_checkpoint,
)
from training.records.run_data import load_run_dataset
from training.records.run_folder import exclusive

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_runs_are_numbered_and_latest_is_the_newest(
    here: Path, tiny_options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    name = "tiny-mobilenetv2-drg+dsr-s0"
    assert run.main(tiny_options) == 0
    first = (here / "runs" / name / "checkpoint.pt").read_bytes()
    assert (here / "runs" / "latest").readlink().name == name
    assert f"run   runs/{name}" in capsys.readouterr().out

    assert run.main(tiny_options) == 0
    assert (here / "runs" / "latest").readlink() == Path(f"{name}-2")
    assert (here / "runs" / name / "checkpoint.pt").read_bytes() == first

    assert run.main([*tiny_options, "--out", "elsewhere/run"]) == 0
    assert (here / "elsewhere" / "run" / "result.json").is_file()
    assert (here / "runs" / "latest").readlink() == Path(f"{name}-2")

    capsys.readouterr()
    assert run.main([*tiny_options, "--resume"]) == 0
    assert f"runs/{name}-2 is finished" in capsys.readouterr().out
    assert sorted(path.name for path in (here / "runs").iterdir()) == [
        "latest",
        name,
        f"{name}-2",
    ]


def test_a_run_knows_its_data_but_tells_no_path(
    here: Path, tiny_options: list[str], tiny_folder: Path
) -> None:
    run.main([*tiny_options, "--epochs", "1", "--seed", "3", "--out", "run"])
    trained = load_trained(here / "run")
    plan = trained.plan
    assert (plan.data, plan.seed, plan.class_names[0]) == ("tiny", 3, "dark")
    assert load_run_dataset(trained).train_images.shape == (48, 16, 16, 3)
    assert str(tiny_folder.parent) not in (here / "run" / "result.json").read_text()
    result = json.loads((here / "run" / "result.json").read_text())
    assert result["data"] == "tiny"
    assert result["command"] == (
        "python training/run.py --arch mobilenetv2 --drg --dsr --width 0.25 --data tiny "
        "--recipe tiny.yaml --epochs 1 --seed 3 --device cpu"
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "the following arguments are required: --arch"),
        (["--arch", "mobilenet"], "arch 'mobilenet' is unknown; choose one of mobilenetv2"),
        (["--arch", "mobilenetv2", "--width", "3"], "width 3 is out of range"),
        (["--arch", "mobilenetv2", "--data", "nowhere"], "neither a known data set"),
        (["--arch", "mobilenetv2", "--recipe", "fast"], "recipe 'fast' is unknown"),
        (
            ["--arch", "mobilenetv2", "--epochs", "0"],
            "--epochs: received '0', expected a whole number above 0",
        ),
        (
            ["--arch", "mobilenetv2", "--epochs", "x"],
            "--epochs: received 'x', expected a whole number above 0",
        ),
        (["--arch", "mobilenetv2", "--seed", "-1"], "--seed: received '-1', expected a whole"),
        (
            ["--arch", "mobilenetv2", "--seed", "4294967296"],
            "--seed: received '4294967296', expected a whole number from 0 to 4294967295",
        ),
        (["--arch", "mobilenetv2", "--image-size", "3"], "image size 3 is out of range"),
        (["--arch", "mobilenetv2", "--batch-size", "9999"], "batch size 9999"),
        (["--arch", "mobilenetv2", "--weights", "none.pt"], "--weights none.pt cannot be read"),
        (["--arch", "mobilenetv2", "--out", ""], "--out: received '', expected a value"),
        (["--arch", "mobilenetv2", "--out", "a-file"], "--out a-file is a file"),
        (
            ["--arch", "mobilenetv2", "--data", "none", "--out", "a-file/run"],
            "a-file is a file; expected a folder",  # and is told before the data are looked for
        ),
        *(  # all before the data are looked for
            (["--arch", "shufflenetv2", "--data", "none", *named], words)
            for named, words in (
                (["--weights", "none.pt"], "--weights none.pt cannot be read"),
                (["--weights", "other.pt"], "the weights are not those of shufflenetv2"),
                (["--teacher", "none"], "none does not exist; expected a run folder"),
                (["--teacher", "begun"], "--teacher begun is not finished"),
            )
        ),
        (
            ["--arch", "mobilenetv2", "--width", "0.5", "--data", "none", "--pretrained"],
            "torchvision has mobilenetv2 at width 1.0 only",
        ),
    ],
)
def test_mistakes_are_one_line(here: Path, arguments: list[str], expected: str) -> None:
    (here / "a-file").touch()
    torch.save({"conv": torch.ones(1)}, here / "other.pt")
    (here / "begun").mkdir()
    (here / "begun" / "checkpoint.pt").touch()
    with pytest.raises(UserError, match=re.escape(expected)) as info:
        run.main(arguments)
    assert "\n" not in str(info.value)
    assert not list(here.glob("runs/*/checkpoint.pt"))


def test_a_folder_in_the_place_of_latest_is_refused_before_training(
    here: Path, tiny_options: list[str]
) -> None:
    (here / "runs" / "latest").mkdir(parents=True)
    with pytest.raises(UserError, match="runs/latest is no link to a run"):
        run.main(tiny_options)
    assert [path.name for path in (here / "runs").iterdir()] == ["latest"]


def test_a_file_system_without_links_is_found_before_training(
    here: Path, tiny_options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(UserError, match=r"runs/latest cannot .*\(Operation .*; name .* --out DIR"):
        run.main(tiny_options)
    assert not list(here.iterdir())
    assert run.main([*tiny_options, "--epochs", "1", "--out", "run"]) == 0


def test_the_current_folder_is_a_run_folder_like_any_other(
    here: Path,
    tiny_options: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (here / "mine").mkdir()
    monkeypatch.chdir(here / "mine")
    (here / "mine" / ".precious.tmp").write_text("the user's own")
    options = [*tiny_options, "--epochs", "1", "--out", "."]
    assert run.main(options) == 0
    assert run.main([*options, "--resume"]) == 0
    assert "is finished: nothing to resume" in capsys.readouterr().out
    assert run.main(options) == 0
    assert (here / "mine-2" / "result.json").is_file()
    assert (here / "mine" / ".precious.tmp").exists()


def test_a_data_set_smaller_than_the_recipes_batch(
    here: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--arch", "mobilenetv2", "--width", "0.25", "--epochs", "1", "--out", "run"]
    options += ["--data", str(tiny_folder)]
    for chosen in (["--batch-size", "64"], ["--set", "batch_size=64"]):
        with pytest.raises(UserError, match="batch size 64 does not fit 45 training images"):
            run.main([*options, *chosen])
    assert run.main(options) == 0
    said = "batch size 45: there are 45 training images, fewer than the 64 of the recipe"
    assert said in capsys.readouterr().out
    assert load_trained(here / "run").plan.recipe.batch_size == 45


@pytest.mark.parametrize("crop", ["pad", "none"])
def test_a_crop_that_needs_the_inputs_size_is_refused_before_decoding(
    here: Path, crop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKD_EDGE_CACHE", str(here / "cache"))
    for name in ("cat", "dog"):
        (here / "pets" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (80, 80), (number, 0, 0)).save(here / f"pets/{name}/{number}.png")
    words = ["--arch", "mobilenetv2", "--data", "pets", "--set", f"crop={crop}"]
    with pytest.raises(UserError, match=f"crop '{crop}' needs images of 72 px.* 82 px; use crop"):
        run.main([*words, "--image-size", "72"])
    assert not (here / "runs").exists()
    assert not list((here / "cache").glob("arrays/*"))


def test_the_classes_are_printed_before_training(
    here: Path, tiny_options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main([*tiny_options, "--epochs", "1"]) == 0
    out = capsys.readouterr().out
    assert "\n3 classes: dark, bright, striped\n" in f"\n{out}"
    assert out.index("3 classes") < out.index("epoch 1/1")


@pytest.mark.parametrize(
    ("count", "end"), [(10, "c7, c8, c9"), (11, "c8, c9, ... and 1 more"), (100, "and 90 more")]
)
def test_of_many_classes_the_first_ones_are_printed(count: int, end: str) -> None:
    line = classes_line([f"c{number}" for number in range(count)])
    assert line.startswith(f"{count} classes: c0, c1, c2, ")
    assert line.endswith(end)
    assert "c10" not in line


def test_a_class_name_never_breaks_the_line() -> None:
    assert classes_line(["new\nline", "caf\u00e9"]) == "2 classes: new\\nline, caf\u00e9"


def test_a_run_calibrates_with_the_users_validation_images(
    here: Path, tiny_options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    colours = {"dark": 20, "light": 230}
    counts = {"train": 12, "val": 5, "test": 3}
    for split, count in counts.items():
        for name, colour in colours.items():
            folder = here / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (20, 20), (colour, 10 * number, 0)).save(folder / f"{number}.png")
    monkeypatch.setenv("SKD_EDGE_CACHE", str(here / "cache"))
    options = [*tiny_options, "--data", "data", "--image-size", "16", "--epochs", "1"]
    assert run.main([*options, "--out", "run"]) == 0
    result = json.loads((here / "run" / "result.json").read_text())
    assert [result[f"{split}_images"] for split in ("train", "validation", "test")] == [24, 10, 6]
    trained = load_trained(here / "run")
    assert load_run_dataset(trained).validation_images == 10
    assert run.main([*options, "--out", "run", "--resume"]) == 0
    with pytest.raises(UserError, match="classes: folders, now leaves"):
        run.main([*options, "--out", "run", "--resume", "--classes", "leaves"])


def test_a_checkpoint_that_may_not_be_read_is_not_called_broken(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    (here / "checkpoint.pt").touch()
    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(UserError, match="cannot be read: Permission denied; change its perm"):
        read_checkpoint(here / "checkpoint.pt")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(here: Path) -> None:
    with pytest.raises(UserError, match="finds no CUDA device here; use --device cpu"):
        run.main(["--arch", "mobilenetv2", "--device", "cuda"])


def test_more_processes_than_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_arch_list", list)
    assert choose_device("auto", local_rank=1) == torch.device("cuda", 1)
    with pytest.raises(UserError, match="there are 2; start fewer with --nproc-per-node"):
        choose_device("auto", local_rank=2)


def test_a_mistake_exits_with_2_and_no_traceback(here: Path) -> None:
    finished = subprocess.run(
        [sys.executable, ROOT / "training" / "run.py", "--arch", "vgg"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr.count("\n") == 1
    assert finished.stderr.startswith("error: arch 'vgg' is unknown")


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_a_result_without_its_checkpoint_is_not_that_of_the_next_run(
    here: Path,
    tiny_options: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    resume: list[str],
) -> None:
    options = [*tiny_options, "--epochs", "1", "--out", "run"]
    (here / "run").mkdir()
    (here / "run" / "result.json").write_text("{}")
    with monkeypatch.context() as patch:
        patch.setattr("training.train.finish_run", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            run.main([*options, *resume])
    assert read_checkpoint(here / "run" / "checkpoint.pt").epoch == 1
    assert not (here / "run" / "result.json").exists()
    assert run.main([*options, "--resume"]) == 0
    assert "nothing to resume" not in capsys.readouterr().out
    assert json.loads((here / "run" / "result.json").read_text())["epochs"] == 1


def _interrupt(*_arguments: object, **_others: object) -> None:
    raise KeyboardInterrupt


def test_another_run_is_not_resumed(here: Path, tiny_options: list[str]) -> None:
    run.main([*tiny_options, "--out", "run"])
    with pytest.raises(UserError, match=r"run holds another run \(recipe epochs: 2, now 3\)"):
        run.main([*tiny_options, "--out", "run", "--resume", "--epochs", "3"])
    with pytest.raises(UserError, match=r"terms: drg\+dsr, now dsr; recipe batch_size: 8, now 4"):
        run.main([*tiny_options, "--out", "run", "--resume", "--no-drg", "--batch-size", "4"])


def test_a_run_does_not_go_on_with_images_that_were_added(
    here: Path, tiny_options: list[str], tiny_folder: Path
) -> None:
    """Its epochs would be others, and what it holds out would have been trained on."""
    data = here / tiny_folder.name
    shutil.copytree(tiny_folder, data)
    options = [*tiny_options, "--data", str(data), "--epochs", "1", "--out", "run"]
    run.main(options)
    for name in ("train_images", "train_labels"):
        np.save(data / f"{name}.npy", np.repeat(np.load(data / f"{name}.npy"), 2, axis=0))
    with pytest.raises(UserError, match="train_images: 48, now 96"):
        run.main([*options, "--resume"])


def test_a_run_does_not_go_on_with_data_of_the_same_name(
    here: Path, tiny_folder: Path, tiny_recipe_file: Path
) -> None:
    """`fold1/data` and `fold2/data`: as many images of the same classes, and still others."""
    other = shutil.copytree(tiny_folder, here / "fold2" / tiny_folder.name)
    labels = np.load(other / "train_labels.npy")
    np.save(other / "train_labels.npy", np.roll(labels, 1))
    options = ["--arch", "mobilenetv2", "--width", "0.25", "--recipe", str(tiny_recipe_file)]
    assert run.main([*options, "--data", str(tiny_folder), "--out", "run"]) == 0
    moved = shutil.copytree(tiny_folder, here / "moved" / tiny_folder.name)
    assert run.main([*options, "--data", str(moved), "--out", "run", "--resume"]) == 0
    with pytest.raises(UserError, match="data: tiny now has other images or labels"):
        run.main([*options, "--data", str(other), "--out", "run", "--resume"])


def test_a_truncated_checkpoint_is_not_resumed(here: Path, tiny_options: list[str]) -> None:
    run.main([*tiny_options, "--epochs", "1", "--out", "run"])
    path = here / "run" / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match="cannot be read: truncated"):
        run.main([*tiny_options, "--epochs", "1", "--out", "run", "--resume"])


def test_two_processes_do_not_train_in_one_folder(here: Path, tiny_options: list[str]) -> None:
    name = "tiny-mobilenetv2-drg+dsr-s0"
    with exclusive(here / "runs" / name):
        run.main([*tiny_options, "--epochs", "1"])
        assert (here / "runs" / "latest").readlink() == Path(f"{name}-2")
        with exclusive(here / "run"), pytest.raises(UserError, match="another process is training"):
            run.main([*tiny_options, "--out", "run", "--resume"])


def test_a_process_that_only_looks_for_a_folder_keeps_nobody_from_it(here: Path) -> None:
    """`choose_folder` of a process that starts at the same time."""
    with exclusive(here / "run"):
        pass
    with (here / "run" / ".lock").open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        done = threading.Timer(0.2, fcntl.flock, (looking, fcntl.LOCK_UN))
        done.start()
        try:
            with exclusive(here / "run"):
                pass
        finally:
            done.join()


def test_a_run_that_goes_on_elsewhere_says_so(
    here: Path, tiny_options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Another number of threads sums in another order, which changes the last bits."""
    options = [*tiny_options, "--out", "run", "--resume"]
    run.main(options)
    finished = read_checkpoint(here / "run" / "checkpoint.pt")
    assert finished.device.endswith(" 1 threads")
    note = "begun on EPYC, 2 threads: the result will not be bit for bit"
    # A checkpoint of an older version does not say where it was made.
    for device, noted in (("EPYC, 2 threads", True), (finished.device, False), ("", False)):
        save_checkpoint(here / "run" / "checkpoint.pt", replace(finished, device=device))
        (here / "run" / "result.json").unlink()
        capsys.readouterr()
        run.main(options)
        printed = capsys.readouterr().out
        assert "resumed after 2 epochs" in printed
        assert (note in printed, "begun on" in printed) == (noted, noted)


def test_weights_of_another_run_begin_a_new_one(
    here: Path, tiny_options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run.main([*tiny_options, "--out", "first"])
    weights = str(here / "first" / "checkpoint.pt")
    digits = ["--arch", "mobilenetv2", "--width", "0.25", "--image-size", "16", "--epochs", "1"]
    run.main([*digits, "--weights", weights, "--out", "second", "--batch-size", "256"])
    assert "classifier is for 3 classes: it was left out" in capsys.readouterr().out
    assert json.loads((here / "second" / "result.json").read_text())["weights"].startswith("sha256")
    with pytest.raises(UserError, match="the weights are not those of shufflenetv2"):
        run.main(["--arch", "shufflenetv2", "--weights", weights, "--out", "third"])


def test_a_full_disk_and_a_folder_that_cannot_be_written(
    here: Path, tiny_options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(OSError, match="No space left on device"):
        run.main([*tiny_options, "--out", "run"])
    assert not list((here / "run").glob("*.tmp"))


def started(options: list[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, ROOT / "training" / "run.py", *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_leaves_a_checkpoint(
    here: Path, tiny_options: list[str], number: signal.Signals
) -> None:
    options = [*tiny_options, "--epochs", "200"]
    process = started(options, here)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch "):
            break
    process.send_signal(number)
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert errors.startswith("error: interrupted in epoch ")
    assert errors.endswith("goes on with --resume\n")
    assert errors.count("\n") == 1
    left = read_checkpoint(here / "runs" / "latest" / "checkpoint.pt")
    assert 1 <= left.epoch < 200
    assert not left.finished


@pytest.mark.slow
def test_a_lost_terminal_leaves_a_checkpoint(here: Path, tiny_options: list[str]) -> None:
    """What is printed after that is refused, and SIGHUP comes twice: from shell and system."""
    terminal, ours = os.openpty()
    command = [sys.executable, ROOT / "training" / "run.py", *tiny_options, "--epochs", "200"]
    with subprocess.Popen(command, cwd=here, stdin=ours, stdout=ours, stderr=ours) as process:
        os.close(ours)
        printed = b""
        while b"\nepoch " not in printed:
            printed += os.read(terminal, 4096)
        process.send_signal(signal.SIGSTOP)
        os.close(terminal)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGCONT)
        time.sleep(0.01)
        process.send_signal(signal.SIGHUP)
        assert process.wait(timeout=SECONDS) in (
            1,
            -signal.SIGHUP,
        )  # the second may come at the end
    left = read_checkpoint(here / "runs" / "latest" / "checkpoint.pt")
    assert 1 <= left.epoch < 200
    assert left.step > 0


@pytest.fixture
def hang_up_is_ignored() -> Iterator[None]:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGHUP, former)


@pytest.mark.usefixtures("hang_up_is_ignored")
def test_what_was_started_with_nohup_goes_on() -> None:
    with stop_request() as stop:
        signal.raise_signal(signal.SIGHUP)
    assert not stop.requested


def test_only_a_second_signal_of_somebody_acts_at_once() -> None:
    with stop_request() as stop:
        for _ in range(2):
            signal.raise_signal(signal.SIGHUP)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


@pytest.fixture
def fork_server(monkeypatch: pytest.MonkeyPatch) -> multiprocessing.context.ForkServerContext:
    """Processes that start with torch already imported: each kill costs no seconds of imports."""
    # Two threads on networks this small mostly wait for each other, far longer on a busy machine.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training.train", "tensorboard.summary", "matplotlib.figure"])
    return context


@pytest.mark.slow
def test_killed_twenty_times_it_ends_bit_equal(
    here: Path,
    tiny_options: list[str],
    fork_server: multiprocessing.context.ForkServerContext,
    assert_equal_trees: Callable[[object, object], None],
) -> None:
    """SIGKILL at random moments, also while it writes; then the same checkpoint as undisturbed."""
    options = [*tiny_options, "--epochs", "60"]
    chance = random.Random(0)
    kills = 0
    checkpoint = here / "killed" / "checkpoint.pt"

    def resume() -> BaseProcess:
        process = fork_server.Process(
            target=run.main, args=([*options, "--out", str(here / "killed"), "--resume"],)
        )
        process.start()
        return process

    while kills < 22:
        process = resume()
        _wait_for_checkpoints(process, checkpoint, chance.randint(1, 3))
        time.sleep(chance.uniform(0, 0.15))
        if process.exitcode is not None:
            break
        process.kill()
        process.join()
        kills += 1
    process = resume()
    process.join(timeout=300)
    assert process.exitcode == 0
    assert kills >= 20

    # In a process of the same kind: bit-equality holds for one number of threads.
    whole = fork_server.Process(
        target=run.main, args=([*options, "--out", str(here / "undisturbed")],)
    )
    whole.start()
    whole.join(timeout=300)
    undisturbed = torch.load(here / "undisturbed" / "checkpoint.pt", weights_only=True)
    assert_equal_trees(torch.load(checkpoint, weights_only=True), undisturbed)
    assert [path.name for path in checkpoint.parent.glob(".*")] == [".lock"]


def _wait_for_checkpoints(process: BaseProcess, checkpoint: Path, count: int) -> None:
    deadline = time.monotonic() + SECONDS
    seen = _identity(checkpoint)
    while count and process.exitcode is None and time.monotonic() < deadline:
        if (now := _identity(checkpoint)) != seen:
            seen, count = now, count - 1
        time.sleep(0.001)


def _identity(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0
