"""Reads recipes: YAML with the numbers of YAML 1.2, in which no key may occur twice.

ruamel.yaml does both by itself, but it reads other things differently than PyYAML: `flip: yes`
would be refused and `010` would be another number. The recipes that people have must keep their
meaning.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from runtime.base.errors import UserError

# What PyYAML raises beside its own errors where a text has the form or the tag of a value and is
# none: the date 2020-13-45, `!!int "a"`, `!!int ""`, `!!bool "x"`, `!!timestamp "x"`, `!!map [1]`;
# and where lists in lists have no end.
_OF_VALUES = (ValueError, IndexError, KeyError, AttributeError, TypeError, RecursionError)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in the file `path`.

    Raises:
        UserError: if the file cannot be read, or does not hold a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"recipe {path} cannot be read ({error.strerror}); expected a YAML file"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"recipe {path} is not valid YAML: {error}") from error
    content = parse_yaml(text, f"recipe {path}")
    if not isinstance(content, dict):
        raise UserError(f"recipe {path} must hold `key: value` lines, one for each choice")
    return content


def parse_yaml(text: str, where: str) -> Any:
    """The value that `text` stands for.

    Raises:
        UserError: if it is not valid YAML. The message begins with `where`.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, *_OF_VALUES) as error:
        words = " ".join(str(error).split())
        if not isinstance(error, yaml.YAMLError):
            words = f"a value is none of its kind ({words})"
        raise UserError(f"{where} is not valid YAML: {words}") from error


class _Loader(yaml.SafeLoader):
    """A SafeLoader that reads `5e-4` as a number, as YAML 1.2 does; PyYAML reads a string.

    It also refuses a key that occurs twice, as YAML demands. PyYAML takes the last one, which may
    not be what the user means.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is there twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)
