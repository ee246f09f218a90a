"""Where figures come from, in words made of their lines: command, hardware, versions."""

from collections.abc import Sequence
from typing import Any

import msgspec

from training.studies.evidence_plan import SCALES, STUDIES
from training.studies.lines import RESULTS, Line, changed_settings
from training.studies.robustness_table import LINES_SUFFIX
from training.studies.rows import METHODS

_OF_OPTIONS = ("epochs", "batch_size")  # keys that training/run.py takes as options


def provenance(study: str, lines: Sequence[Line]) -> str:
    """The commands, machines and versions behind the lines of `results/STUDY.jsonl`."""
    devices = dict.fromkeys(
        ", ".join(str(line[key]) for key in ("device", "precision") if key in line)
        for line in lines
    )
    versions = dict.fromkeys(
        ", ".join(f"{name} {version}" for name, version in line["versions"].items())
        for line in lines
    )
    commands = dict.fromkeys(_command(study, line, lines) for line in lines)
    file = RESULTS / f"{study}.jsonl"
    return "  \n".join(
        [
            f"Command: {'; '.join(f'`{command}`' for command in commands)}",
            f"Hardware: {'; '.join(devices)}",
            f"Versions: {'; '.join(versions)}",
            f"Lines: [{file.name}]({file.as_posix()})",
        ]
    )


def _command(study: str, line: Line, lines: Sequence[Line]) -> str:
    if study.endswith(LINES_SUFFIX):
        word = study.removesuffix(LINES_SUFFIX)
        return f"python training/robustness.py --study {word} RUN [RUN ...]"
    if study in STUDIES and line["data"] == SCALES["full"].data:
        return f"python training/evidence.py --only {study}"
    return _study_command(study, line, lines) if "method" in line else _run_command(line)


def _study_command(study: str, line: Line, lines: Sequence[Line]) -> str:
    """The call for the methods that have this line's settings, and its method's seeds."""
    settings = _settings(line)
    seeds: dict[str, set[int]] = {}
    for other in lines:
        if "method" in other and _settings(other) == settings:
            seeds.setdefault(other["method"], set()).add(other["seed"])
    own = seeds[line["method"]]
    words = ["python training/study.py", f"--study {study}", *_shared_words(line, settings)]
    words.append(f"--terms {','.join(method for method, found in seeds.items() if found == own)}")
    words.append(f"--seeds {1 + max(own)}")
    words += [f"--set {key}={_yaml(value)}" for key, value in settings.items() if _is_set(key)]
    return " ".join(words)


def _run_command(line: Line) -> str:
    settings = _settings(line)
    flags = [f"--{term}" for term in ("drg", "dsr") if term in line["terms"]]
    words = ["python training/run.py", *_shared_words(line, settings), *flags]
    others = {key: value for key, value in settings.items() if _is_set(key)}
    if others:
        keys = ", ".join(f"{key}: {_yaml(value)}" for key, value in others.items())
        words.append(f"--recipe FILE.yaml ({keys})")
    return " ".join([*words, "--seed SEED"])


def _shared_words(line: Line, settings: dict[str, Any]) -> list[str]:
    words = [f"--arch {line['arch']}"]
    if line["width"] != 1:
        words.append(f"--width {line['width']:g}")
    words += [f"--data {line['data']}", f"--image-size {line['image_size']}"]
    return words + [
        f"--{key.replace('_', '-')} {settings[key]}" for key in _OF_OPTIONS if key in settings
    ]


def _settings(line: Line) -> dict[str, Any]:
    """How the line's recipe differs from its data's own, apart from what its method changes."""
    method = METHODS.get(line.get("method", ""))
    return changed_settings(line, apart_from=method.changes if method else ())


def _is_set(key: str) -> bool:
    return key not in _OF_OPTIONS


def _yaml(value: object) -> str:
    return msgspec.json.encode(value).decode()
