"""`python -m runtime classify` and `info`, as a user calls them."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from PIL import Image

from runtime.model.locate import find_model, latest_run

Run = Callable[..., CompletedProcess[str]]


def records(finished: CompletedProcess[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in finished.stdout.splitlines()]


def one_error(finished: CompletedProcess[str], *words: str) -> None:
    assert finished.returncode == 2
    assert len(finished.stderr.splitlines()) == 1
    assert finished.stderr.startswith("error: ")
    for word in words:
        assert word in finished.stderr


def test_labels_a_folder_in_order(command: Run, toy_bundle: Path, tmp_path: Path) -> None:
    folder = toy_bundle / "examples"
    words = ("-m", "runtime", "classify", toy_bundle, folder, "--json", "--top-k", "2")
    finished = command(*words, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    found = records(finished)
    assert [Path(str(record["path"])).stem for record in found] == ["blue", "green", "red"]
    for record in found:
        first, second = record["predictions"]
        assert first["label"] == Path(str(record["path"])).stem
        assert set(first) == {"label", "index", "probability"}
        assert 1 > first["probability"] > second["probability"] > 0


def test_what_is_hidden_in_a_folder_is_left_out(cli: Run, toy_bundle: Path, tmp_path: Path) -> None:
    red = toy_bundle / "examples" / "red.png"
    (tmp_path / ".trip" / "folder.jpg").mkdir(parents=True)
    for place in ("shown.png", ".hidden.png", ".thumbnails/a.png", "b/.cache/c/d.png"):
        target = tmp_path / ".trip" / place  # the folder itself was named: it may be hidden
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(red, target)
    finished = cli("classify", toy_bundle, tmp_path / ".trip", "--json")
    assert [Path(str(record["path"])).name for record in records(finished)] == ["shown.png"]
    assert (finished.returncode, "folder.jpg" in finished.stderr) == (0, False)


@pytest.mark.parametrize("words", [["--", "MODEL", "-x.png"], ["MODEL", "--json", "--", "-x.png"]])
def test_after_two_dashes_a_name_may_begin_with_one(
    words: list[str], cli: Run, toy_bundle: Path, tmp_path: Path
) -> None:
    shutil.copy(toy_bundle / "examples" / "red.png", tmp_path / "-x.png")
    finished = cli("classify", *[toy_bundle if word == "MODEL" else word for word in words])
    assert finished.returncode == 0, finished.stderr
    assert "-x.png" in finished.stdout
    assert "red" in finished.stdout


def test_a_name_that_is_no_text_is_answered_like_any_other(
    command: Run, toy_bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "names"
    folder.mkdir()
    shutil.copy(toy_bundle / "examples" / "red.png", os.fsencode(folder) + b"/a\xff.png")
    Path(os.fsdecode(os.fsencode(folder) + b"/b\xff.png")).write_text("not an image")
    finished = command("-m", "runtime", "classify", toy_bundle, folder, "--json", cwd=tmp_path)
    assert finished.returncode == 2
    whole, broken = records(finished)
    assert str(whole["path"]).endswith("a\N{REPLACEMENT CHARACTER}.png")
    assert whole["predictions"][0]["label"] == "red"
    assert "b\N{REPLACEMENT CHARACTER}.png: not a readable image" in str(broken["error"])


def test_a_terminal_that_lacks_a_character_shows_its_code(
    command: Run, toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(toy_bundle / "examples" / "red.png", tmp_path / "rötlich.png")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    words = ("-m", "runtime", "classify", toy_bundle, "rötlich.png")
    shown = command(*words, cwd=tmp_path, check=True)
    assert r"r\xf6tlich.png: red 95." in shown.stdout
    (record,) = records(command(*words, "--json", cwd=tmp_path, check=True))
    assert record["path"] == "rötlich.png"


def test_human_output_names_model_backend_and_label(cli: Run, toy_bundle: Path) -> None:
    finished = cli("classify", toy_bundle, toy_bundle / "examples" / "red.png")
    assert finished.returncode == 0
    heading, answer = finished.stdout.splitlines()
    assert "on onnx-cpu in fp32: the best that runs here" in heading
    assert "red.png: red 95." in answer
    assert finished.stderr == ""


def test_good_images_are_answered_beside_a_broken_one(
    cli: Run, toy_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_text("not an image")
    examples = toy_bundle / "examples"
    finished = cli(
        "classify", toy_bundle, examples / "red.png", "broken.jpg", examples / "blue.png"
    )
    one_error(finished, "broken.jpg", "not a readable image", "expected JPEG, PNG, WebP, BMP, GIF")
    assert [line.split(": ")[1][:3] for line in finished.stdout.splitlines()[1:]] == ["red", "blu"]
    as_json = cli("classify", toy_bundle, "--json", "broken.jpg", examples / "red.png")
    broken, good = records(as_json)
    assert broken["path"] == "broken.jpg"
    assert "not a readable image" in str(broken["error"])
    assert good["predictions"]


@pytest.mark.parametrize("kind", ["link to elsewhere", "run elsewhere", "folder"])
def test_the_newest_run_may_lie_elsewhere(
    kind: str, toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (disk := tmp_path / "disk").mkdir()
    (runs := tmp_path / "runs").mkdir()
    if kind == "folder":  # as a copy that follows links leaves it
        shutil.copytree(toy_bundle, runs / "latest" / "bundle")
        expected = Path("runs/latest")
    elif kind == "run elsewhere":
        shutil.copytree(toy_bundle, disk / "moved" / "bundle")
        (runs / "mine").symlink_to(disk / "moved")
        (runs / "latest").symlink_to("mine")
        expected = Path("runs/mine")
    else:
        shutil.copytree(toy_bundle, disk / "moved" / "bundle")
        (runs / "latest").symlink_to(disk / "moved")
        expected = disk / "moved"
    assert latest_run() == expected
    assert find_model(None) == expected / "bundle"


@pytest.mark.parametrize("kind", ["bundle", "run", "onnx", "latest"])
def test_model_may_be_named_in_four_ways(
    cli: Run, toy_bundle: Path, tmp_path: Path, kind: str
) -> None:
    shutil.copytree(toy_bundle, tmp_path / "runs" / "mine" / "bundle")
    (tmp_path / "runs" / "latest").symlink_to("mine")
    image = toy_bundle / "examples" / "green.png"
    model = {
        "bundle": ["runs/mine/bundle"],
        "run": ["runs/mine"],
        "onnx": ["runs/mine/bundle/model.fp16.onnx"],
        "latest": [],
    }[kind]
    finished = cli("classify", *model, image)
    assert finished.returncode == 0, finished.stderr
    assert "green.png: green" in finished.stdout
    assert ("model: runs/mine (runs/latest)" in finished.stdout) == (kind == "latest")
    assert ("fp16" in finished.stdout) == (kind == "onnx")


UNUSABLE = {
    "typo/bundle": "does not exist",
    "absent.png": "does not exist",
    "no-card": "has no card.json",
    "only-onnx": "has no card.json",
    "only-engines": "has no card.json",
    "run-of-no-card": "has no card.json",
    "run": "is a run without a bundle",
    "empty-run": "has no card.json",
    "MODEL.ONNX": "must end with .onnx in small letters",
    "model.engine": "naming the bundle",
    "weights.pt": "is not a bundle",
    "weights.safetensors": "is not a bundle",
    "bundle.zip": "is not a bundle",
    "card.json": "is not a bundle",
}


@pytest.mark.parametrize("first", UNUSABLE)
def test_a_first_argument_that_may_be_a_model_is_never_answered_by_another(
    first: str, cli: Run, toy_bundle: Path, tmp_path: Path
) -> None:
    """`runs/latest` is another model here, which would answer the images."""
    shutil.copytree(toy_bundle, tmp_path / "runs" / "latest" / "bundle")
    shutil.copytree(toy_bundle, tmp_path / "no-card")
    (tmp_path / "no-card" / "card.json").unlink()
    (tmp_path / "only-onnx").mkdir()
    shutil.copy(toy_bundle / "model.onnx", tmp_path / "only-onnx" / "mine.onnx")
    shutil.copytree(tmp_path / "no-card", tmp_path / "run-of-no-card" / "bundle")
    (tmp_path / "only-engines" / "engines").mkdir(parents=True)
    (tmp_path / "only-engines" / "engines" / "a.engine").touch()
    for run, file in (("run", "checkpoint.pt"), ("empty-run", "journal.jsonl")):
        (tmp_path / run).mkdir()
        (tmp_path / run / file).touch()
    for name in ("model.engine", "weights.pt", "weights.safetensors", "bundle.zip"):
        (tmp_path / name).write_bytes(b"content")
    shutil.copy(toy_bundle / "model.onnx", tmp_path / "MODEL.ONNX")
    shutil.copy(toy_bundle / "card.json", tmp_path / "card.json")
    shutil.copytree(toy_bundle / "examples", tmp_path / "run" / "pictures")
    red = toy_bundle / "examples" / "red.png"
    for words in ([first, red], [first, red, "--json"], ["--", first, red]):
        finished = cli("classify", *words)
        one_error(finished, first, UNUSABLE[first])
        assert finished.stdout == ""


def test_model_may_be_named_by_an_option(cli: Run, toy_bundle: Path, tmp_path: Path) -> None:
    red = toy_bundle / "examples" / "red.png"
    finished = cli("classify", "--model", toy_bundle, "absent.png", red, "--json")
    assert finished.returncode == 2
    broken, good = records(finished)
    assert (broken["path"], good["predictions"][0]["label"]) == ("absent.png", "red")
    one_error(cli("classify", "--model", "typo", red), "typo does not exist")
    one_error(cli("classify", "--model", toy_bundle), "no image was named")
    later = cli("classify", toy_bundle, red, "absent.png")  # stays an error of its own line
    one_error(later, "absent.png: cannot be read")
    assert "red.png: red" in later.stdout
    shutil.copytree(toy_bundle, tmp_path / "runs" / "latest" / "bundle")
    shutil.copytree(toy_bundle / "examples", tmp_path / "pictures" / "engines")  # a class
    assert cli("classify", "pictures").returncode == 0
    swapped = cli("classify", red, toy_bundle)
    one_error(swapped, "is a model", "--model")
    assert swapped.stdout == ""


@pytest.mark.parametrize("second", ["bundle", "run", "run-without-bundle", "bundle/model.onnx"])
@pytest.mark.parametrize("option", [(), ("--model",)])
def test_a_second_model_is_no_folder_of_pictures(
    second: str, option: tuple[str, ...], cli: Run, toy_bundle: Path, tmp_path: Path
) -> None:
    shutil.copytree(toy_bundle, tmp_path / "bundle")
    shutil.copytree(toy_bundle, tmp_path / "run" / "bundle")
    red = toy_bundle / "examples" / "red.png"
    shutil.copy(red, tmp_path / "run" / "curves.png")
    (tmp_path / "run-without-bundle").mkdir()
    for file in ("checkpoint.pt", "journal.jsonl"):
        (tmp_path / "run-without-bundle" / file).touch()
    shutil.copy(red, tmp_path / "run-without-bundle" / "curves.png")
    finished = cli("classify", *option, toy_bundle, red, second, "--json")
    one_error(finished, f"{second} is a model; one model answers")
    assert finished.stdout == ""


def test_pictures_may_lie_beside_somebodys_weights(
    cli: Run, toy_bundle: Path, tmp_path: Path
) -> None:
    shutil.copytree(toy_bundle / "examples", tmp_path / "walks")
    (tmp_path / "walks" / "checkpoint.pt").touch()
    answered = records(cli("classify", toy_bundle, "walks", "--json"))
    assert [answer["predictions"][0]["label"] for answer in answered] == ["blue", "green", "red"]


@pytest.mark.parametrize("name", ["info", "verify", "bench", "serve", "compare", "evaluate"])
def test_no_command_takes_another_model_for_a_misspelt_one(
    name: str, cli: Run, toy_bundle: Path, tmp_path: Path
) -> None:
    shutil.copytree(toy_bundle, tmp_path / "runs" / "latest" / "bundle")
    more = {"compare": [toy_bundle], "evaluate": [tmp_path], "serve": ["--port", "0"]}.get(name, [])
    finished = cli(name, "typo/bundle", *more)
    one_error(finished, "typo/bundle does not exist")
    assert "typo" not in finished.stdout


@pytest.mark.parametrize("option", [("--reconnect",), ("--every", "5")])
def test_options_of_a_video_are_refused_without_one(
    option: tuple[str, ...], cli: Run, toy_bundle: Path
) -> None:
    finished = cli("classify", toy_bundle, toy_bundle / "examples" / "red.png", *option)
    one_error(finished, f"{option[0]} does nothing without --video; leave it out")


def test_mistakes_are_one_line(cli: Run, toy_bundle: Path, tmp_path: Path) -> None:
    red = toy_bundle / "examples" / "red.png"
    (tmp_path / "empty").mkdir()
    one_error(cli("classify", red), "runs/latest does not exist", "training/run.py")
    one_error(cli("classify", toy_bundle), "no image was named")
    one_error(cli("classify", toy_bundle, "empty"), "empty", "nor a folder with images")
    one_error(cli("classify", toy_bundle, "absent.png"), "absent.png", "cannot be read")
    one_error(cli("classify", "absent.onnx", red), "absent.onnx does not exist")
    one_error(
        cli("classify", toy_bundle, red, "--top-k", "0"),
        "--top-k: received '0'",
        "expected a whole number above 0",
    )
    one_error(cli("classify", toy_bundle, red, "--backend", "gpu"), "'gpu'", "onnx-cpu")
    one_error(
        cli("classify", toy_bundle, red, "--backend", "tensorrt"),
        "tensorrt",
        "build_trt",
    )
    one_error(cli("classify", toy_bundle, red, "--backend", "onnx-cuda"), "doctor")
    one_error(cli("classify", toy_bundle, red, "--precision", "int8"), "int8", "fp32, fp16")
    one_error(cli("classify"), "no image was named", "--help")
    one_error(cli("info", "empty"), "empty", "is not a bundle")
    one_error(cli("guess"), "unknown command 'guess'", "classify")


def test_a_damaged_bundle_is_one_line(cli: Run, toy_bundle: Path, tmp_path: Path) -> None:
    red = toy_bundle / "examples" / "red.png"
    bundle = tmp_path / "bundle"
    shutil.copytree(toy_bundle, bundle)
    model = bundle / "model.onnx"
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    one_error(cli("classify", bundle, red), "model.onnx", "sha256", "export/run.py")
    model.unlink()
    one_error(cli("classify", bundle, red), "model.onnx", "cannot be read")
    (bundle / "card.json").write_text('{"schema_version": 1')
    one_error(cli("classify", bundle, red), "card.json is not a valid model card")
    (tmp_path / "text.onnx").write_text("text")
    one_error(cli("classify", "text.onnx", red), "text.onnx", "cannot be opened")


def test_info_for_people_and_programs(cli: Run, toy_bundle: Path) -> None:
    finished = cli("info", toy_bundle)
    assert finished.returncode == 0
    for words in ("toy", "red, green, blue", "32x32", "model.fp16.onnx: fp16, opset 20", "100.00%"):
        assert words in finished.stdout
    (card,) = records(cli("info", toy_bundle, "--json"))
    assert card == json.loads((toy_bundle / "card.json").read_text())
    (embedded,) = records(cli("info", toy_bundle / "model.onnx", "--json"))
    assert embedded == {**card, "files": [], "engines": []}


def test_a_folder_is_read_by_the_rules_of_training(
    cli: Run, toy_bundle: Path, tmp_path: Path
) -> None:
    red = (toy_bundle / "examples" / "red.png").read_bytes()
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.mkdir()
    (folder / "@eaDir").mkdir(parents=True)
    for file in ("without-suffix", "a.jfif", "wrong.bmp", "@eaDir/thumbnail.png"):
        (folder / file).write_bytes(red)
    (outside / "far.png").write_bytes(red)
    (folder / "notes.txt").write_text("of a trip")
    (folder / "linked").symlink_to(outside)
    (folder / "round").symlink_to(folder)
    finished = cli("classify", toy_bundle, folder, "--json")
    assert finished.returncode == 0, finished.stderr
    found = records(finished)
    assert [Path(str(record["path"])).name for record in found] == [
        "a.jfif",
        "far.png",
        "without-suffix",
        "wrong.bmp",
    ]
    assert {record["predictions"][0]["label"] for record in found} == {"red"}  # type: ignore[index]
    assert (
        f"note: {folder}: left out: folder read already 1, not an image 1, "
        "system file or folder 1\n" in finished.stderr
    )


def test_a_folder_without_images_says_what_it_holds(
    cli: Run, toy_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("of a trip")
    one_error(cli("classify", toy_bundle, tmp_path), "left out: not an image 1")


def test_values_of_few_bits_are_told_in_the_answer(
    cli: Run, toy_bundle: Path, tmp_path: Path
) -> None:
    for name, most in (("few", 4095), ("all", 65535)):
        values = np.linspace(0, most, 1600).astype(np.uint16).reshape(40, 40)
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    finished = cli("classify", toy_bundle, tmp_path / "all.png", tmp_path / "few.png", "--json")
    whole, few = records(finished)
    assert "warnings" not in whole
    (words,) = few["warnings"]  # type: ignore[misc]
    assert "end below 4096, as those of 12 bits do" in words
    assert few["predictions"]
    finished = cli("classify", toy_bundle, tmp_path / "few.png")
    assert finished.stderr == f"warning: {tmp_path / 'few.png'}: {words}\n"
    assert finished.returncode == 0
