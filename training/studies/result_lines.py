"""What studies found: JSON lines, one for each run; and the commands and machines they are from."""

import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from runtime.base.errors import UserError
from runtime.base.files import write_atomic
from training.config.command_words import command_line
from training.config.former_recipes import recipe_of_result
from training.config.idle_keys import idle_keys, read_settings
from training.config.options import Options
from training.config.recipe import Recipe, default_recipe, load_recipe
from training.studies.grids import changes_of
from training.studies.study_methods import NAMED_METHODS, method_of
from training.studies.variants import AS_PUBLISHED

Line = dict[str, Any]
RESULTS = Path("results")
# What tells runs apart, next to what they read of their recipes. A line without the last two has
# their defaults.
IDENTITY = ("study", "method", "data", "arch", "width", "image_size", "seed")
_DEFAULTS = {"weights": "random", "noise_seed": 0}
# Keys that say what the held out images are for. They do not make a run or a row of their own: the
# first is set seed by seed, and older lines than the second had no thresholds.
OF_HELD_OUT = frozenset({"validation_fold", "thresholds"})
_OF_OPTIONS = ("epochs", "batch_size")  # keys of the recipe that `training/run.py` has options for
_RUN_OF_QUEUE = re.compile(r"(--queue [^/ ]+)/.+")  # and not the whole study
_RECIPE_DEFAULTS = {x.name: x.default for x in msgspec.structs.fields(Recipe) if not x.required}


def merge_lines(path: Path, lines: Sequence[Line]) -> None:
    """Adds `lines` to the JSON lines of `path`; they replace lines of the same runs."""
    former = read_lines(path)
    new = [identity_of(line) for line in lines]
    kept = [line for line in former if identity_of(line) not in new]
    content = b"".join(msgspec.json.encode(line) + b"\n" for line in [*kept, *lines])
    write_atomic(path, content)


def read_lines(path: Path) -> list[Line]:
    """The JSON lines of `path`, none if it does not exist.

    Raises:
        UserError: if a line is not a JSON object.
    """
    if not path.exists():
        return []
    try:
        return [
            msgspec.json.decode(line, type=Line) for line in path.read_bytes().splitlines() if line
        ]
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise UserError(f"{path} holds a line that is not a JSON object ({error})") from error


def identity_of(line: Line) -> tuple[object, ...]:
    """What tells its run apart from others; equal for two lines of one run.

    Defaults of a recipe may change between two runs: keys that the run does not read do not count.
    """
    values = [line.get(key) for key in IDENTITY]
    defaults = (line.get(*default) for default in _DEFAULTS.items())
    return (*values, terms_of(line), *defaults, read_recipe(line))


def method_name(line: Line) -> str:
    """The line's method. Of a run outside of a study it follows from its terms and its recipe."""
    if "method" in line:
        return str(line["method"])
    return method_of(line["terms"], whole_recipe(line), data=line["data"]).name


def terms_of(line: Line) -> str:
    """The line's terms. Of methods that have a name they are known, whatever the line states."""
    known = NAMED_METHODS.get(method_name(line))
    return known.terms if known else str(line["terms"])


def idle_in(line: Line) -> set[str]:
    """The keys of its recipe that make no run or row of their own."""
    return idle_keys(terms_of(line), whole_recipe(line)) | OF_HELD_OUT


def read_recipe(line: Line) -> dict[str, Any]:
    """The part of the recipe that makes a run or a row of its own."""
    read = read_settings(terms_of(line), whole_recipe(line))
    return {key: value for key, value in read.items() if key not in OF_HELD_OUT}


def are_of_one_data(lines: Sequence[Line]) -> bool:
    """Whether no two lines state that they are of other images or labels.

    Newer lines state `content_digest`, which tells every image. Older ones state `data_digest`, or
    nothing: then nothing is known. Both may depend on the image size and the fit, because they may
    be made of pixels. So lines of other sizes say nothing about the data.

    Args:
        lines: of one image size and one fit.
    """
    contents = {line["content_digest"] for line in lines if line.get("content_digest")}
    newer = {line.get("data_digest") for line in lines if line.get("content_digest")} - {None}
    older = {line.get("data_digest") for line in lines if not line.get("content_digest")} - {None}
    return len(contents) <= 1 and len(older) <= 1 and (not newer or older <= newer)


def refuse_other_data(
    lines: Sequence[Line],
    path: Path,
    data: str,
    content_digest: str | None,
    *,
    image_size: int,
    fit: str,
) -> None:
    """Refuses images that are not those of `lines` on data of that name.

    Lines of another image size or fit are not compared: the same pictures have other pixels there,
    of which the digest may be made.

    Args:
        lines: of one file.
        path: of the file, for the message.
        data: the data's name.
        content_digest: `Dataset.content_digest()`; None: not known.
        image_size: in pixels.
        fit: as in the recipe.

    Raises:
        UserError: if a line states another digest.
    """
    own = (data, image_size, fit)
    known = {
        x.get("content_digest") for x in lines if (x["data"], x["image_size"], fit_of(x)) == own
    } - {None}
    if content_digest is not None and known - {content_digest}:
        raise UserError(
            f"{data} has the content_digest {content_digest}, but the lines of {path} are of "
            f"{', '.join(map(str, known))}: other images or labels; use the data of these lines "
            "(docs/evidence.md says which), or keep other lines elsewhere"
        )


