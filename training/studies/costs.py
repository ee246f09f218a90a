"""What a training step costs with each method: `training/benchmark.py`, once for each student."""

import subprocess
import sys
from math import inf
from pathlib import Path
from time import monotonic

import msgspec

from runtime.base.files import write_atomic
from training.studies.evidence_plan import COST, Scale
from training.studies.result_lines import Line, read_lines
from training.studies.study_methods import METHODS
from training.studies.study_table import table_head, table_line

_BENCHMARK = Path(__file__).resolve().parents[1] / "benchmark.py"


def measure_cost(scale: Scale, *, deadline: float) -> bool:
    """Writes the lines of both students, unless their file exists.

    Args:
        scale: where and how large.
        deadline: when the measuring has to end, in seconds on the clock of `time.monotonic`.

    Returns:
        Whether the file exists now; False if the time was over.

    Raises:
        CalledProcessError: if the benchmark fails.
    """
    path = scale.results / f"{COST}.jsonl"
    if path.exists():
        print(f"{path} is there; remove it to measure again")  # noqa: T201
        return True
    lines: list[Line] = []
    for arch, width in scale.widths.items():
        command = [sys.executable, str(_BENCHMARK), "--json", "--device", scale.device]
        command += ["--arch", arch, "--width", f"{width:g}", "--terms", ",".join(METHODS)]
        if scale.image_size is not None:
            command += ["--image-size", str(scale.image_size)]
        left = deadline - monotonic()
        if left <= 0:
            return False
        try:
            finished = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                timeout=None if left == inf else left,
                text=True,
                check=True,
            )
        except subprocess.TimeoutExpired:
            return False
        lines += [msgspec.json.decode(text, type=Line) for text in finished.stdout.splitlines()]
    write_atomic(path, b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    return True


def cost_table(path: Path) -> str:
    """The lines of `path` as a Markdown table; `over CE` is the benchmark's paired median."""
    names = ["student", "step", "ms", "over CE", "images/s", "peak memory MiB", "over CE"]
    names += ["more in training", "more deployed", "device", "torch"]
    table = table_head(names)
    for line in read_lines(path):
        memory, memory_over = line["peak_memory_mib"], line["memory_over_ce"]
        table.append(
            table_line(
                [
                    line["arch"],
                    line["contender"],
                    f"{line['ms_per_step']:.2f}",
                    f"{line['over_ce']:+.1%}",
                    f"{line['images_per_second']:.0f}",
                    "-" if memory is None else f"{memory:.0f}",
                    "-" if memory_over is None else f"{memory_over:+.1%}",
                    f"{line['added_in_training']:,}",
                    f"{line['added_at_deployment']:,}",
                    line["device"],
                    line["torch"],
                ]
            )
        )
    return "\n".join(table)
