"""What learned ranges gain over calibrated ones: `python tests/benchmarks/learned_int8.py RUN ...`.

Each RUN was made by `training/qat.py`. Its float32 student, the int8 file of that student with
calibrated ranges and the int8 file that was learned answer the whole test split. Every run gives
one line of results/learned-int8.json; runs that have one are passed over, so that it can be stopped
and started again. The table is results/learned-int8.md.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from export.bundles.export_options import ExportOptions
from export.graphs.to_int8 import Int8Exporter
from export.graphs.to_onnx import export_graph
from export.pipeline import _evaluate, _learned_exporter
from export.trained_run import read_run
from runtime.base.files import write_atomic

ROOT = Path(__file__).resolve().parents[2]
LINES = ROOT / "results" / "learned-int8.json"
TABLE = ROOT / "results" / "learned-int8.md"
COMPARED = (
    ("learned - float32", "learned_top1", "fp32_top1"),
    ("learned - calibrated", "learned_top1", "calibrated_top1"),
    ("calibrated - float32", "calibrated_top1", "fp32_top1"),
)


def main(runs: Sequence[str]) -> None:
    """Measures the runs that have no line yet, and writes the table."""
    lines: list[dict[str, Any]] = json.loads(LINES.read_text()) if LINES.is_file() else []
    for folder in map(Path, runs):
        result = json.loads((folder / "result.json").read_text())
        for kind in result["learned"]:
            key = (folder.name, kind)
            if key not in {(line["run"], line["kind"]) for line in lines}:
                lines.append(measured(folder, kind, result))
                print(json.dumps(lines[-1]), flush=True)
                text = ",\n".join(json.dumps(line) for line in lines)
                write_atomic(LINES, f"[\n{text}\n]\n".encode())
    write_atomic(TABLE, table(lines).encode())


def measured(folder: Path, kind: str, result: dict[str, Any]) -> dict[str, Any]:
    """The figures of one run, all on the same test images and by the files' own arithmetic."""
    run = read_run(folder, lambda _text: None)
    spec, temperature = run.card.input, run.card.temperature
    graph = export_graph(run.student, spec, temperature)
    plain = Int8Exporter(graph.model, run.calibration_data(), _evaluate).quantize(kind, "auto")
    options = ExportOptions(precisions=("int8",))
    learned = _learned_exporter(kind, run, options).quantize(kind, "auto")
    line = {name: result[name] for name in ("arch", "width", "image_size", "data", "terms", "seed")}
    line |= {
        "command": f"python tests/benchmarks/learned_int8.py {folder.name}",
        "run": folder.name,
        "kind": kind,
        "epochs": result["epochs"],
        "int8_epochs": result["learned"][kind]["epochs"],
        "calibration": plain.calibration,
        "images": len(run.test.labels),
        "fp32_top1": _top1(run.test.probabilities, run.test.labels),
    }
    for word, found in (("calibrated", plain), ("learned", learned)):
        probabilities = _evaluate(found.model, run.test.images)
        same = probabilities.argmax(axis=1) == run.test.probabilities.argmax(axis=1)
        line[f"{word}_top1"] = _top1(probabilities, run.test.labels)
        line[f"{word}_agreement"] = float(same.mean())
    return line


def table(lines: Sequence[dict[str, Any]]) -> str:
    """One row for each student, data set and kind."""
    text = [
        "# learned-int8",
        "",
        "Made by `python tests/benchmarks/learned_int8.py RUN ...` of the lines in "
        "[learned-int8.json](learned-int8.json).",
        "",
        "Mean over the seeds, and in brackets its 95 % interval (t distribution). Differences of",
        "top-1 are in points, between files of one run. Agreement is with the float32 student.",
        "",
        "| student, data | kind | seeds | float32 top-1 % | "
        + " | ".join(name for name, _, _ in COMPARED)
        + " | agreement calibrated % | agreement learned % |",
        "|" + "---|" * (6 + len(COMPARED)),
    ]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in lines:
        student = f"{line['arch']} x{line['width']:g}, {line['data']} at {line['image_size']} px"
        groups.setdefault((student, line["kind"]), []).append(line)
    for (student, kind), found in groups.items():
        cells = [student, kind, str(len(found)), f"{100 * _mean(found, 'fp32_top1'):.2f}"]
        cells += [_interval([100 * (f[a] - f[b]) for f in found]) for _, a, b in COMPARED]
        cells += [
            f"{100 * _mean(found, f'{word}_agreement'):.2f}" for word in ("calibrated", "learned")
        ]
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


def _interval(values: Sequence[float]) -> str:
    mean = float(np.mean(values))
    if len(values) == 1:
        return f"{mean:+.2f}"
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{mean:+.2f} ({mean - half:+.2f} to {mean + half:+.2f})"


def _mean(lines: Sequence[dict[str, Any]], name: str) -> float:
    return float(np.mean([line[name] for line in lines]))


def _top1(probabilities: np.ndarray, labels: np.ndarray) -> float:
    return float((probabilities.argmax(axis=1) == labels).mean())


if __name__ == "__main__":
    main(sys.argv[1:])
