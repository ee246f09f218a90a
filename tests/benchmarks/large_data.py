"""Data of the size of ImageNet in small: `python tests/benchmarks/large_data.py DIR`.

It writes generated pictures in WebDataset shards to DIR, 2,000 and 200,000 of them, reads both into
a cache there in each form, and prints one JSON object for each. It fails where the larger set
trains slower, where a process and its workers hold more than 1 GB of anonymous memory, or where a
second run needs more than two seconds from its imports to its first batch.
"""

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_SHARD_PICTURES = 1000
_CLASSES = 100
_WIDTH, _HEIGHT = 96, 72
_IMAGE_SIZE = 64
_BATCH = 64
_FEW = 2000
_TURNS, _TURN_BATCHES = 5, 6
_MOST_BYTES = 1e9
_MOST_SECONDS = 2.0
_LEAST_SHARE = 0.8  # of the rate of few pictures: the machine may have other work


def main() -> None:
    options = _parse()
    if options.step:
        print(
            json.dumps({"first": _first, "second": _second, "rate": _rate}[options.step](options))
        )
        return
    root: Path = options.folder
    for count in (_FEW, options.pictures):
        write_shards(root / str(count), count)
    failures = []
    try:
        for form in options.forms.split(","):
            counts = (_FEW, options.pictures)
            facts = [_measured(root, count, form, check=options.check) for count in counts]
            rates = _called("rate", root, options.pictures, form)
            for found, rate in zip(facts, rates["images_per_second"], strict=True):
                print(json.dumps({**found, "images_per_second": rate}), flush=True)
            failures += _failures(form, facts, rates["share"])
    finally:
        if options.remove:
            shutil.rmtree(root)
    if failures:
        sys.exit("\n".join(failures))


def _measured(root: Path, count: int, form: str, *, check: bool) -> dict[str, Any]:
    facts = {"pictures": count, "cache": form}
    for step in ("first", "second"):
        facts |= _called(step, root, count, form, check=check)
    return facts


def _failures(form: str, facts: list[dict[str, Any]], share: float) -> Iterator[str]:
    if share < _LEAST_SHARE:
        yield f"{form}: many pictures train at {share:.2f} of the rate of few"
    for found in facts:
        if found["anonymous_bytes"] > _MOST_BYTES:
            yield f"{form}: {found['anonymous_bytes'] / 1e9:.2f} GB of anonymous memory"
        if found["second_start_seconds"] > _MOST_SECONDS:
            yield f"{form}: {found['second_start_seconds']:.1f} s until the first batch"


