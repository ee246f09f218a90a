"""The house rules: what may import what, how large a file may be, and what it may be called.

Import-linter keeps the floors (`pyproject.toml`, `make check`); what it cannot say is tested here.
"""

import ast
import graphlib
import importlib.metadata
import importlib.util
import re
import statistics
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("demo", "export", "runtime", "training")

BLOCK_TORCH = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "torchvision", "training", "export", "demo"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
"""


def modules(package: str) -> list[str]:
    files = sorted((ROOT / package).rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    return [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]


def test_every_runtime_module_imports_without_torch() -> None:
    imports = "\n".join(f"import {name}" for name in modules("runtime"))
    finished = subprocess.run(
        [sys.executable, "-c", BLOCK_TORCH + imports],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_ours(package: str) -> None:
    # Some distributions ship a top-level `runtime/` or `demo/` by accident.
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).is_relative_to(ROOT)


def test_no_module_shadows_another_package() -> None:
    # `python training/run.py` puts training/ first on sys.path: a file named like a package that
    # anybody imports (torch imports triton, for one) would be taken for it. A package `evaluate`
    # exists, too; no command of ours imports it, and one of ours is called so.
    foreign = set(sys.stdlib_module_names) | {"triton", "onnx", "tensorrt", "datasets"}
    foreign |= set(importlib.metadata.packages_distributions()) - set(PACKAGES)
    for package in PACKAGES:
        files = (ROOT / package).iterdir()
        names = {path.stem for path in files if path.is_dir() or path.suffix == ".py"}
        assert not (names - {"__init__", "__main__", "__pycache__"}) & foreign


def test_top_level_is_what_the_readme_promises() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    folders = {Path(name).parts[0] for name in tracked.stdout.splitlines() if "/" in name}
    assert set(PACKAGES) | {"tests"} <= folders
    assert folders <= set(PACKAGES) | {"tests", ".ci", "docs", "results"}


def test_all_is_every_extra_but_trt_and_what_few_need() -> None:
    # NVIDIA's own index serves TensorRT's libraries: `all` must install from PyPI alone.
    apart = {"trt", "ray", "mlflow", "wandb", "trackio"}
    extras: dict[str, set[str]] = {}
    for requirement in importlib.metadata.requires("skd-edge") or []:
        name, _, extra = requirement.partition("extra == ")
        if extra:
            extras.setdefault(extra.strip("'\""), set()).add(re.split(r"[<>=; ]", name)[0])
    everything = extras.pop("all")
    assert set().union(*(extras[extra] for extra in extras.keys() - apart)) == everything
    assert "tensorrt" in extras["trt"]
    assert not {"tensorrt", "ray", "mlflow", "wandb", "trackio"} & everything


# --- imports ---


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """For each module those of ours that it imports: also for types, also inside of functions."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    return {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}


def cycle_of(arrows: Mapping[str, Iterable[str]]) -> list[str]:
    """One cycle of a graph, as the names along it; empty if there is none."""
    try:
        graphlib.TopologicalSorter(arrows).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def folder_of(module: str) -> str:
    """The folder that a module's file lies in; a package's `__init__` lies in the package."""
    is_folder = ROOT.joinpath(*module.split(".")).is_dir()
    return module if is_folder else module.rpartition(".")[0]


def test_modules_do_not_import_in_a_circle(imports: dict[str, set[str]]) -> None:
    assert not cycle_of(imports)


def test_folders_do_not_import_in_a_circle(imports: dict[str, set[str]]) -> None:
    # The files that lie directly in a folder are a node of their own, apart from its subfolders.
    folders: dict[str, set[str]] = defaultdict(set)
    for module, imported in imports.items():
        folders[folder_of(module)] |= {folder_of(name) for name in imported}
    assert not cycle_of({name: found - {name} for name, found in folders.items()})


def test_cycles_are_found() -> None:
    assert set(cycle_of({"a": ["b"], "b": ["c"], "c": ["a"], "d": ["a"]})) == {"a", "b", "c"}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_folder_says_what_it_may_not_import(package: str) -> None:
    rule = re.compile(r"\b(no|not|nothing|neither|none|only)\b", re.IGNORECASE)
    silent = []
    for file in (ROOT / package).rglob("__init__.py"):
        docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        sentences = re.split(r"(?<=[.:])\s", " ".join(docstring.split()))
        about = [text for text in sentences if re.search(r"import|needs", text, re.IGNORECASE)]
        if not any(rule.search(text) for text in about):
            silent.append(str(file.relative_to(ROOT)))
    assert not silent


# --- files ---


def python_files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def line_counts() -> dict[str, int]:
    """The lines of every module of ours, without the `__init__` files."""
    return {
        str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines())
        for package in PACKAGES
        for file in python_files(package)
        if file.name != "__init__.py"
    }


def test_modules_stay_small() -> None:
    assert not {name: lines for name, lines in line_counts().items() if lines > 300}


def test_modules_hold_one_whole_idea() -> None:
    # Many small files are as hard to read as one long one.
    assert 100 <= statistics.median(line_counts().values()) <= 200


def test_training_has_few_files_of_its_own() -> None:
    assert len(list((ROOT / "training").glob("*.py"))) <= 16


@pytest.mark.parametrize("package", PACKAGES)
def test_no_two_files_have_one_name(package: str) -> None:
    names = Counter(file.name for file in python_files(package))
    assert [name for name, count in names.items() if count > 1 and name != "__init__.py"] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_tests_mirror_the_folders(package: str) -> None:
    tests = ROOT / "tests" / package
    folders = {file.parent.relative_to(tests) for file in tests.rglob("test_*.py")}
    assert not [str(folder) for folder in folders if not (ROOT / package / folder).is_dir()]


# --- commands ---


def entry_points() -> list[tuple[str, ...]]:
    """The arguments of Python that start each command."""
    commands = [
        (str(file.relative_to(ROOT)),)
        for package in PACKAGES
        for file in python_files(package)
        if 'if __name__ == "__main__":' in file.read_text(encoding="utf-8")
        and file.name != "__main__.py"
    ]
    return [*commands, ("-m", "runtime")]


@pytest.mark.parametrize("command_words", entry_points(), ids=" ".join)
def test_every_command_tells_its_version(command_words: tuple[str, ...]) -> None:
    finished = subprocess.run(
        [sys.executable, *command_words, "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert importlib.metadata.version("skd-edge") in finished.stdout
    assert len(finished.stdout.splitlines()) == 1


# --- documents ---

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("results/*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_of_documents_fit_a_window(document: Path) -> None:
    long, in_code = [], False
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), start=1):
        in_code ^= line.startswith("```")
        if len(line) > 140 and not in_code and not line.startswith("|"):
            long.append(number)
    assert not long


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 180
