"""Which parts a run of minutes has left, in which order, and which test files it names."""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path

import gpu_parts
import gpu_test_files
import minutes
import pytest
import torch
from gpu_parts import Part, chosen_parts
from gpu_test_files import missing_packages
from minutes_record import KEPT, done_parts, keep_record, note, record_of, tries

from training.studies.evidence_plan import FULL, TINY, Scale
from training.studies.result_lines import Line, read_lines
from training.studies.run_queue import commit_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def every(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Part]:
    """Two parts alone, and three of which each needs the one before."""
    monkeypatch.chdir(tmp_path)
    return [
        Part("tests", ("x",), 0, 1),
        Part("cost", ("x",), 0, 1),
        Part("train", ("x",), 0, 1, makes=Path("run")),
        Part("export", ("x",), 0, 1, needs="train", makes=Path("bundle")),
        Part("bench", ("x",), 0, 1, needs="export"),
    ]


def names(parts: list[Part]) -> list[str]:
    return [part.name for part in parts]


def test_what_is_done_is_left_out_unless_another_part_needs_it_here(every: list[Part]) -> None:
    done = {"tests", "train", "export"}
    assert names(chosen_parts(every, done=done, tries={})) == ["cost", "train", "export", "bench"]
    Path("bundle").touch()
    assert names(chosen_parts(every, done=done, tries={})) == ["cost", "bench"]
    assert names(chosen_parts(every, done={*done, "bench"}, tries={})) == ["cost"]


def test_each_part_gets_its_turn_though_one_ends_at_its_limit_in_every_call(
    every: list[Part],
) -> None:
    """Each call has time for one part, or for the three that belong together; cost never ends."""
    counted: dict[str, int] = {}
    done: set[str] = set()
    began = []
    for _ in range(4):
        first, *others = chosen_parts(every, done=done, tries=counted)
        began.append(first.name)
        if first.name == "cost":
            counted["cost"] = counted.get("cost", 0) + 1
        else:
            done |= {first.name, *(names(others) if first.name == "train" else ())} - {"cost"}
    assert began == ["tests", "cost", "train", "cost"]


def test_the_record_tells_what_ended_well_and_how_often_the_others_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for part, facts in (
        ("tests", {"exit_code": 1}),
        ("cost", {"exit_code": None}),
        ("tests", {"exit_code": 0}),
        ("bench", {"left_out": "2 s are left"}),
    ):
        note(tmp_path, {"part": part, "scale": "tiny", **facts})
    note(tmp_path, {"part": "bench", "scale": "full", "exit_code": 0})
    assert keep_record(tmp_path / "minutes.jsonl") == 5
    assert keep_record(tmp_path / "minutes.jsonl") == 0  # they are known
    lines = record_of("tiny")
    assert len(lines) == 4
    assert done_parts(lines) == {"tests"}
    assert tries(lines) == {"tests": 1, "cost": 1}
    assert len(KEPT.read_text().splitlines()) == 5


def test_tests_are_not_done_while_some_of_them_were_skipped_or_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without a GPU or TensorRT skips them, and pytest ends well."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "test_it.py"

    def record(text: str, part: Part) -> list[Line]:
        file.write_text(f"import pytest\ndef test_one(): ...\n{text}")
        minutes._limited(tmp_path, TINY, part, 60)
        return read_lines(tmp_path / "minutes.jsonl")

    command = (sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", str(file))
    tests = Part("tests", command, 0, 60)
    lines = record("def test_two(): pytest.skip('needs a CUDA device')\n", tests)
    assert [line["skipped"] for line in lines] == [1]
    lines = record("", replace(tests, note="x needs torchvision"))
    assert (done_parts(lines), tries(lines)) == (set(), {"tests": 2})
    lines = record("", tests)
    assert done_parts(lines) == {"tests"}
    assert {line["exit_code"] for line in lines} == {0}
    assert {line["cuda"] for line in lines} == {torch.cuda.is_available()}
    assert {line["commit"] for line in lines} == {commit_of(ROOT)}


@pytest.mark.parametrize("scale", [FULL, TINY], ids=["full", "tiny"])
def test_every_part_gets_as_much_time_as_it_needs_to_begin(scale: Scale) -> None:
    found = gpu_parts.parts(scale, None)
    usual = 180  # seconds for all of them, of which a few are for what comes back
    for part in found:
        assert part.least <= part.most <= usual, part.name
    wanted = {part.needs for part in found if part.needs}
    assert wanted <= {part.name for part in found if part.makes is not None}


@pytest.fixture
def tree(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(path: str, text: str) -> Path:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    return write


def test_files_with_gpu_tests_are_found_and_none_that_only_speaks_of_them(
    tree: Callable[[str, str], Path], tmp_path: Path
) -> None:
    one = tree("tests/a/test_one.py", "@pytest.mark.gpu\ndef test_it(): ...\n")
    all_of_it = tree("tests/b/test_all.py", "pytestmark = [pytest.mark.gpu, pytest.mark.slow]\n")
    tree("tests/b/test_words.py", "TEXT = '@pytest.mark.gpu'\n# pytest.mark.gpu\n")
    tree("tests/b/test_others.py", "@pytest.mark.slow\ndef test_it(): ...\n")
    assert gpu_test_files.gpu_test_files(tmp_path) == [one, all_of_it]


def test_a_file_lacks_what_any_module_lacks_that_is_loaded_with_it(
    tree: Callable[[str, str], Path], tmp_path: Path
) -> None:
    tree("tests/conftest.py", "import absent_of_conftest\n")
    tree("tests/support/helper.py", "import absent_of_helper.sub\n")
    tree("training/__init__.py", "")
    tree("training/deep/__init__.py", "import absent_of_package\n")
    tree("training/deep/module.py", "NAME = 1\n\ndef late():\n    import absent_later\n")
    text = (
        "import json\nimport numpy\nfrom helper import x\nfrom training.deep.module import NAME\n"
    )
    file = tree("tests/a/test_it.py", text)
    assert missing_packages(file, tmp_path) == [
        *("absent_of_conftest", "absent_of_helper", "absent_of_package")
    ]


def test_the_part_of_tests_names_these_files_and_says_which_it_leaves_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (whole, *_) = gpu_parts.parts(FULL, None)
    files = [word for word in whole.command if word.startswith("tests/")]
    assert "tests/training/engine/test_captured_step.py" in files
    assert all("mark.gpu" in (ROOT / file).read_text() for file in files)
    assert whole.note == ""

    real = importlib.util.find_spec

    def without_torchvision(name: str) -> ModuleSpec | None:
        return None if name == "torchvision" else real(name)

    monkeypatch.setattr(gpu_test_files, "find_spec", without_torchvision)
    (less, *_) = gpu_parts.parts(FULL, None)
    assert "tests/training/augmentation/test_augment.py" not in less.command
    assert "tests/training/augmentation/test_augment.py needs torchvision" in less.note
    assert "tests/runtime/backends/test_engine_gpu.py" in less.command
    assert less.lacks == ""
