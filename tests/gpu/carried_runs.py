"""Which files of the pairs' runs travel to another machine and back, and how they are taken in."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec
from carried import pack_files, packed_size, split, unpack_files
from minutes_left import is_finished
from minutes_record import KEPT, keep_record

from runtime.base.errors import UserError
from runtime.base.files import write_atomic
from runtime.model.locate import CHECKPOINT, RESULT
from training.records.journal import JOURNAL
from training.records.run_folder import IMAGES
from training.studies.evidence_plan import STUDIES, Scale, pairs_of_runs
from training.studies.kept_lines import differing_figures, former_line
from training.studies.result_lines import merge_lines, read_lines
from training.studies.run_queue import COMMIT_FILE
from training.studies.study_run import StudyRun

RUN_FILES = "runs"  # the name of their parts
_LINES = Path("lines")  # in the tar file: so they never come to lie over the lines that are here
# A machine that counts a run as finished and writes its line needs these, and nothing large.
_FACTS = (RESULT, IMAGES, COMMIT_FILE, JOURNAL)
_BESIDE = (".log", ".yaml")  # of a run, beside its folder
_END_OF_TAR = 10_240  # bytes of nothing, at most

Members = dict[str, Path | bytes]  # of a tar file: files, or their content, by their paths


def members_to_go_on(scale: Scale) -> Members:
    """What another machine needs: begun runs, which runs are finished, and the record of parts."""
    members: Members = {}
    for run in _runs(scale):
        if is_finished(run):
            members |= _facts(run)
        elif (run.folder / CHECKPOINT).is_file():
            members |= _whole(run)
    return members | _named([KEPT])


def give_back(out: Path, scale: Scale, *, most_bytes: int, most_of_part: int) -> list[str]:
    """Writes what is new of the runs into `out`, in parts that may travel.

    Results and lines of runs that were finished here come first: home knows the others. Then come,
    pair by pair from the newest one on, begun runs to go on with, and the students of finished runs
    as they are deployed. Checkpoints of a pair come back together or not at all, but for one that
    cannot be read.

    Args:
        out: the folder.
        scale: of the studies.
        most_bytes: of all parts together.
        most_of_part: bytes of a part.

    Returns:
        What does not fit or cannot be read, a sentence for each run.
    """
    members = _lines(scale)
    for run in _runs(scale):
        if _is_finished_here(run):
            members |= _facts(run)
    left_out: list[str] = []
    for pair in reversed(pairs_of_runs(scale)):
        of_pair: list[tuple[StudyRun, Members]] = []
        for run in pair:
            try:
                of_pair.append((run, _deployed(run) if is_finished(run) else _whole(run)))
            except UserError as error:
                left_out.append(f"{_name(run)}: {error}")
        size = sum(packed_size(own) for _, own in of_pair)
        room = most_bytes - _END_OF_TAR - packed_size(members)
        if size <= room:
            for _, own in of_pair:
                members |= own
        else:
            sizes = f"its pair {size / 1e6:.1f} MB, and {max(0, room) / 1e6:.1f} MB are left"
            left_out += [
                f"{_name(run)} has {packed_size(own) / 1e6:.1f} MB, {sizes}; "
                f"it is only in {run.folder} of this machine"
                for run, own in of_pair
                if own
            ]
    if members:
        split(pack_files(members), out, RUN_FILES, most_bytes=most_of_part)
    return left_out


def take_in(content: bytes) -> list[str]:
    """Writes the runs of a tar file below this folder, and adds its lines to those that are here.

    Lines are those of studies and those of the record of parts.

    A run that is further here than in the tar file stays as it is, and so does a line of a run.

    Returns:
        A sentence for each file of lines and each run that stays.
    """
    said = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        unpack_files(content, root)
        lines = root / _LINES
        for file in sorted(lines.rglob("*.jsonl")):
            here = file.relative_to(lines)
            kept = read_lines(here)
            for line in read_lines(file):
                former = former_line(kept, line)
                if former is None:
                    merge_lines(here, [line])
                elif names := differing_figures(former, line):
                    run = f"{line['method']}, {line['arch']}, seed {line['seed']}"
                    said.append(
                        f"{here} has another line of {run}, which stays: {', '.join(names)}"
                    )
            said.append(f"lines of {here.stem} are added to {here}")
        keep_record(root / KEPT)
        journals = [path.parent for path in root.rglob(JOURNAL)]
        further = [folder for folder in journals if _further_here(folder, root)]
        said += [f"{each.relative_to(root)} is further here and stays" for each in further]
        stay = {*further, *(each.with_name(each.name + end) for each in further for end in _BESIDE)}
        for file in sorted(path for path in root.rglob("*") if path.is_file()):
            added = file.is_relative_to(lines) or file == root / KEPT
            if added or file in stay or file.parent in stay:
                continue
            target = file.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(target, file.read_bytes())
    return said


def logs_of_runs(scale: Scale) -> list[Path]:
    """What the runs that have no result printed: it says why one of them failed."""
    return [run.log for run in _runs(scale) if run.log.is_file() and not is_finished(run)]


def _runs(scale: Scale) -> Iterator[StudyRun]:
    for pair in pairs_of_runs(scale):
        yield from pair


def _name(run: StudyRun) -> str:
    return f"{run.study}/{run.folder.name}"


def _is_finished_here(run: StudyRun) -> bool:
    """Whether this machine has finished it: of runs that others finished, no checkpoint came."""
    return is_finished(run) and (run.folder / CHECKPOINT).is_file()


def _named(files: Iterable[Path]) -> Members:
    return {str(file): file for file in files if file.is_file()}


def _facts(run: StudyRun) -> Members:
    return _named([*(run.folder / name for name in _FACTS), run.recipe_file])


def _whole(run: StudyRun) -> Members:
    """All files of a begun run that it goes on with; none of a run that has no checkpoint."""
    if not (run.folder / CHECKPOINT).is_file():
        return {}
    own = (path for path in run.folder.iterdir() if _travels(path))
    return _named([*own, run.recipe_file, run.log])


def _deployed(run: StudyRun) -> Members:
    """All files of a finished run, with a checkpoint that holds the student alone.

    A run that was finished elsewhere has no checkpoint here, and nothing that is new.

    Raises:
        UserError: if its checkpoint cannot be read, or is older than its result.
    """
    if not (run.folder / CHECKPOINT).is_file():
        return {}
    from training.records.checkpoint import (  # torch takes seconds to import
        read_checkpoint,
        save_checkpoint,
        without_training,
    )

    with tempfile.TemporaryDirectory() as temporary:
        small = Path(temporary) / CHECKPOINT
        checkpoint = read_checkpoint(run.folder / CHECKPOINT)
        if not checkpoint.finished:
            raise UserError(
                f"{run.folder} has a result beside a checkpoint from before its end; expected the "
                "last one; it is with whoever finished the run, remove this one"
            )
        save_checkpoint(small, without_training(checkpoint))
        content = small.read_bytes()
    return {**_whole(run), str(run.folder / CHECKPOINT): content}


def _travels(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.suffix != ".png"


def _lines(scale: Scale) -> Members:
    """The lines of the pairs' runs that were finished here; all others are not new."""
    members: Members = {}
    finished = [run for run in _runs(scale) if _is_finished_here(run)]
    wanted = {(run.study, run.arch, run.method.name, run.seed) for run in finished}
    for name in dict.fromkeys(run.study for run in finished):
        file = scale.results / STUDIES[name].lines_file
        own = [line for line in read_lines(file) if _key(name, line) in wanted]
        if own:
            members[str(_LINES / file)] = _encoded(own)
    return members


def _key(study: str, line: Mapping[str, object]) -> tuple[object, ...]:
    return (study, line.get("arch"), line.get("method"), line.get("seed"))


def _encoded(lines: Iterable[object]) -> bytes:
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)


def _further_here(folder: Path, root: Path) -> bool:
    """Whether the run of the unpacked `folder` is further in the folder of that name here."""
    return _state(folder.relative_to(root)) > _state(folder)


def _state(folder: Path) -> tuple[bool, int]:
    """Whether a run is finished, and its epochs."""
    journal = folder / JOURNAL
    epochs = journal.read_bytes().count(b"\n") if journal.is_file() else 0
    return (folder / RESULT).is_file(), epochs
