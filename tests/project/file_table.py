"""The table of files in docs/architecture.md, made of the first sentence of every module.

`python tests/project/file_table.py` (or `make docs`) writes it anew.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "architecture.md"
PACKAGES = {
    "training": "from labelled images to a checkpoint",
    "export": "from a checkpoint to verified ONNX files and engines",
    "runtime": "from images to labels, without torch; owns the card and the preprocessing",
    "demo": "the page, on runtime alone",
}
_BETWEEN = re.compile(r"(?<=<!-- files -->\n).*?(?=<!-- end of files -->)", re.DOTALL)


def file_table() -> str:
    """The tables, as they stand between the two marks of the document."""
    return "\n".join(_package(name, title) for name, title in PACKAGES.items())


def table_in_document() -> str:
    """What stands between the two marks now."""
    found = _BETWEEN.search(DOCUMENT.read_text(encoding="utf-8"))
    assert found, f"{DOCUMENT.name} has lost its two marks"
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
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(_BETWEEN.sub(lambda _: file_table(), text), encoding="utf-8")