def _called(step: str, root: Path, count: int, form: str, *, check: bool = False) -> dict[str, Any]:
    command = [sys.executable, __file__, str(root), "--pictures", str(count)]
    command += ["--check" if check else "--no-check"]
    environment = {**os.environ, "SKD_EDGE_CACHE": str(root / "cache")}
    ended = subprocess.run(
        [*command, "--forms", form, "--step", step],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    facts: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return facts


def _first(options: argparse.Namespace) -> dict[str, Any]:
    """The first start: pictures are listed, decoded, stored, checked and batched."""
    from training.data import load_dataset
    from training.data.data_check import checked_data

    data = str(options.folder / str(options.pictures))
    with _Memory() as memory:
        start = time.perf_counter()
        dataset = load_dataset(data, image_size=_IMAGE_SIZE, cache=options.forms)
        stored = time.perf_counter()
        if options.check:
            checked_data(dataset, data, drop="none", allow=True)
        checked = time.perf_counter()
    cache = Path(os.environ["SKD_EDGE_CACHE"], options.forms.partition(":")[0])
    (entry,) = cache.glob(f"{options.pictures}-{_IMAGE_SIZE}-*")
    return {
        "stored_per_second": options.pictures / (stored - start),
        "stored_bytes": sum(file.stat().st_size for file in entry.iterdir()),
        "check_seconds": checked - stored,
        "anonymous_bytes": memory.most,
    }


def _second(options: argparse.Namespace) -> dict[str, Any]:
    """The second start, as `training/run.py` makes it: from its imports to the first batch."""
    import torch

    from training.data import load_dataset
    from training.data.batches import Batches
    from training.data.data_check import checked_data
    from training.data.splits import held_out

    start = time.perf_counter()
    data = str(options.folder / str(options.pictures))
    dataset = load_dataset(data, image_size=_IMAGE_SIZE, cache=options.forms)
    if options.check:
        dataset = checked_data(dataset, data, drop="none", allow=True).dataset
    rows, _ = held_out(dataset, 0.1)
    dataset.content_digest()
    batches = Batches(
        dataset.train_images,
        dataset.train_labels,
        batch_size=_BATCH,
        device=torch.device("cpu"),
        seed=0,
        subset=rows,
    )
    next(batches.epoch(0))
    return {"second_start_seconds": time.perf_counter() - start}


def _rate(options: argparse.Namespace) -> dict[str, Any]:
    """How fast few and many pictures are trained on, in turns, so that both meet the same load."""
    training = [_Training(options, count) for count in (_FEW, options.pictures)]
    for one in training:
        one.turn()
    rates = [[one.turn() for one in training] for _ in range(_TURNS)]
    return {
        "images_per_second": [statistics.median(column) for column in zip(*rates, strict=True)],
        "share": statistics.median(many / few for few, many in rates),
    }


class _Training:
    """A training on some of the pictures, which goes on for a few batches at each turn."""

    def __init__(self, options: argparse.Namespace, count: int) -> None:
        import torch

        from training.config.plan import Plan
        from training.config.recipe import load_recipe
        from training.data import load_dataset
        from training.data.batches import Batches
        from training.engine.build import build_learner

        device = torch.device("cpu")
        data = str(options.folder / str(count))
        dataset = load_dataset(data, image_size=_IMAGE_SIZE, cache=options.forms)
        plan = Plan(
            arch="shufflenetv2",
            width=0.5,
            methods=("ce",),
            data=dataset.name,
            data_argument=data,
            data_root=None,
            class_names=dataset.class_names,
            input=dataset.input,
            seed=0,
            weights="random",
            recipe=load_recipe("folder", {"batch_size": _BATCH}),
        )
        images, labels = dataset.train_images, dataset.train_labels
        self._batches = Batches(images, labels, batch_size=_BATCH, device=device, seed=0)
        steps = 2 * _TURNS * _TURN_BATCHES
        self._learner = build_learner(plan, dataset, steps_per_epoch=steps, device=device)
        self._epoch = 0

    def turn(self) -> float:
        """Trains on some batches, and returns the images a second."""
        self._epoch += 1
        coming = self._batches.epoch(self._epoch)
        next(coming)  # the first one has waited for processes to start on it
        start = time.perf_counter()
        for _ in range(_TURN_BATCHES):
            self._learner.step(next(coming), learning_rate=0.01, scale=1.0)
        seconds = time.perf_counter() - start
        coming.close()
        return _TURN_BATCHES * _BATCH / seconds


class _Memory:
    """Watches the anonymous memory of this process and of those that it has started."""

    def __init__(self) -> None:
        self.most = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "_Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            own = sum(_anonymous(process) for process in ("self", *children))
            self.most = max(self.most, own)


def _anonymous(process: str) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def write_shards(folder: Path, pictures: int) -> None:
    """Writes shards of 1,000 pictures, each of them another one, of 100 classes."""
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        shards = range(-(-pictures // _SHARD_PICTURES))
        for _ in pool.map(_write_shard, [folder] * len(shards), shards, [pictures] * len(shards)):
            pass


def _write_shard(folder: Path, shard: int, pictures: int) -> None:
    first = shard * _SHARD_PICTURES
    file = folder / f"pictures-{shard:06}.tar"
    if file.exists():  # of an earlier call
        return
    with tarfile.open(file.with_suffix(".part"), "w") as archive:
        for number in range(first, min(first + _SHARD_PICTURES, pictures)):
            for ending, content in (("jpg", _jpeg(number)), ("cls", b"%02d" % (number % _CLASSES))):
                info = tarfile.TarInfo(f"{number:09}.{ending}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    file.with_suffix(".part").replace(file)


def _jpeg(number: int) -> bytes:
    """A picture of blurred noise."""
    noise = np.random.default_rng(number).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((_WIDTH, _HEIGHT)).save(file, "JPEG", quality=85)
    return file.getvalue()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DIR", help="gets 5 GB for 200,000 pictures")
    parser.add_argument("--pictures", type=int, default=200_000, metavar="N")
    parser.add_argument("--forms", default="arrays,encoded", help="of the cache")
    parser.add_argument("--remove", action="store_true", help="DIR at the end")
    parser.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="with the check of the data, whose search for near copies takes longest",
    )
    parser.add_argument("--step", choices=("first", "second", "rate"), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
