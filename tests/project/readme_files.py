"""The README's table of files, made of the first sentence of every module's docstring.

`python tests/project/readme_files.py` (or `make readme`) writes it anew.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PACKAGES = {
    "training": "from labelled images to a checkpoint",
    "export": "from a checkpoint to verified ONNX files and engines",
    "runtime": "from images to labels, without torch; owns the card and the preprocessing",
    "demo": "the page, on `runtime` alone",
}
_BETWEEN = re.compile(r"(?<=<!-- files -->\n).*?(?=<!-- end of files -->)", re.DOTALL)


def file_table() -> str:
    """The tables, as they stand between the two marks of the README."""
    return "\n".join(_package(name, title) for name, title in PACKAGES.items())


def table_in_readme() -> str:
    found = _BETWEEN.search(README.read_text(encoding="utf-8"))
    assert found, "the README has lost its two marks"
    return found.group()


def _package(name: str, title: str) -> str:
    files = [path for path in (ROOT / name).rglob("*.py") if path.name != "__init__.py"]
    files.sort(key=lambda path: (path.parent != ROOT / name, path))
    rows = "".join(f"| `{path.relative_to(ROOT)}` | {_sentence(path)} |\n" for path in files)
    return (
        f"<details>\n<summary><b>{name}/</b> {title}</summary>\n\n"
        f"| file | its job |\n|---|---|\n{rows}\n</details>\n"
    )


def _sentence(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = " ".join(docstring.split("\n\n")[0].split())
    return first.replace("|", "\\|")


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    README.write_text(_BETWEEN.sub(lambda _: file_table(), text), encoding="utf-8")
