"""Training over two hosts: network namespaces, joined by a cable that a test can cut."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data import Dataset
from training.engine.heartbeat import VARIABLE
from training.records.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow

RUN = Path(__file__).resolve().parents[3] / "training" / "run.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node"]
SECONDS = 180
ENDLESS = ("--epochs", "5000")
NIGHTLY = pytest.mark.skipif(
    "SKD_EDGE_NIGHTLY" not in os.environ, reason="waits a minute: `make nightly`"
)


@dataclass(frozen=True)
class Host:
    """A network namespace with one end of the cable."""

    name: str
    device: str
    rank: int
    main_address: str

    def start(self, folder: Path, *options: str, first: str = "", **more: str) -> subprocess.Popen:
        """One process of a training, started in `folder`; `first` runs before it as root."""
        torchrun = [
            *(*TORCHRUN, "1", "--nnodes", "2", "--node-rank", str(self.rank)),
            *("--master-addr", self.main_address, "--master-port", "29500"),
            *("--log-dir", f"logs-{self.rank}", "--redirects", "3", str(RUN), *options),
        ]
        shell = f'{first or "true"} && exec "$@"'
        return subprocess.Popen(
            ["ip", "netns", "exec", self.name, "sh", "-c", shell, "sh", *torchrun],
            cwd=folder,
            env=environment(GLOO_SOCKET_IFNAME=self.device, **more),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def log(self, folder: Path, name: str = "stderr") -> list[str]:
        """The lines that the process itself wrote."""
        (file,) = folder.glob(f"logs-{self.rank}/*/attempt_0/0/{name}.log")
        return file.read_text().splitlines()


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    if shutil.which("ip") is None:
        pytest.skip("two hosts need iproute2 (`ip netns`), which is not installed")
    names = [f"skd-{os.getpid()}-{rank}" for rank in (0, 1)]
    try:
        ip("netns", "add", names[0])
    except subprocess.CalledProcessError as error:
        pytest.skip(f"two hosts need network namespaces, not allowed here: {error.stderr.strip()}")
    try:
        ip("netns", "add", names[1])
        ends = ("skd0", "skd1")
        ip("link", "add", ends[0], "netns", names[0], "type", "veth", "peer", "name", ends[1],
           "netns", names[1])  # fmt: skip
        for rank, (name, end) in enumerate(zip(names, ends, strict=True)):
            ip("-n", name, "addr", "add", f"10.77.0.{rank + 1}/24", "dev", end)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", end, "up")
        main = "10.77.0.1"
        yield Host(names[0], ends[0], 0, main), Host(names[1], ends[1], 1, main)
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def codes(*processes: subprocess.Popen) -> list[int]:
    try:
        return [process.wait(timeout=SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="session")
def tiny_pictures(tiny_data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny data as files in folders of classes, which are decoded into the cache."""
    folder = tmp_path_factory.mktemp("pictures")
    for split in ("train", "test"):
        images, labels = (getattr(tiny_data, f"{split}_{what}") for what in ("images", "labels"))
        for row, label in enumerate(labels):
            file = folder / split / tiny_data.class_names[label] / f"{row}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(images[row])).save(file)
    return folder


def test_two_hosts_give_what_two_processes_on_one_give_and_one_writes_the_cache(
    hosts: tuple[Host, Host],
    tiny_options: list[str],
    tiny_pictures: Path,
    tmp_path: Path,
    assert_equal_trees: Callable[[object, object], None],
) -> None:
    options = [*tiny_options, "--data", str(tiny_pictures), "--image-size", "32"]
    cache = tmp_path / "cache"
    cache.mkdir()
    read_only = f"mount --bind {cache} {cache} && mount -o remount,ro,bind {cache}"
    first, second = hosts
    apart = [
        first.start(tmp_path, *options, "--out", "apart", SKD_EDGE_CACHE=str(cache)),
        second.start(
            tmp_path, *options, "--out", "apart", first=read_only, SKD_EDGE_CACHE=str(cache)
        ),
    ]
    together = subprocess.Popen(
        [*TORCHRUN, "2", "--standalone", str(RUN), *options, "--out", "together"],
        cwd=tmp_path,
        env=environment(SKD_EDGE_CACHE=str(tmp_path / "other-cache")),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert codes(*apart, together) == [0, 0, 0]
    assert len(list((cache / "arrays").glob("*/entry.json"))) == 1
    runs = [read_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("apart", "together")]
    assert runs[0].plan.processes == 2
    for part in ("student", "auxiliary", "training", "terms"):
        assert_equal_trees(getattr(runs[0], part), getattr(runs[1], part))


def test_data_that_one_host_cannot_read_are_refused_by_all(
    hosts: tuple[Host, Host], tiny_options: list[str], tiny_folder: Path, tmp_path: Path
) -> None:
    first, second = hosts
    hidden = f"mount -t tmpfs none {tiny_folder}"
    started = [
        first.start(tmp_path, *tiny_options, "--out", "run"),
        second.start(tmp_path, *tiny_options, "--out", "run", first=hidden),
    ]
    assert 0 not in codes(*started)
    lines = [host.log(tmp_path)[-1] for host in hosts]
    assert lines[0] == lines[1]
    assert lines[0].startswith("error: process 1 on ")
    assert str(tiny_folder) in lines[0]
    assert lines[0].endswith("all hosts of a run need the same files at the same paths")
    assert not (tmp_path / "run").exists()


@pytest.mark.alone  # three seconds of silence have to be the cable's
@pytest.mark.parametrize(
    ("heartbeat", "within"), [("3", 20.0), pytest.param("", 60.0, marks=NIGHTLY)]
)
def test_a_cut_cable_ends_both_with_a_line_and_fewer_processes_go_on(
    hosts: tuple[Host, Host],
    tiny_options: list[str],
    tmp_path: Path,
    heartbeat: str,
    within: float,
) -> None:
    options = [*tiny_options, *ENDLESS, "--out", "run"]
    more = {VARIABLE: heartbeat} if heartbeat else {}
    started = [host.start(tmp_path, *options, **more) for host in hosts]
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    wait_for(checkpoint.exists, started[0])
    ip("-n", hosts[1].name, "link", "set", hosts[1].device, "down")
    cut = time.monotonic()
    assert 0 not in codes(*started)
    assert time.monotonic() - cut < within
    for host, other in zip(hosts, (1, 0), strict=True):
        last = host.log(tmp_path)[-1]
        assert last.startswith(f"error: nothing was heard from process {other} on ")
        assert "the link to it is down" in last
        assert "--resume" in last
    said = interrupted_lines([sys.executable, str(RUN), *options, "--resume"], tmp_path)
    moved = [line for line in said if "shared out anew" in line]
    assert len(moved) == 1
    assert "2 processes of 8 images a step and goes on with 1 process of 16 images" in moved[0]
    plan = read_checkpoint(checkpoint).plan
    assert (plan.processes, plan.recipe.batch_size, plan.begun_with) == (1, 16, (2, 8))


def interrupted_lines(command: list[str], folder: Path) -> list[str]:
    """What a training says until it is interrupted after its first epoch."""
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("epoch "):
                process.send_signal(signal.SIGINT)
                break
        process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    return said


def wait_for(there: Callable[[], bool], process: subprocess.Popen) -> None:
    end = time.monotonic() + SECONDS
    while not there():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
