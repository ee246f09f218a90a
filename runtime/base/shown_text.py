"""Text for terminals: paths in commands that can be pasted, lists of names, and harmless names."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

# Control characters (C0, DEL, C1), line and paragraph separators, and changes of the direction of
# writing, by which a name can look like another one.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def pasted(path: Path) -> str:
    """The path as an argument of a shell's command, which takes it for no option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def some(names: Sequence[str], *, most: int = 3, between: str = ", ") -> str:
    """The first `most` of the names, and "..." where there are more."""
    return between.join([*names[:most], *(["..."] if len(names) > most else [])])


def on_terminal(text: str) -> str:
    """One line, in which each control character is shown by its code, as Python writes it."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
