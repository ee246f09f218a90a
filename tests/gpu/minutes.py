"""What a machine with a GPU does in the minutes for which it is to be had: `make gpu`.

A run has four parts in their order of worth: pairs of trainings, the tests that need a GPU, the
cost of a step, and TensorRT engines. Each part has its own limit, and what it says is written at
once. What is not finished goes on with the next run, also on another machine:

    python tests/gpu/minutes.py pack DATA --to .gpu        # here: pictures and begun runs, in parts
    python tests/gpu/minutes.py unpack .gpu/1 --to IN      # there, once for each folder that came
    python tests/gpu/minutes.py run --data IN/cifar100 --minutes 9 --out OUT
    python tests/gpu/minutes.py keep OUT                   # here: the runs and lines that came back
    python tests/gpu/minutes.py plan                       # how much is left
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import NoReturn

from carried import join, pack_files, pack_pictures, split, unpack_files, unpack_pictures
from minutes_left import is_finished, print_plan

from runtime.base.command import CommandParser, positive_float, run_command
from runtime.base.errors import UserError
from runtime.model.locate import CHECKPOINT
from training.studies.evidence_plan import FULL, SCALES, Scale, pairs_of_runs
from training.studies.study_run import StudyRun

MIB = 2**20
# A call carries 64 MiB at most, and the tree has 10 of them. What comes back is 8 files of 16 MiB.
MOST_THERE, MOST_BACK = 54 * 10**6, 15 * MIB
RECORD = "minutes.jsonl"  # a line for each part of a run
LOGS = Path("runs/minutes-logs")  # they come back in one file
_PICTURES, _RUNS, _REPORTS = "pictures", "runs", "reports"
_ENDING_SECONDS = 30  # to end trainings, and to write what comes back
_DATA_NAME = FULL.data


@dataclass(frozen=True)
class Part:
    """A command and the most seconds that it gets. With fewer than `least` it is left out."""

    name: str
    command: tuple[str, ...]
    least: int
    most: int


def parts(scale: Scale, data: Path | None) -> list[Part]:
    """What follows the trainings."""
    python = sys.executable
    bench = ("training/benchmark.py", "--json", "--device", scale.device)
    made = ("--arch", "mobilenetv2", "--drg", "--dsr", "--device", scale.device)
    long = ("--data", str(data), "--epochs", "4") if data else ("--epochs", "1")
    if scale is not FULL:
        bench = (*bench, "--width", "0.25", "--image-size", "16", "--rounds", "2")
        made = (*made, "--width", "0.25", "--image-size", "16")
    run = "runs/minutes"
    return [
        Part(
            "tests", (python, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"), 20, 120
        ),
        Part("cost-mobilenetv2", (python, *bench, "--arch", "mobilenetv2"), 20, 100),
        Part("cost-shufflenetv2", (python, *bench, "--arch", "shufflenetv2"), 20, 100),
        Part("train", (python, "training/run.py", *made, *long, "--out", run), 20, 90),
        Part("export", (python, "export/run.py", run), 15, 90),
        Part("engines", (python, "export/build_trt.py", run), 30, 180),
        Part("verify", (python, "-m", "runtime", "verify", f"{run}/bundle", "--json"), 10, 60),
        Part("bench", (python, "-m", "runtime", "bench", f"{run}/bundle", "--json"), 10, 60),
    ]


def main(arguments: Sequence[str]) -> int:
    """Runs one of the verbs that the module names."""
    options = _parser().parse_args(arguments)
    code: int = options.verb(options)
    return code


def _pack(options: argparse.Namespace) -> int:
    """Pictures in folders 1, 2, ... of at most MOST_THERE bytes, begun runs in one of their own."""
    to: Path = options.to
    scale = SCALES[options.scale]
    files = split(pack_pictures(options.data), to / "all", _PICTURES, most_bytes=MOST_THERE)
    manifest, *pieces = files
    for number, piece in enumerate(pieces, start=1):
        folder = to / str(number)
        folder.mkdir(exist_ok=True)
        shutil.copyfile(manifest, folder / manifest.name)
        piece.replace(folder / piece.name)
        print(f"{folder}  {piece.name}, {(folder / piece.name).stat().st_size / 1e6:.1f} MB")
    shutil.rmtree(to / "all")
    begun = list(_begun_files(scale))
    if begun:
        found = split(pack_files(Path(), begun), to / _RUNS, _RUNS, most_bytes=MOST_THERE)
        size = sum(path.stat().st_size for path in found) / 1e6
        print(f"{to / _RUNS}  {len(begun)} files of begun runs, {size:.1f} MB")
    return 0


def _unpack(options: argparse.Namespace) -> int:
    """Keeps what came; puts it together when all of it is there."""
    kept: Path = options.to / "parts"
    kept.mkdir(parents=True, exist_ok=True)
    for folder in options.folders:
        for file in [*folder.glob(f"{_PICTURES}.*"), *folder.glob(f"{_RUNS}.*")]:
            shutil.copyfile(file, kept / file.name)
    missing = _missing_parts(kept, _PICTURES)
    if missing:
        print(f"{len(missing)} parts of the pictures are still to come: {', '.join(missing)}")
    else:
        unpack_pictures(join([kept], _PICTURES), options.to / _DATA_NAME)
        print(f"pictures in {options.to / _DATA_NAME}")
    if (kept / f"{_RUNS}.000").exists():
        unpack_files(join([kept], _RUNS), Path())
        print("begun runs in runs/")
    return 0


def _run(options: argparse.Namespace) -> int:
    """Trains pairs until the other parts need what is left, then these, each with its limit."""
    scale, out = SCALES[options.scale], Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    end = monotonic() + 60 * options.minutes
    others = parts(scale, options.data)
    training_end = end - 60 * options.others - _ENDING_SECONDS
    pairs = [sys.executable, "training/evidence.py", "--pairs", "--scale", scale.name]
    if options.data:
        pairs += ["--data", str(options.data)]
    if (seconds := training_end - monotonic()) > 0:
        # Trainings get the time to end by themselves, with checkpoints.
        _do(out, "pairs", [*pairs, "--minutes", f"{seconds / 60:.3f}"], seconds + _ENDING_SECONDS)
    _give_back(out, scale)
    for part in others:
        left = end - monotonic() - 5
        if left < part.least:
            _note(out, {"part": part.name, "left_out": f"{max(0, left):.0f} s are left"})
        else:
            _do(out, part.name, part.command, min(left, part.most))
        _give_reports_back(out)
    return 0


def _keep(options: argparse.Namespace) -> int:
    """Writes the runs of a folder that came back below runs/, and the lines into results/."""
    for name in (_RUNS, _REPORTS):
        if (options.out / f"{name}.parts.json").exists():
            unpack_files(join([options.out], name), Path())
            print(f"{name} of {options.out} are kept")
    return 0


def _plan(options: argparse.Namespace) -> int:
    """Prints what is finished and begun of the pairs, and how many such runs the rest needs."""
    print_plan(SCALES[options.scale], minutes=options.minutes, others=options.others)
    return 0


def _do(out: Path, name: str, command: Sequence[str], seconds: float) -> None:
    """Runs a command for at most `seconds`; its output and a line about it are written at once."""
    start = monotonic()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *_paths()])}
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            code: int | None = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = None
    took = monotonic() - start
    facts = {"part": name, "exit_code": code, "seconds": round(took, 1), "limit": round(seconds, 1)}
    _note(out, {**facts, "command": " ".join(["python", *command[1:]])})


def _paths() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def _note(out: Path, facts: dict[str, object]) -> None:
    line = json.dumps(facts)
    print(line, flush=True)
    with (out / RECORD).open("a") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def _give_back(out: Path, scale: Scale) -> None:
    """Writes the begun and the finished runs into `out`, in parts that may travel."""
    if files := [*_begun_files(scale), *_finished_files(scale)]:
        split(pack_files(Path(), files), out, _RUNS, most_bytes=MOST_BACK)


def _give_reports_back(out: Path) -> None:
    """Writes all logs into one file, because only a few files may travel."""
    split(pack_files(Path(), LOGS.glob("*.log")), out, _REPORTS, most_bytes=MOST_BACK)


def _begun_files(scale: Scale) -> Iterator[Path]:
    for run in _all_runs(scale):
        if not is_finished(run) and (run.folder / CHECKPOINT).is_file():
            yield from (path for path in run.folder.iterdir() if _travels(path))
            yield from (path for path in (run.recipe_file, run.log) if path.is_file())


def _finished_files(scale: Scale) -> Iterator[Path]:
    """All of a finished run but its checkpoint, and the lines."""
    for run in _all_runs(scale):
        if is_finished(run):
            own = (path for path in run.folder.iterdir() if _travels(path))
            yield from (path for path in own if path.name != CHECKPOINT)
            yield run.recipe_file
    yield from scale.results.glob("*.jsonl")


def _travels(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.suffix != ".png"


def _all_runs(scale: Scale) -> list[StudyRun]:
    return [run for pair in pairs_of_runs(scale) for run in pair]


def _missing_parts(folder: Path, name: str) -> list[str]:
    manifest = folder / f"{name}.parts.json"
    if not manifest.exists():
        raise UserError(f"{folder} has no {manifest.name}; carry a folder that `pack` wrote")
    count = len(json.loads(manifest.read_bytes())["parts"])
    names = [f"{name}.{number:03}" for number in range(count)]
    return [each for each in names if not (folder / each).exists()]


def _parser() -> CommandParser:
    parser = CommandParser(prog="python tests/gpu/minutes.py", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, function: object, text: str) -> argparse.ArgumentParser:
        own: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
        own.set_defaults(verb=function)
        own.add_argument("--scale", choices=tuple(SCALES), default="full", help="tiny: on a CPU")
        return own

    pack = verb("pack", _pack, "pictures and begun runs in folders that may travel")
    pack.add_argument("data", type=Path, help="folder with {train,test}_{images,labels}.npy")
    pack.add_argument("--to", type=Path, required=True)
    unpack = verb("unpack", _unpack, "put together what came")
    unpack.add_argument("folders", type=Path, nargs="+")
    unpack.add_argument("--to", type=Path, required=True)
    run = verb("run", _run, "trainings in pairs, then tests, cost and engines")
    run.add_argument("--data", type=Path, help="a data folder named cifar100")
    run.add_argument("--minutes", type=positive_float, default=9.0, help="in all (default: 9)")
    run.add_argument("--others", type=positive_float, default=3.0, help="of them not for training")
    run.add_argument("--out", type=Path, required=True, help="what is to come back")
    keep = verb("keep", _keep, "the runs that came back")
    keep.add_argument("out", type=Path)
    plan = verb("plan", _plan, "what is left")
    plan.add_argument("--minutes", type=positive_float, default=9.0)
    plan.add_argument("--others", type=positive_float, default=3.0)
    return parser


def command() -> NoReturn:
    run_command(main, extra="train")


if __name__ == "__main__":
    command()
