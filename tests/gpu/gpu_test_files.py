"""Which files of the test tree hold tests that need a GPU, and what they lack to be loaded."""

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

_SUPPORT = ("", "tests/support", "tests/gpu")  # where modules of our own lie, below the root


def gpu_test_files(root: Path) -> list[Path]:
    """The files below `root`/tests with a test that is marked `gpu`, sorted."""
    files = sorted((root / "tests").rglob("test_*.py"))
    return [file for file in files if b"mark.gpu" in file.read_bytes() and _is_marked(_tree(file))]


def missing_packages(file: Path, root: Path) -> list[str]:
    """The packages without which the test file cannot be loaded and that are not installed.

    It follows the imports at the top of the file, of the `conftest.py` above it, and of all modules
    of our own that these import. Those within functions and after `try` do not count.
    """
    above = [folder for folder in file.parents if folder.is_relative_to(root)]
    conftests = [folder / "conftest.py" for folder in above]
    waiting = [file, *(each for each in conftests if each.is_file())]
    seen, missing = set(waiting), set[str]()
    while waiting:
        for name in _imported(_tree(waiting.pop())):
            if own := _own_files(name, root):
                waiting += [each for each in own if each not in seen]
                seen.update(own)
            elif not _is_own(name, root) and not _is_installed(name):
                missing.add(name.split(".")[0])
    return sorted(missing)


def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_bytes(), str(file))


def _is_marked(tree: ast.Module) -> bool:
    """Whether it says `pytest.mark.gpu` somewhere, and not only in a text."""
    return any(
        isinstance(node, ast.Attribute)
        and node.attr == "gpu"
        and isinstance(node.value, ast.Attribute)
        and node.value.attr == "mark"
        for node in ast.walk(tree)
    )


def _imported(tree: ast.Module) -> Iterator[str]:
    """Dotted names that the module imports when it is loaded; a name of `from` may be a module."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _own_files(name: str, root: Path) -> list[Path]:
    """The files that are loaded for a module of our own: its packages' and its own."""
    words = name.split(".")
    for base in (root / folder for folder in _SUPPORT):
        module = base.joinpath(*words)
        own = [module.with_suffix(".py"), module / "__init__.py"]
        found = [each for each in own if each.is_file()]
        if found:
            packages = [base.joinpath(*words[:n], "__init__.py") for n in range(1, len(words))]
            return [*(each for each in packages if each.is_file()), *found]
    return []


def _is_own(name: str, root: Path) -> bool:
    """Whether its first word is a package of ours: the last one is then no module but a name."""
    first = name.split(".")[0]
    return (root / first).is_dir() or bool(_own_files(first, root))


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name.split(".")[0]) is not None
    except (ImportError, ValueError):
        return False
