"""What all commands share: one-line errors and exit codes."""

import argparse
import errno
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from runtime.__main__ import COMMANDS as COMMANDS_OF_RUNTIME
from runtime.base.command import folder_path, run_command
from runtime.base.errors import UserError
from runtime.commands import classify, evaluate
from training.config.options import option_parser

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("name", ["file/folder", "x" * 300])
def test_a_place_that_cannot_be_written_is_the_users_to_mend(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")

    def main(_: Sequence[str]) -> int:
        (tmp_path / name).mkdir()
        return 0

    with pytest.raises(SystemExit) as ended:
        run_command(main, extra="train")
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / name}: ")
    assert line.endswith("; choose another file or folder")


@pytest.mark.parametrize(
    ("number", "mend"),
    [
        (errno.ENOSPC, "No space left on device; free some space, or choose another"),
        (errno.EACCES, "Permission denied; choose another"),  # of a file that is read, too
        (errno.EFBIG, "File too large; choose another"),
        (errno.EBUSY, "Device or resource busy; choose another"),
        (errno.ENOENT, "No such file or directory; choose another"),
        (errno.EEXIST, "File exists; choose another"),
        (errno.ELOOP, "Too many levels of symbolic links; choose another"),
    ],
)
def test_what_the_system_refuses_is_named(
    number: int, mend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(_: Sequence[str]) -> int:
        raise OSError(number, os.strerror(number), "images.npy")

    with pytest.raises(SystemExit) as ended:
        run_command(main, extra="train")
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: images.npy: {mend}")


def test_a_folder_may_be_named_from_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shells leave `--out=~/runs` as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder_path("~/runs") == tmp_path / "runs"
    with pytest.raises(argparse.ArgumentTypeError, match="'~no-such-user/runs', whose home folder"):
        folder_path("~no-such-user/runs")


COMMANDS = [
    *(f"runtime.commands.{name}" for name in COMMANDS_OF_RUNTIME),
    *("export.run", "export.build_trt", "export.to_triton", "demo.app", "training.run"),
    *(f"training.{name}" for name in ("study", "tune", "evidence", "benchmark", "robustness")),
    *(f"training.{name}" for name in ("report", "sizes", "evaluate", "qat", "check_data")),
]


@pytest.mark.parametrize("name", COMMANDS)
def test_an_empty_word_is_refused_by_every_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Path("")` is the current folder: `classify MODEL "$UNSET"` would answer all pictures."""
    monkeypatch.chdir(tmp_path)
    main = importlib.import_module(name).main
    for words, named in (
        ([""], "an argument"),
        (["x", ""], "an argument"),
        (["--model", ""], "--model"),
        (["x", "--data=", "y"], "--data"),
    ):
        with pytest.raises(UserError, match=f"^{named}: received '', expected a value") as caught:
            main(words)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", [classify, evaluate])
def test_an_empty_word_between_options_is_refused_by_every_argparse(
    command: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From Python 3.13.1 on, `parse_known_intermixed_args` calls no `parse_known_args` of ours."""
    parser = argparse.ArgumentParser
    monkeypatch.setattr(parser, "parse_known_intermixed_args", parser.parse_known_args)
    with pytest.raises(UserError, match=r"^an argument: received '', expected a value"):
        command.main(["x", ""])


def test_an_empty_word_behind_two_dashes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^an argument: received ''"):
        classify.main([str(tmp_path), "--", ""])


def test_what_may_be_empty_or_ends_with_an_equals_sign_is_taken() -> None:
    options = option_parser().parse_args(["--arch", "a", "--columns=", "--set", "key="])
    assert (options.columns, options.set) == ("", ["key="])


@pytest.mark.parametrize("option", ["", "--json"])
def test_a_closed_output_is_no_mistake(option: str, tmp_path: Path) -> None:
    words = f'"$0" -m runtime doctor {option} >&-'
    ended = subprocess.run(
        ["sh", "-c", words, sys.executable], cwd=tmp_path, stderr=subprocess.PIPE, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_closed_errors_are_no_mistake_and_do_not_get_into_the_answers(
    toy_bundle: Path, tmp_path: Path
) -> None:
    words = '"$0" -m runtime classify "$1" "$1/examples" --json 2>&-'
    ended = subprocess.run(
        ["sh", "-c", words, sys.executable, toy_bundle], cwd=tmp_path, capture_output=True
    )
    assert ended.returncode == 0
    assert [set(json.loads(line)) for line in ended.stdout.splitlines()] == [
        {"path", "predictions"}
    ] * 3


# What a bare `pip install .` lacks, in the entry points that it brings nevertheless.
@pytest.mark.parametrize(
    ("entry", "missing", "extra"),
    [
        ("training.run", "yaml", "train"),
        ("training.run", "torch", "train"),
        ("training.study", "yaml", "train"),
        ("export.run", "onnx_ir", "export"),
        ("demo.app", "gradio", "demo"),
        ("runtime.__main__", "fastapi", "serve"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    entry: str, missing: str, extra: str, toy_bundle: Path, tmp_path: Path
) -> None:
    arguments = {
        "training.run": ["--arch", "mobilenetv2"],
        "training.study": ["--arch", "mobilenetv2"],
        "export.run": [str(tmp_path)],
        "demo.app": [str(toy_bundle)],
        "runtime.__main__": ["serve", str(toy_bundle), "--port", "0"],
    }[entry]
    (tmp_path / "checkpoint.pt").touch()
    program = (
        f"import sys; sys.modules[{missing!r}] = None; sys.argv[1:] = {arguments!r}; "
        f"from {entry} import command; command()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.splitlines()[-1] == (
        f"error: the package {missing} is not installed; `pip install '.[{extra}]'` in SKD Edge's "
        "folder brings all that this command needs"
    )


# Imports nothing but what a bare `pip install .` brings, and asks each entry point for its help.
BARE = """
import importlib, sys
from importlib.abc import MetaPathFinder
brought = {{"demo", "export", "runtime", "training", "msgspec", "numpy", "onnxruntime", "PIL"}}
class Bare(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in brought and top not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"No module named {{top!r}}", name=top)
sys.meta_path.insert(0, Bare())
sys.argv[1:] = ["--help"]
for entry in {entries}:
    try:
        importlib.import_module(entry).command()
    except SystemExit as ended:
        assert ended.code == 0, entry
"""


def test_every_command_has_its_help_where_no_extra_is_installed() -> None:
    scripts = [
        path for folder in ("demo", "export", "training") for path in ROOT.glob(f"{folder}/*.py")
    ]
    entries = sorted(
        f"{path.parent.name}.{path.stem}"
        for path in scripts
        if "\ndef command(" in path.read_text(encoding="utf-8")
    )
    assert len(entries) > 10
    ended = subprocess.run(
        [sys.executable, "-c", BARE.format(entries=entries)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("usage: ") == len(entries)


def checkout(folder: Path) -> Path:
    """What makes a checkout: its project file, one script, and the package that it needs."""
    (folder / "training").mkdir(parents=True)
    (folder / "pyproject.toml").touch()
    script = "from runtime.base.command import run_command\nrun_command(lambda _: 0, extra='x')\n"
    (folder / "training/script.py").write_text(script)
    shutil.copytree(ROOT / "runtime/base", folder / "runtime/base")
    shutil.copy(ROOT / "runtime/__init__.py", folder / "runtime")
    return folder


def test_a_script_never_runs_the_packages_of_another_checkout(tmp_path: Path) -> None:
    """An editable installation points to one checkout, also when scripts of another one run."""
    one, other = (checkout(tmp_path / name) for name in ("one", "the other"))

    def ended(script: Path, packages: Path) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, script],
            env={**os.environ, "PYTHONPATH": str(packages)},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stderr

    script = other / "training/script.py"
    assert ended(script, other) == (0, "")
    code, said = ended(script, one)
    assert code == 2
    assert said == (
        f"error: {script} is of the checkout {other}, but Python loads the packages of {one}; "
        f"expected one checkout; `make install` in {other} makes an environment of its own, or "
        f"set PYTHONPATH='{other}'\n"
    )
    # Installed packages lie beside no project file, and a script may be of no checkout.
    (one / "pyproject.toml").unlink()
    assert ended(script, one) == (0, "")
    assert ended(one / "training/script.py", other) == (0, "")
    # Links lead to what they name.
    (tmp_path / "link").symlink_to(other)
    assert ended(tmp_path / "link/training/script.py", other) == (0, "")
    assert ended(script, tmp_path / "link") == (0, "")


def test_a_program_of_an_environment_within_a_checkout_is_of_no_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`.venv/bin/skd-edge` of one checkout may serve another one by PYTHONPATH."""
    folder = checkout(tmp_path / "one")
    program = str(folder / ".venv/bin/program")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", program, raising=False)
    for prefix, code in ((folder / ".venv", 0), (tmp_path, 0), (tmp_path / "elsewhere", 2)):
        monkeypatch.setattr(sys, "prefix", str(prefix))
        with pytest.raises(SystemExit) as ended:
            run_command(lambda _: 0, extra="serve")
        assert ended.value.code == code
    assert "is of the checkout" in capsys.readouterr().err
