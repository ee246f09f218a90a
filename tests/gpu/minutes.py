"""What a machine with a GPU does in the minutes for which it is to be had: `make gpu`.

A run begins with pairs of trainings. Then come the tests that need a GPU, the cost of a step, and a
student's way from training to TensorRT engines. Each part has its own limit, and what it says is
written at once. Trainings that are not finished go on with the next run, also on another machine. A
part that has ended well is not done again, and one that was killed at its limit comes after those
that were not tried yet:

    python tests/gpu/minutes.py pack DATA --to .gpu        # here: pictures and begun runs, in parts
    python tests/gpu/minutes.py unpack .gpu/1 --to IN      # there, once for each folder that came
    python tests/gpu/minutes.py run --data-root IN --minutes 9 --out OUT
    python tests/gpu/minutes.py keep OUT                   # here: the runs and lines that came back
    python tests/gpu/minutes.py plan                       # how much is left
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import NoReturn

from carried import (
    join,
    missing_parts,
    pack_files,
    pack_pictures,
    receive,
    split,
    split_into_folders,
    unpack_files,
    unpack_pictures,
)
from carried_runs import RUN_FILES, give_back, logs_of_runs, members_to_go_on, take_in
from gpu_parts import PAIRS, TESTS, Part, chosen_parts, parts
from minutes_left import print_plan
from minutes_record import (
    KEPT,
    RECORD,
    ROOT,
    done_parts,
    keep_record,
    note,
    place,
    record_of,
    skipped_tests,
    tries,
)
from part_process import run_limited, words

from runtime.base.command import CommandParser, folder_path, positive_float, run_command
from runtime.base.errors import UserError
from training.data.published_arrays import ARRAY_FOLDERS
from training.studies.evidence_plan import FULL, SCALES, Scale
from training.studies.pool import GRACE_SECONDS
from training.studies.run_queue import COMMIT_VARIABLE, commit_of

MIB = 2**20
# A call carries 64 MiB at most, and the files of this tree are among them (a test adds them up).
MOST_THERE = 44 * 10**6
# What comes back is 8 files of 16 MiB, together 64 MiB: the record, the logs (a manifest and a
# part), and the runs (a manifest and up to four parts).
MOST_OF_PART, MOST_RUNS_BACK, MOST_REPORTS = 15 * MIB, 60 * MIB, 2 * MIB
LOGS = Path("runs/minutes-logs")  # they come back in one file
_PICTURES, _REPORTS = "pictures", "reports"
_ENDING_SECONDS = 30  # in which trainings usually write their checkpoints and end
_LAST_SECONDS = 5  # to write what comes back
_STARTING_SECONDS = 30  # of the command that trains pairs, before its own time begins


def main(arguments: Sequence[str]) -> int:
    """Runs one of the verbs that the module names."""
    options = _parser().parse_args(arguments)
    code: int = options.verb(options)
    return code


def _pack(options: argparse.Namespace) -> int:
    """Pictures in folders 1, 2, ... of at most MOST_THERE bytes, begun runs in runs-1, ..."""
    to: Path = options.to
    if options.data is not None:
        split_into_folders(
            pack_pictures(options.data), to, _PICTURES, before="", most_bytes=MOST_THERE
        )
    members = members_to_go_on(SCALES[options.scale])
    # What was packed before is removed also where no run is begun any more.
    content = pack_files(members) if members else b""
    split_into_folders(content, to, RUN_FILES, before="runs-", most_bytes=MOST_THERE)
    print(f"there, where this tree has no .git: export {COMMIT_VARIABLE}={commit_of(ROOT)}")
    return 0


def _unpack(options: argparse.Namespace) -> int:
    """Keeps what came; puts together what came now, when all of it is there."""
    kept: Path = options.to / "parts"
    kept.mkdir(parents=True, exist_ok=True)
    came = set[str]()
    for folder in options.folders:
        names = {name for name in (_PICTURES, RUN_FILES) if receive(folder, kept, name)}
        if not names:
            raise UserError(
                f"{folder} has no {_PICTURES}.parts.json; carry a folder that `pack` wrote"
            )
        came |= names
    for name in sorted(came):
        if missing := missing_parts(kept, name):
            print(f"{len(missing)} parts of the {name} are still to come: {', '.join(missing)}")
        elif name == _PICTURES:
            to = options.to / ARRAY_FOLDERS[FULL.data]
            unpack_pictures(join([kept], _PICTURES), to)
            print(f"pictures in {to}")
        else:
            _say(take_in(join([kept], RUN_FILES)))
            print("begun runs in runs/")
    return 0


def _run(options: argparse.Namespace) -> int:
    """Trains pairs until the other parts need what is left, then these, each with its limit."""
    scale, out = SCALES[options.scale], Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    end = monotonic() + 60 * options.minutes
    wanted = tuple(options.parts.split(",")) if options.parts else ()
    keep_record(out / RECORD)  # of a call that was killed
    record = record_of(scale.name)
    every = parts(scale, options.data_root)
    done = done_parts(record)
    others = chosen_parts(every, done=done, tries=tries(record), wanted=wanted)
    if not wanted and (before := done - {PAIRS}):
        print(f"done before: {', '.join(sorted(before))}", flush=True)
    if not wanted or PAIRS in wanted:
        # Where nothing follows, the trainings have all the minutes.
        apart = min(60 * options.others, sum(part.most for part in others))
        _train_pairs(out, scale, options.data_root, end=end - apart, last=end)
    _give_runs_back(out, scale)
    for part in others:
        _do(out, scale, part, every, end)
        _give_reports_back(out, scale)
    keep_record(out / RECORD)
    return 0


def _train_pairs(
    out: Path, scale: Scale, data_root: Path | None, *, end: float, last: float
) -> None:
    """Trains until shortly before `end`, so that all runs have ended before `last`.

    The command gives its runs GRACE_SECONDS to write their checkpoints, and is not killed before.
    What they take of these beyond _ENDING_SECONDS is taken from the parts that follow.
    """
    grace = GRACE_SECONDS + _STARTING_SECONDS
    seconds = min(end - _ENDING_SECONDS, last - _LAST_SECONDS - grace) - monotonic()
    if seconds <= 0:
        note(out, {"part": PAIRS, "scale": scale.name, "left_out": "no time is left for them"})
        return
    command = ["training/evidence.py", "--pairs", "--scale", scale.name]
    command += ["--minutes", f"{seconds / 60:.3f}"]
    if data_root:
        command += ["--data-root", str(data_root)]
    _limited(out, scale, Part(PAIRS, (sys.executable, *command), 0, 0), seconds + grace)


def _do(out: Path, scale: Scale, part: Part, every: Sequence[Part], end: float) -> None:
    """Runs a part, or notes why it is left out."""
    left = end - monotonic() - _LAST_SECONDS
    needed = next((each for each in every if each.name == part.needs), None)
    if needed is not None and needed.makes is not None and not needed.makes.exists():
        why = f"{needed.makes}, which the part {needed.name} makes, is not here"
    elif left < part.least:
        why = f"{max(0, left):.0f} s are left"
    else:
        why = part.lacks
    if why:
        note(out, {"part": part.name, "scale": scale.name, "left_out": why})
    else:
        _limited(out, scale, part, min(left, part.most))


def _limited(out: Path, scale: Scale, part: Part, seconds: float) -> None:
    """Runs a part's command for at most `seconds`, and notes how it ended."""
    where = place()  # before, because a call that ends loses what comes behind the part
    start = monotonic()
    log = LOGS / f"{part.name}.log"
    code = run_limited(part.command, log, seconds=seconds)
    took = monotonic() - start
    facts = {"part": part.name, "scale": scale.name, "exit_code": code, "seconds": round(took, 1)}
    facts |= {"limit": round(seconds, 1), "command": words(part.command), **where}
    facts |= {"skipped": skipped_tests(log)} if part.name == TESTS else {}
    note(out, facts | ({"not_in_it": part.note} if part.note else {}))


