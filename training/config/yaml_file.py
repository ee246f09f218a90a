"""YAML as recipes are written in: YAML 1.2's numbers, and no key twice."""

import re
from pathlib import Path
from typing import Any

import yaml

from runtime.base.errors import UserError


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in the file `path`; UserError naming it if there is none."""
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
    """What `text` says; UserError beginning with `where`."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not valid YAML: {error}") from error


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads `5e-4` as YAML 1.2 does, a number (PyYAML: a string).

    And, as YAML asks, no key twice: PyYAML would take the last, and a recipe must not be guessed.
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
