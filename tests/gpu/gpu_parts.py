"""What follows the trainings: which commands, what each needs, and in which order they come."""

import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from gpu_test_files import gpu_test_files, missing_packages

from runtime.base.errors import UserError
from training.studies.evidence_plan import FULL, Scale

PAIRS, TESTS = "pairs", "tests"
_ROOT = Path(__file__).resolve().parents[2]
_RUN = Path("runs/minutes")
_TENSORRT = ("tensorrt_rtx", "tensorrt")


@dataclass(frozen=True)
class Part:
    """A command and the most seconds that it gets.

    Attributes:
        name: of its line in the record.
        command: its words.
        least: seconds with fewer of which it is left out.
        most: seconds after which it is killed.
        needs: the part whose result it takes.
        makes: a file that is there when its result is.
        lacks: why it cannot be done here; "" if it can.
        note: what is left out of it, and why.
    """

    name: str
    command: tuple[str, ...]
    least: int
    most: int
    needs: str = ""
    makes: Path | None = None
    lacks: str = ""
    note: str = ""


def parts(scale: Scale, data_root: Path | None) -> list[Part]:
    """All parts but the trainings, in their order of worth.

    Args:
        scale: of the studies.
        data_root: where the scale's data set lies; None: digits are trained on, too.
    """
    python = sys.executable
    # Each method is compiled before the first round. Few methods and rounds end within the limit,
    # and a benchmark that is killed has measured nothing.
    small = () if scale is FULL else ("--width", "0.25", "--image-size", "16")
    bench = ("training/benchmark.py", "--json", "--device", scale.device, *small)
    bench += ("--rounds", "8" if scale is FULL else "2", "--terms", "drg,drg+dsr")
    made = ("--arch", "mobilenetv2", "--drg", "--dsr", "--device", scale.device, *small)
    data = ("--data", scale.data, "--data-root", str(data_root)) if data_root else ()
    run, bundle = str(_RUN), str(_RUN / "bundle")
    train = ("training/run.py", *made, *data, "--epochs", "1", "--out", run, "--resume")
    runtime = (python, "-m", "runtime")
    no_engine = "" if any(map(find_spec, _TENSORRT)) else f"none of {', '.join(_TENSORRT)} is here"
    return [
        _tests(),
        Part("cost-mobilenetv2", (python, *bench, "--arch", "mobilenetv2"), 60, 170),
        Part("cost-shufflenetv2", (python, *bench, "--arch", "shufflenetv2"), 60, 170),
        Part("train", (python, *train), 20, 90, makes=_RUN / "result.json"),
        Part(
            "export",
            (python, "export/run.py", run),
            15,
            120,
            needs="train",
            makes=_RUN / "bundle/card.json",
        ),
        Part(
            "engines",
            (python, "export/build_trt.py", run),
            30,
            180,
            needs="export",
            lacks=no_engine,
        ),
        Part("verify", (*runtime, "verify", bundle, "--json"), 10, 60, needs="export"),
        Part("bench", (*runtime, "bench", bundle, "--json"), 10, 60, needs="export"),
    ]


def _tests() -> Part:
    """The tests that need a GPU. Loading all other files, too, takes minutes and more packages."""
    lacking = {file: missing_packages(file, _ROOT) for file in gpu_test_files(_ROOT)}
    files = [str(file.relative_to(_ROOT)) for file, missing in lacking.items() if not missing]
    left_out = [
        f"{file.relative_to(_ROOT)} needs {', '.join(missing)}"
        for file, missing in lacking.items()
        if missing
    ]
    note = "; ".join(left_out)
    command = (sys.executable, "-m", "pytest", "-q", "-rs", "-m", "gpu", "-p", "no:cacheprovider")
    command += tuple(files)
    return Part(TESTS, command, 20, 150, lacks="" if files else note, note=note)


def chosen_parts(
    all_parts: Sequence[Part],
    *,
    done: Collection[str],
    tries: Mapping[str, int],
    wanted: Collection[str] = (),
) -> list[Part]:
    """The parts to do, in the order in which they are to be done.

    A part that was done is left out, unless another one needs what it made and that is not here.
    Parts that need each other stay together. Of these groups, one that was tried less often comes
    first, so that a part that always takes too long does not keep the others from their turn.

    Args:
        all_parts: in their order of worth.
        done: the names of those that have ended well.
        tries: how often each of the others was begun.
        wanted: the names of those that are asked for, done or not; () for all.

    Raises:
        UserError: if a wanted name is no part's.
    """
    names = [part.name for part in all_parts]
    if unknown := [name for name in wanted if name not in (*names, PAIRS)]:
        raise UserError(
            f"--parts has no part {unknown[0]!r}; expected some of {','.join((PAIRS, *names))}"
        )
    if wanted:
        return [part for part in all_parts if part.name in wanted]
    chosen: list[Part] = []
    needed: set[str] = set()
    for part in reversed(all_parts):
        again = part.name in needed and part.makes is not None and not part.makes.exists()
        if part.name not in done or again:
            chosen.insert(0, part)
            if not part.lacks:
                needed.add(part.needs)
    groups: dict[str, list[Part]] = {}
    for part in chosen:
        groups.setdefault(_first_needed(part, all_parts), []).append(part)
    counted = Counter(tries)
    ordered = sorted(groups.values(), key=lambda group: max(counted[part.name] for part in group))
    return [part for group in ordered for part in group]


def _first_needed(part: Part, all_parts: Sequence[Part]) -> str:
    """The name of the part that this one, and whatever it needs, begins with."""
    while part.needs:
        part = next(each for each in all_parts if each.name == part.needs)
    return part.name