def _give_runs_back(out: Path, scale: Scale) -> None:
    """Writes begun and finished runs, and says which ones do not come back."""
    left_out = give_back(out, scale, most_bytes=MOST_RUNS_BACK, most_of_part=MOST_OF_PART)
    if left_out:
        note(out, {"part": RUN_FILES, "scale": scale.name, "left_out": "; ".join(left_out)})
    _give_reports_back(out, scale)


def _give_reports_back(out: Path, scale: Scale) -> None:
    """Writes all logs into one file, because only a few files may travel; long ones shortened."""
    logs = [*LOGS.glob("*.log"), *logs_of_runs(scale)]
    most = MOST_REPORTS // max(1, len(logs))
    members = {str(log): _end_of(log, most) for log in logs}
    split(pack_files(members), out, _REPORTS, most_bytes=MOST_OF_PART)


def _end_of(log: Path, most_bytes: int) -> bytes:
    content = log.read_bytes()
    if len(content) <= most_bytes:
        return content
    return (
        f"({len(content) - most_bytes} bytes before this do not travel)\n".encode()
        + (content[-most_bytes:])
    )


def _keep(options: argparse.Namespace) -> int:
    """Writes the runs of a folder that came back below runs/, and adds lines to results/."""
    out: Path = options.out
    if not out.is_dir():
        raise UserError(f"{out} is not a folder; name the one that `run` wrote as --out")
    if (out / f"{RUN_FILES}.parts.json").exists():
        _say(take_in(join([out], RUN_FILES)))
        print(f"the runs of {out} are kept")
    if (out / f"{_REPORTS}.parts.json").exists():
        unpack_files(join([out], _REPORTS), Path())
        print(f"the logs of {out} are kept")
    print(f"{keep_record(out / RECORD)} lines about parts are added to {KEPT}")
    return 0


