"""Shows that a change of the code changes no result: equal losses and equal weights, to the bit.

    git worktree add ../former COMMIT
    python tests/training/same_results.py ../former

trains twenty steps of every method with both students, once with the code in the folder named and
once with this one, on one thread and not compiled, and compares all loss terms of every step and
the SHA-256 of the weights. Only the command line of `training/run.py` and the files of a run are
used, so the folder may be any commit. `--record` writes this tree's figures to
`recorded_losses.json`, which test_recorded_losses.py compares with; `--only dlb` does so for one
case, which says of which machine it is where that is another one than of the others.

The record has each case twice. "moving" is this training. "still" has a learning rate of 1e-30: the
weights stay, so its losses hold on every machine, while those of a moving network differ by 5 to
100 % after twenty steps where another processor rounds otherwise (measured with
ATEN_CPU_CAPABILITY=default and ONEDNN_MAX_CPU_ISA=SSE41, which change the first step by 1e-6).
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

STEPS = 20
RECORDED = Path(__file__).with_name("recorded_losses.json")
ROOT = Path(__file__).resolve().parents[2]
STUDENTS = {"mobilenetv2": "0.25", "shufflenetv2": "0.5"}
_RECIPE: dict[str, object] = {
    "epochs": STEPS,
    "batch_size": 32,  # of 36 images: one step an epoch, which the journal has a line for
    "optimizer": "sgd",
    "learning_rate": 0.02,
    "padding": 1,
    "compile": False,
    "validation_fraction": 0.2,
}
_NO_RATE = 1e-30
_BOTH = ("--drg", "--dsr")
# The options and the recipe's keys of each method, and of what else changes a step.
CASES: dict[str, tuple[tuple[str, ...], dict[str, object]]] = {
    "ce": ((), {}),
    "ls": ((), {"label_smoothing": 0.1}),
    "ds": (("--drg",), {"drg_weight": 0}),
    "drg": (("--drg",), {}),
    "dsr": (("--dsr",), {}),
    "drg+dsr": (_BOTH, {}),
    "drg+dsr, mean, mixed": (_BOTH, {"dsr_teacher": "mean", "mixup": 0.4, "cutmix": 1.0}),
    "drg+dsr, ema, adamw": (
        _BOTH,
        {"dsr_teacher": "ema", "optimizer": "adamw", "learning_rate": 0.001, "ema_decay": 0.9},
    ),
    "drg, tap 3, wide, noisy": (
        ("--drg",),
        {"tap": 3, "head_width": 2.0, "label_noise": 0.2, "random_erasing": 0.5},
    ),
    "drg, taps 2 and 3": (("--drg",), {"taps": [2, 3]}),
    "drg+dsr, standardised below the first": (
        _BOTH,
        {"dsr_shape": "standardised-below-first", "dsr_teacher": "ema", "dsr_momentum": 0.99},
    ),
    "drg+dsr, auxiliary, fading": (_BOTH, {"dsr_on": "auxiliary", "dsr_fade": True}),
    "drg+dsr, two heads, fading": (
        _BOTH,
        {"taps": [2, 3], "drg_weight": 1.0, "dsr_weight": 0.3, "dsr_fade": True},
    ),
    "drg+dsr, below the first, mixed": (
        _BOTH,
        {"dsr_shape": "below-first", "mixup": 0.4, "validation_fold": 1, "train_share": 0.9},
    ),
    "dks-like": ((), {"peer": "dks-like", "label_smoothing": 0.1}),
    **{
        peer: ((), {"peer": peer})
        for peer in ("byot", "cs-kd", "ddgsd", "dlb", "ps-kd", "tf-kd", "uskd", "zipf-ls")
    },
}
# What a line of journal.jsonl holds beside the terms.
_NO_TERMS = {"epoch", "loss", "learning_rate", "top1", "top5", "ece", "seconds"}
_NO_TERMS |= {"images_per_second", "data_wait_share"}

Figures = dict[str, dict[str, Any]]


def write_data(folder: Path) -> Path:
    """44 training and 8 test images of four patterns, as a folder of arrays."""
    import numpy as np

    generator = np.random.default_rng(0)
    patterns = generator.integers(0, 256, (4, 16, 16, 3))
    folder.mkdir(parents=True)
    for split, count in (("train", 44), ("test", 8)):
        labels = np.arange(count) % 4
        noise = generator.normal(scale=40, size=(count, 16, 16, 3))
        images = np.clip(patterns[labels] + noise, 0, 255).astype(np.uint8)
        np.save(folder / f"{split}_images.npy", images)
        np.save(folder / f"{split}_labels.npy", labels)
    return folder


def train_case(
    name: str, arch: str, *, data: Path, folder: Path, still: bool = False
) -> dict[str, Any]:
    """The terms of twenty steps, one an epoch, and the digest of the student's weights.

    `still` trains with a learning rate that leaves the weights as they are.
    """
    import torch

    from training import run

    options, changes = CASES[name]
    values = _RECIPE | changes | ({"learning_rate": _NO_RATE} if still else {})
    word = f"{name}-{arch}-{'still' if still else 'moving'}"
    recipe = folder / f"{word}.yaml"
    recipe.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items()))
    out = folder / word
    student = ("--arch", arch, "--width", STUDENTS[arch], "--device", "cpu")
    files = ("--data", str(data), "--recipe", str(recipe), "--out", str(out))
    assert run.main([*student, *files, *options]) == 0
    lines = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    weights = torch.load(out / "checkpoint.pt", weights_only=True)["student"]
    digest = hashlib.sha256()
    for key in sorted(weights):
        digest.update(key.encode() + weights[key].numpy().tobytes())
    terms = [name for name in lines[0] if name not in _NO_TERMS]
    return {
        "terms": {term: [line[term] for line in lines] for term in terms},
        "sha256": digest.hexdigest(),
    }


def train_all(folder: Path, *, still: bool = False, only: str | None = None) -> Figures:
    """The figures of all cases by "method, student", with the code that `training` names here.

    `only` is the case that is trained; None: all of them.
    """
    import torch

    torch.set_num_threads(1)
    data = write_data(folder / "four")
    return {
        f"{name}, {arch}": train_case(name, arch, data=data, folder=folder, still=still)
        for arch in STUDENTS
        for name in ([only] if only else CASES)
    }


def capability() -> dict[str, str]:
    """What decides how torch rounds: its version and the instructions that it uses here."""
    import torch

    # Libraries below torch choose by more than torch's word for it: by the maker and the model.
    facts = dict.fromkeys(("vendor_id", "cpu family", "model"), "")
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in facts:
            facts[key.strip()] = value.strip()
    words = (platform.machine(), torch.backends.cpu.get_cpu_capability(), *facts.values())
    return {"torch": torch.__version__, "cpu": " ".join(words)}


def _figures_of(
    tree: Path, folder: Path, *, still: bool = False, only: str | None = None
) -> Figures:
    """The figures of the code in `tree`, from a process of its own."""
    out = folder / "figures.json"
    program = "import runpy, sys; sys.path.insert(0, sys.argv[1])\n"
    program += "import training; assert training.__file__.startswith(sys.argv[1])\n"
    program += "own = runpy.run_path(sys.argv[2])\n"
    program += "from pathlib import Path; import json\n"
    program += f"found = own['train_all'](Path(sys.argv[3]), still={still}, only={only!r})\n"
    program += "Path(sys.argv[4]).write_text(json.dumps(found))"
    subprocess.run(
        [sys.executable, "-c", program, str(tree), __file__, str(folder / "runs"), str(out)],
        check=True,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree)},
    )
    figures: Figures = json.loads(out.read_text())
    return figures


def _recorded(former: dict[str, Any], moving: Figures, still: Figures) -> dict[str, Any]:
    """The record with new figures. Where the others are another machine's, they say whose."""
    own = capability()
    if former and {key: former[key] for key in own} != own:
        moving = {case: {**own, **figures} for case, figures in moving.items()}
    kinds = (("moving", moving), ("still", still))
    return {**own, **former, **{kind: former.get(kind, {}) | new for kind, new in kinds}}


def main() -> int:
    """Compares or records; returns 1 where a figure differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("former", type=Path, nargs="?", help="a folder with the former code")
    parser.add_argument("--record", action="store_true", help="write recorded_losses.json")
    parser.add_argument("--only", choices=CASES, metavar="CASE", help="one case, such as dlb")
    options = parser.parse_args()
    former: dict[str, Any] = json.loads(RECORDED.read_text()) if options.only else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "own").mkdir()
        own = _figures_of(ROOT, folder / "own", only=options.only)
        if options.record:
            (folder / "still").mkdir()
            still = _figures_of(ROOT, folder / "still", still=True, only=options.only)
            RECORDED.write_text(json.dumps(_recorded(former, own, still), indent=1) + "\n")
        if options.former is None:
            return 0
        (folder / "former").mkdir()
        others = _figures_of(options.former.resolve(), folder / "former", only=options.only)
    differing = [case for case in own if own[case] != others[case]]
    for case in differing:
        print(f"differs: {case}")
    print(f"{len(own) - len(differing)} of {len(own)} cases are equal to the bit: {capability()}")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
