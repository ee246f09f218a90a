"""Data that moved or got another name go on if their content is the same, and only then."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from runtime.base.errors import UserError
from training import run
from training.config.plan import MovedData, differences, moved_words, same_images
from training.data import load_dataset
from training.records.checkpoint import Checkpoint, load_trained, read_checkpoint, save_checkpoint
from training.records.run_data import load_run_dataset

COUNT = 100  # images of each class and split: the old digest looks at 64 of a split


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 16 px in train/ and test/."""
    root = tmp_path_factory.mktemp("pictures") / "pets"
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for name, level in (("cat", 60), ("dog", 180)):
            (root / split / name).mkdir(parents=True)
            for number in range(COUNT):
                pixels = generator.integers(level, level + 60, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number:03}.png")
    return root


@pytest.fixture(scope="module")
def options(tiny_recipe_file: Path) -> list[str]:
    return [
        *("--arch", "mobilenetv2", "--width", "0.25", "--device", "cpu", "--image-size", "16"),
        *("--recipe", str(tiny_recipe_file), "--epochs", "1"),
    ]


@pytest.fixture(scope="module")
def trained(pictures: Path, options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run. Read only."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert run.main([*options, "--data", str(pictures), "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def unsampled(pictures: Path) -> list[Path]:
    """The test pictures that the old digest does not look at."""
    files = sorted((pictures / "test").rglob("*.png"))
    sampled = set(np.linspace(0, len(files) - 1, 64).astype(int).tolist())
    return [file for row, file in enumerate(files) if row not in sampled]


def with_plan(run_folder: Path, **changes: object) -> None:
    """Writes changes of the plan into a run's checkpoint."""
    path = run_folder / "checkpoint.pt"
    checkpoint = read_checkpoint(path)
    plan = msgspec.structs.replace(checkpoint.plan, **changes)
    save_checkpoint(path, replace(checkpoint, plan=plan))


def test_a_run_states_both_digests(trained: Path) -> None:
    plan = load_trained(trained).plan
    dataset = load_run_dataset(load_trained(trained))
    assert (plan.data_digest, plan.content_digest) == (dataset.digest(), dataset.content_digest())
    result = json.loads((trained / "result.json").read_text())
    assert result["data_digest"] == plan.data_digest
    assert result["content_digest"] == plan.content_digest


def test_pictures_that_the_old_digest_does_not_look_at_are_found(
    trained: Path, pictures: Path, here: Path, options: list[str]
) -> None:
    copy = shutil.copytree(pictures, here / "pets")
    files = unsampled(copy)
    assert len(files) == 2 * COUNT - 64
    shutil.copy(copy / "test" / "dog" / "001.png", files[3])
    moved = MovedData(str(copy))
    with pytest.raises(UserError, match="other images or labels than") as error:
        load_run_dataset(load_trained(trained), moved)
    assert "\n" not in str(error.value)
    old = shutil.copytree(trained, here / "run")
    with pytest.raises(UserError, match="data: pets now has other images or labels"):
        run.main([*options, "--data", str(copy), "--out", str(old), "--resume"])
    with_plan(old, content_digest="")  # as runs were before: their digest does not see it
    load_run_dataset(load_trained(old), moved)


@pytest.mark.parametrize("name", ["pets", "animals"])
@pytest.mark.parametrize("known_by", ["both digests", "the old digest"])
def test_moved_and_renamed_data_go_on(
    trained: Path,
    pictures: Path,
    here: Path,
    options: list[str],
    name: str,
    known_by: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = shutil.copytree(pictures, here / "elsewhere" / name)
    folder = shutil.copytree(trained, here / "run")
    if known_by == "the old digest":
        with_plan(folder, content_digest="")
    assert run.main([*options, "--data", str(copy), "--out", str(folder), "--resume"]) == 0
    said = capsys.readouterr().out
    assert f"the data are in {copy} and were in {pictures}: they hold the same images" in said
    assert ("the run still calls them pets" in said) is (name != "pets")
    assert load_run_dataset(load_trained(folder), MovedData(str(copy))).name == name


def test_nothing_is_said_of_data_that_lie_where_they_lay(
    trained: Path, pictures: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run.main([*options, "--data", str(pictures), "--out", str(trained), "--resume"])
    said = capsys.readouterr().out
    assert "nothing to resume" in said
    assert "the data are in" not in said


def test_an_unfinished_run_is_found_by_the_content_of_its_data(
    pictures: Path, here: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """`--resume` without `--out`: the run's folder has the former name of the data."""
    assert run.main([*options, "--data", str(pictures)]) == 0
    (here / "runs" / "pets-mobilenetv2-ce-s0" / "result.json").unlink()
    former = json.loads((here / "runs" / "latest" / "journal.jsonl").read_text().splitlines()[0])
    copy = shutil.copytree(pictures, here / "animals")
    capsys.readouterr()
    assert run.main([*options, "--data", str(copy), "--resume"]) == 0
    said = capsys.readouterr().out
    assert "run folder runs/pets-mobilenetv2-ce-s0" in said
    assert "the run still calls them pets" in said
    result = json.loads((here / "runs" / "latest" / "result.json").read_text())
    assert result["data"] == "pets"
    assert former["epoch"] == 1
    # Other images of that name begin a run of their own.
    shutil.copy(copy / "test" / "dog" / "001.png", unsampled(copy)[0])
    assert run.main([*options, "--data", str(copy), "--resume"]) == 0
    assert "run folder runs/animals-mobilenetv2-ce-s0" in capsys.readouterr().out


def test_a_run_that_learned_int8_is_passed_over(
    pictures: Path, here: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """It is newer than its source, and its checkpoint has the plan of that."""
    assert run.main([*options, "--data", str(pictures)]) == 0
    source = here / "runs" / "pets-mobilenetv2-ce-s0"
    learned = shutil.copytree(source, source.with_name(f"{source.name}-int8"))
    path = learned / "checkpoint.pt"
    save_checkpoint(path, replace(read_checkpoint(path), learned={"int8": {}}))
    copy = shutil.copytree(pictures, here / "animals")
    capsys.readouterr()
    assert run.main([*options, "--data", str(copy), "--resume"]) == 0
    assert "runs/pets-mobilenetv2-ce-s0 is finished: nothing to resume" in capsys.readouterr().out


def test_a_checkpoint_of_something_else_is_passed_over(
    pictures: Path, here: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    broken = here / "runs" / "other-mobilenetv2-ce-s0"
    broken.mkdir(parents=True)
    (broken / "checkpoint.pt").write_bytes(b"no checkpoint")
    assert run.main([*options, "--data", str(pictures), "--resume"]) == 0
    assert "run folder runs/pets-mobilenetv2-ce-s0" in capsys.readouterr().out


def test_data_that_are_gone_are_one_line_that_names_the_way_on(trained: Path, here: Path) -> None:
    folder = shutil.copytree(trained, here / "run")
    with_plan(folder, data_argument=str(here / "gone"))
    with pytest.raises(UserError, match=r"gone, which is not there; .* with --data") as error:
        load_run_dataset(load_trained(folder))
    assert "\n" not in str(error.value)


def test_an_empty_folder_in_the_place_of_the_data_names_the_way_on(
    trained: Path, here: Path
) -> None:
    """A disk that is not mounted leaves one."""
    folder = shutil.copytree(trained, here / "run")
    (here / "mounted").mkdir()
    with_plan(folder, data_argument=str(here / "mounted"))
    with pytest.raises(UserError, match=r"if the data of .* lie elsewhere now, .*--data$") as error:
        load_run_dataset(load_trained(folder))
    assert "\n" not in str(error.value)


def test_digests_say_whether_two_plans_have_the_same_images(trained: Path) -> None:
    checkpoint: Checkpoint = read_checkpoint(trained / "checkpoint.pt")
    plan = checkpoint.plan

    def other(**changes: object) -> bool | None:
        return same_images(plan, msgspec.structs.replace(plan, **changes))

    assert other(data="animals", data_argument="/elsewhere") is True
    assert other(content_digest="") is True
    assert other(content_digest="0" * 64) is False
    assert other(data_digest="0" * 64) is False
    assert other(data_digest="", content_digest="") is None
    unknown = msgspec.structs.replace(plan, data_digest="", content_digest="", data="animals")
    assert differences(plan, unknown) == ["data: pets, now animals"]
    moved = msgspec.structs.replace(plan, data_argument="/elsewhere")
    assert "they hold the same images" in (moved_words(plan, moved) or "")
    former = msgspec.structs.replace(plan, data_digest="", content_digest="")
    assert moved_words(former, moved) == (
        f"the data are in /elsewhere and were in {plan.data_argument}"
    )
    assert moved_words(plan, plan) is None


def test_a_run_of_a_version_that_kept_the_form_of_whole_numbers_finds_its_data(
    pictures: Path, trained: Path, here: Path
) -> None:
    """A list with the classes "0.0" and "1.0" has "0" and "1" now."""
    for split in ("train", "test"):
        for number, name in enumerate(("cat", "dog")):
            shutil.copytree(pictures / split / name, here / "pets" / split / str(number))
    dataset = load_dataset("pets", image_size=16, progress=False)
    assert dataset.class_names == ("0", "1")
    former = replace(dataset, class_names=("0.0", "1.0"))
    run_of_today = load_trained(trained)
    plan = msgspec.structs.replace(
        run_of_today.plan,
        data_argument=str(here / "pets"),
        class_names=former.class_names,
        content_digest=former.content_digest(),
    )
    found = load_run_dataset(replace(run_of_today, plan=plan))
    assert found.class_names == ("0.0", "1.0")