def _plan(options: argparse.Namespace) -> int:
    """Prints what is finished and begun of the pairs, and how many such runs the rest needs."""
    scale = SCALES[options.scale]
    print_plan(scale, minutes=options.minutes, others=options.others)
    done = done_parts(record_of(scale.name))
    names = [part.name for part in parts(scale, None)]
    left = [name for name in names if name not in done]
    print(f"parts: {len(names) - len(left)} done, {', '.join(left) or 'none'} left")
    return 0


def _say(sentences: Sequence[str]) -> None:
    for sentence in sentences:
        print(sentence)


def _parser() -> CommandParser:
    parser = CommandParser(prog="python tests/gpu/minutes.py", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, function: object, text: str) -> argparse.ArgumentParser:
        own: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
        own.set_defaults(verb=function)
        own.add_argument("--scale", choices=tuple(SCALES), default="full", help="tiny: on a CPU")
        return own

    most = f"folders of at most {MOST_THERE / 1e6:.0f} MB"
    pack = verb("pack", _pack, f"pictures and begun runs in {most}, which may travel one by one")
    pack.add_argument(
        "data",
        type=Path,
        nargs="?",
        help="folder with {train,test}_{images,labels}.npy; without it, runs alone are packed anew",
    )
    pack.add_argument("--to", type=Path, required=True)
    unpack = verb("unpack", _unpack, "put together what came")
    unpack.add_argument("folders", type=Path, nargs="+")
    unpack.add_argument("--to", type=Path, required=True, help="the data root for `run`")
    run = verb("run", _run, "trainings in pairs, then tests, cost and engines")
    run.add_argument("--data-root", type=folder_path, help="where the pictures were unpacked to")
    run.add_argument("--minutes", type=positive_float, default=9.0, help="in all (default: 9)")
    run.add_argument("--others", type=positive_float, default=3.0, help="of them not for training")
    run.add_argument(
        "--parts", metavar="NAME,...", help="these alone, done before or not; pairs is one, too"
    )
    run.add_argument(
        "--out",
        type=Path,
        required=True,
        help=f"what is to come back: runs of at most {MOST_RUNS_BACK // MIB} MiB, logs of "
        f"{MOST_REPORTS // MIB} MiB, in files of {MOST_OF_PART // MIB} MiB, and the record",
    )
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