def fit_of(line: Line) -> str:
    """How its pictures became squares."""
    return str(whole_recipe(line)["fit"])


def whole_recipe(line: Line) -> dict[str, Any]:
    """The line's recipe as JSON has it. Keys that are younger than the line have their defaults."""
    whole = {**_RECIPE_DEFAULTS, **recipe_of_result(line)}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in whole.items()}


def changed_settings(line: Line, *, apart_from: Collection[str] = ()) -> dict[str, Any]:
    """What differs between the line's recipe and its data's own, apart from these keys."""
    own = _recipe_of_data(line["data"])
    return {
        key: value
        for key, value in whole_recipe(line).items()
        if value != own[key] and key not in apart_from
    }


def hardware_of(lines: Sequence[Line]) -> str:
    """The machines on which the lines were measured."""
    return _different(
        ", ".join(str(line[key]) for key in ("device", "precision") if key in line)
        for line in lines
    )


def versions_of(lines: Sequence[Line]) -> str:
    """The versions with which the lines were measured."""
    return _different(
        ", ".join(f"{name} {version}" for name, version in line["versions"].items())
        for line in lines
    )


def commands_of(study: str, lines: Sequence[Line]) -> list[str]:
    """The commands that gave the lines of `results/STUDY.jsonl`, as lines for a shell.

    The runs of a study of the queue are one command: there may be hundreds.
    """
    commands = (
        _stated_command(line) if line.get("command") else _rebuilt_command(study, line, lines)
        for line in lines
    )
    whole = r"\1 --data-root DIR --repeat  # one run alone: the command in its line"
    return list(dict.fromkeys(_RUN_OF_QUEUE.sub(whole, command) for command in commands))


def _stated_command(line: Line) -> str:
    """The line's own command. What its recipe's defaults of DRG and DSR were then is added."""
    command = str(line["command"])
    if "training/run.py" not in command or "--recipe" in command:
        return command
    then = {key: value for key, value in changed_settings(line).items() if key in AS_PUBLISHED}
    if then.get("taps") == []:
        then = {**then, "tap": whole_recipe(line)["tap"]}
        del then["taps"]
    read = read_recipe(line)
    words = [f" --set {key}={_yaml(value)}" for key, value in then.items() if key in read]
    return command + "".join(word for word in words if word.partition("=")[0] not in command)


def _rebuilt_command(study: str, line: Line, lines: Sequence[Line]) -> str:
    """The command of a line from before lines stated it, as far as the line tells it."""
    if "corrupted" in line:
        word = study.rpartition("-")[0]
        return f"python training/robustness.py --study {word} RUN [RUN ...]"
    settings = _settings(line)
    others = {key: value for key, value in settings.items() if key not in _OF_OPTIONS}
    own: dict[str, Any] = {key: settings[key] for key in settings.keys() - others.keys()}
    chosen = line["terms"].split("+") if "method" not in line else []
    shared = Options(
        arch=line["arch"],
        width=line["width"],
        data=line["data"],
        image_size=line["image_size"],
        drg="drg" in chosen,
        dsr="dsr" in chosen,
        **own,
    )
    words = shlex.join(command_line(shared))
    if "method" in line:
        return f"python training/study.py --study {study} {words} {_row_options(line, lines)}"
    command = f"python training/run.py {words} --seed SEED"
    if not others:
        return command
    keys = ", ".join(f"{key}: {_yaml(value)}" for key, value in others.items())
    return f"{command} --recipe FILE.yaml  # {keys}"


def _row_options(line: Line, lines: Sequence[Line]) -> str:
    """Options for the methods that have this line's settings, and its method's seeds."""
    settings = _settings(line)
    seeds: dict[str, set[int]] = {}
    for other in lines:
        if "method" in other and _settings(other) == settings:
            seeds.setdefault(other["method"], set()).add(other["seed"])
    own = seeds[line["method"]]
    methods = ",".join(method for method, found in seeds.items() if found == own)
    words = ["--terms", methods, "--seeds", str(1 + max(own))]
    for key, value in settings.items():
        if key not in _OF_OPTIONS:
            words += ["--set", f"{key}={_yaml(value)}"]
    return shlex.join(words)


def _settings(line: Line) -> dict[str, Any]:
    """What differs in the line's recipe from its data's own, apart from what its method changes."""
    return changed_settings(line, apart_from=changes_of(line.get("method", "")))


def _different(words: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(words))


def _yaml(value: object) -> str:
    return msgspec.json.encode(value).decode()


@cache
def _recipe_of_data(data: str) -> Mapping[str, Any]:
    return as_json(load_recipe(default_recipe(data)))


def as_json(recipe: Recipe) -> dict[str, Any]:
    """The recipe as the lines have it."""
    values: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(recipe))
    return values
