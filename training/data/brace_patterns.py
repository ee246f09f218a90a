"""`shard-{000..003}.tar`: the names that a pattern of WebDataset stands for."""

import re
from collections.abc import Iterator

_BRACES = re.compile(r"\{([^{}]*)\}")
_MAX_NAMES = 100_000
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def is_pattern(text: str) -> bool:
    """Whether the text has braces with several values."""
    return any(_values(inner) for inner in _BRACES.findall(text))


def names_of(pattern: str) -> Iterator[str]:
    """The names in order: of `{00..11}` each number with as many digits, of `{a,b}` each word."""
    for match in _BRACES.finditer(pattern):
        if values := _values(match[1]):
            for value in values:
                for rest in names_of(pattern[match.end() :]):
                    yield pattern[: match.start()] + value + rest
            return
    yield pattern


def _values(inner: str) -> list[str]:
    if bounds := _RANGE.fullmatch(inner):
        first, last = bounds.groups()
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        numbers = range(int(first), int(last) + 1)
        return [f"{number:0{width}}" for number in numbers] if len(numbers) <= _MAX_NAMES else []
    return inner.split(",") if "," in inner else []
