"""Commands that can be pasted, names that move no cursor, errors that can be pickled."""

import json
import pickle
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from runtime.base import command, errors
from runtime.base.shown_text import on_terminal, pasted
from runtime.commands import compare, evaluate
from runtime.model.bundle import open_bundle, rebuild_command
from runtime.model.card_json import card_from_json

Run = Callable[..., CompletedProcess[str]]


@pytest.mark.parametrize(
    "path", ["my runs/a", "it's", "$HOME/x", "a;b", "back`tick", 'quote"d', "new\nline"]
)
def test_a_path_in_a_command_is_one_word(path: str) -> None:
    assert shlex.split(f"python export/run.py {pasted(Path(path))}")[2:] == [path]


def test_printed_commands_can_be_pasted(cli: Run, toy_bundle: Path, tmp_path: Path) -> None:
    run = tmp_path / "my run; 2"
    run.mkdir()
    (run / "checkpoint.pt").touch()
    finished = cli("info", run)
    command = finished.stderr.split("`")[1]
    assert shlex.split(command) == ["python", "export/run.py", str(run)]
    shutil.copytree(toy_bundle, run / "bundle")
    bundle = open_bundle(run / "bundle")
    words = shlex.split(rebuild_command(bundle, bundle.card.files[0]).strip("`"))
    assert words == ["python", "export/run.py", str(run), "--precision", "fp32"]


def test_a_path_that_begins_with_a_dash_is_no_option() -> None:
    assert pasted(Path("-out/a")) == "./-out/a"


def test_an_error_keeps_the_spaces_of_a_path(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.fail(f"no bundle\n  in it; `x {pasted(Path('my  runs'))}`\n", 2) == 2
    assert capsys.readouterr().err == "error: no bundle in it; `x 'my  runs'`\n"


def test_control_characters_are_shown_by_their_codes() -> None:
    assert on_terminal("a\x1b[31mb\r\nc\x9bd\u202egnp.exe\u2028") == (
        r"a\x1b[31mb\r\nc\x9bd\u202egnp.exe\u2028"
    )
    plain = "größe 猫 🙂 👩\u200d🔬 עברית"
    assert on_terminal(plain) == plain


def test_names_with_control_characters_are_harmless(
    cli: Run, toy_bundle: Path, tmp_path: Path
) -> None:
    card = json.loads((toy_bundle / "card.json").read_text())
    card["class_names"][0] = "re\x1b[2Jd"
    bundle = tmp_path / "bundle"
    shutil.copytree(toy_bundle, bundle)
    (bundle / "card.json").write_text(json.dumps(card))
    (tmp_path / "in").mkdir()
    shutil.copy(toy_bundle / "examples" / "red.png", tmp_path / "in" / "a\nb\x1b.png")
    (tmp_path / "in" / "c\x07.png").write_text("no image")
    finished = cli("classify", bundle, "in")
    assert finished.returncode == 2
    assert r"in/a\nb\x1b.png: re\x1b[2Jd 95." in finished.stdout
    assert r"c\x07.png: not a readable image" in finished.stderr
    for text in (finished.stdout, finished.stderr, cli("info", bundle).stdout):
        assert "\x1b" not in text
        assert "\x07" not in text
    (record, _) = map(json.loads, cli("classify", bundle, "in", "--json").stdout.splitlines())
    assert record["path"] == "in/a\nb\x1b.png"  # JSON has its own escapes


def test_names_in_labelled_folders_are_harmless(
    toy_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "new\n\x1b[2Jdata"
    (data / "red").mkdir(parents=True)
    shutil.copy(toy_bundle / "examples" / "red.png", data / "red" / "a\x1b.png")
    (data / "red" / "b\x07\n.png").write_text("no image")
    model, out = str(toy_bundle), str(tmp_path / "out\x1b")
    assert evaluate.main([model, str(data), "--out", out, "--no-error-sheet"]) == 0
    assert compare.main([model, model, str(data)]) == 0
    said = capsys.readouterr()
    assert r"new\n\x1b[2Jdata/red/b\x07\n.png: not a readable image" in said.err
    for text in (said.out, said.err):
        assert not {"\x1b", "\x07"} & set(text)
        assert not any(line.startswith((".png", "\x1b")) for line in text.splitlines())


def test_a_card_with_a_byte_order_mark_is_read(toy_bundle: Path) -> None:
    text = (toy_bundle / "card.json").read_bytes()
    plain = card_from_json(text, source="card")
    assert card_from_json(b"\xef\xbb\xbf" + text, source="card") == plain
    assert card_from_json("\ufeff" + text.decode(), source="card") == plain


def all_errors(kind: type[Exception] = errors.SkdEdgeError) -> list[type[Exception]]:
    return [kind, *(found for below in kind.__subclasses__() for found in all_errors(below))]


def test_every_error_can_be_pickled() -> None:
    kinds = all_errors()
    assert errors.GpuError in kinds
    for kind in kinds:
        if kind.__module__ != "runtime.base.errors":
            continue
        error = kind("why", remedy="how") if kind is errors.GpuError else kind("why")
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy), vars(copy)) == (kind, "why", vars(error))
