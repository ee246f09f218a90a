"""The words of a command line, made of what a parser has read: what a result states."""

import shlex
from argparse import ArgumentParser
from collections.abc import Mapping
from pathlib import Path

from training.config.options import Options, option_parser
from training.config.recipe import SUFFIXES


def command_line(options: Options) -> list[str]:
    """The words after `training/run.py` from which its parser makes these very options."""
    return words_of(vars(options), option_parser())


def words_of(values: Mapping[str, object], parser: ArgumentParser) -> list[str]:
    """The words of a command line that `parser` reads as `values`; defaults are left out.

    Args:
        values: by name, as in the parser's result. True is written as a flag, False, where it is
            not the default, as `--no-a-name`, a list as one option for each of its items, None not
            at all.
        parser: has an option `--a-name` for each name `a_name`.
    """
    words = []
    for name, value in values.items():
        if value is None or value == parser.get_default(name):
            continue
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(option if value else f"--no-{option.removeprefix('--')}")
        else:
            for item in value if isinstance(value, list) else [value]:
                words += _option_with_value(option, item)
    return words


def repeatable_command(options: Options, *, data: str) -> str:
    """The command that a result states, from the repository's folder, without local paths.

    Args:
        options: of the run. What does not change the result is left out.
        data: the data set's name.
    """
    if options.command is not None:
        return options.command
    left_out = dict.fromkeys(("out", "resume", "refresh", "no_error_sheet", "log"))
    stated = vars(options) | without_paths(vars(options), data=data) | left_out
    for name in ("weights", "teacher"):
        if (path := stated[name]) is not None:
            stated[name] = Path(str(path)).name
    return stated_command("training/run.py", stated, option_parser())


def stated_command(script: str, values: Mapping[str, object], parser: ArgumentParser) -> str:
    """The command that calls `script` with `values`, quoted for a shell."""
    return shlex.join(["python", script, *words_of(values, parser)])


def without_paths(values: Mapping[str, object], *, data: str) -> dict[str, object]:
    """What stands for the options that may be local paths: the data set's and the file's name."""
    recipe = values["recipe"]
    if recipe is not None and Path(str(recipe)).suffix in SUFFIXES:
        recipe = Path(str(recipe)).name
    return {"data": data, "data_root": None, "recipe": recipe}


def _option_with_value(option: str, value: object) -> list[str]:
    """Two words; one, if argparse would take the value for another option."""
    text = repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
    return [f"{option}={text}"] if text.startswith("-") else [option, text]
