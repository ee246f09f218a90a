"""What a trial's student takes on this machine: exported and measured by the commands for that."""

import subprocess
import sys
from pathlib import Path

import msgspec

from runtime.base.errors import UserError
from runtime.model.locate import BUNDLE
from training.studies.study_run import StudyRun

_ROOT = Path(__file__).resolve().parents[2]


class _Batch(msgspec.Struct):
    batch: int
    p50_ms: float


class _Measured(msgspec.Struct):
    network: list[_Batch]


def latency_of(run: StudyRun) -> float:
    """Milliseconds of the network for one picture, in the median, on the fastest backend.

    `export/run.py` writes the run's bundle, and `python -m runtime bench` measures it.

    Raises:
        UserError: if one of the commands fails.
    """
    _said([str(_ROOT / "export" / "run.py"), str(run.folder)])
    lines = _said(["-m", "runtime", "bench", str(run.folder / BUNDLE), "--json"]).splitlines()
    found = [
        batch.p50_ms
        for line in lines
        if b'"network"' in line
        for batch in msgspec.json.decode(line, type=_Measured).network
        if batch.batch == 1
    ]
    if not found:
        raise UserError(f"runtime bench measured nothing of {run.folder / BUNDLE}")
    return min(found)


def _said(words: list[str]) -> bytes:
    done = subprocess.run([sys.executable, *words], capture_output=True, check=False)
    if done.returncode:
        why = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise UserError(f"`python {' '.join(words)}` failed: {why[0]}")
    return done.stdout
