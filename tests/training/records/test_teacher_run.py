"""The run that teaches another one: what is checked, and what the taught run keeps of it."""

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from msgspec.structs import replace

from runtime.base.errors import UserError
from runtime.base.files import sha256_of
from training import run
from training.data import Dataset, load_dataset
from training.engine.interruption import InterruptedRunError, StopRequest
from training.engine.trainer import Trainer
from training.records.checkpoint import load_trained, read_checkpoint, save_checkpoint
from training.records.journal import Progress
from training.records.teacher_run import load_teacher


@pytest.fixture(scope="module")
def teacher(
    tiny_folder: Path, tiny_recipe_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished run of a ResNet18."""
    out = tmp_path_factory.mktemp("runs") / "big"
    options = ("--arch", "resnet18", "--data", str(tiny_folder), "--recipe", str(tiny_recipe_file))
    assert run.main([*options, "--device", "cpu", "--epochs", "1", "--out", str(out)]) == 0
    return out


@pytest.fixture
def data(tiny_folder: Path) -> Dataset:
    return load_dataset(str(tiny_folder))


def reordered(folder: Path, out: Path, names: list[str]) -> Path:
    """The tiny data with `names` as the order of its classes."""
    old = (folder / "classes.txt").read_text().split()
    out.mkdir()
    (out / "classes.txt").write_text("\n".join(names))
    for split in ("train", "test"):
        np.save(out / f"{split}_images.npy", np.load(folder / f"{split}_images.npy"))
        labels = np.load(folder / f"{split}_labels.npy")
        np.save(out / f"{split}_labels.npy", np.array([names.index(old[i]) for i in labels]))
    return out


def test_a_taught_run_names_its_teacher_and_deploys_a_plain_student(
    teacher: Path,
    tiny_options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run.main([*tiny_options, "--teacher", str(teacher)]) == 0
    assert f"taught by resnet18 x1 of {teacher} (top-1 " in capsys.readouterr().out
    out = Path("runs/tiny-mobilenetv2-drg+dsr+teacher-s0")
    digest = f"sha256:{sha256_of(teacher / 'checkpoint.pt')}"
    result = json.loads((out / "result.json").read_text())
    assert result["teacher"] == digest
    assert result["terms"] == "drg+dsr+teacher"
    assert "--teacher big" in result["command"]
    assert str(teacher) not in (out / "result.json").read_text()
    trained = load_trained(out)
    assert trained.plan.teacher == digest
    assert trained.plan.methods == ("ce", "drg", "dsr", "teacher")
    kept = read_checkpoint(out / "checkpoint.pt")
    assert kept.auxiliary is not None
    assert {name.partition(".")[0] for name in kept.auxiliary} == {"drg"}
    assert (out / "checkpoint.pt").stat().st_size < (teacher / "checkpoint.pt").stat().st_size / 5
    capsys.readouterr()
    with pytest.raises(UserError, match=r"holds another run \(teacher: sha256:.*, now ; terms:"):
        run.main([*tiny_options, "--out", str(out), "--resume"])


def test_resuming_a_taught_run_is_bit_equal(
    teacher: Path,
    data: Dataset,
    make_plan: Callable[..., object],
    tmp_path: Path,
    assert_equal_trees: Callable[[object, object], None],
) -> None:
    plan = replace(make_plan("drg"), methods=("ce", "drg", "teacher"), input=data.input)

    def train(stop: StopRequest, former: Path | None) -> Path:
        network = load_teacher(teacher, data).network
        trainer = Trainer(plan, data, device=torch.device("cpu"), teacher=network)
        if former is not None:
            trainer.restore(read_checkpoint(former))
        path = tmp_path / f"{stop.requested}-{former is not None}.pt"
        try:
            trainer.train(
                tmp_path,
                lambda left: save_checkpoint(path, left),
                Progress(epochs=2, quiet=True),
                stop,
            )
        except InterruptedRunError:
            assert stop.requested
        return path

    undisturbed = train(StopRequest(), None)
    stop = StopRequest()
    stop.requested = True
    resumed = train(StopRequest(), train(stop, None))
    assert_equal_trees(torch.load(resumed), torch.load(undisturbed))


def test_classes_in_another_order_are_mapped(
    teacher: Path, tiny_folder: Path, data: Dataset, tmp_path: Path
) -> None:
    other = load_dataset(str(reordered(tiny_folder, tmp_path / "o", ["striped", "dark", "bright"])))
    images = torch.randn(4, 3, 16, 16)
    plain, mapped = load_teacher(teacher, data), load_teacher(teacher, other)
    logits = plain.network(images)
    assert torch.equal(mapped.network(images), logits[:, [2, 0, 1]])
    assert len(plain.said) == 1
    assert "same classes in another order" in mapped.said[1]
    assert "was trained on other images or labels" in mapped.said[2]


def test_other_classes_are_refused(
    teacher: Path, tiny_folder: Path, tiny_options: list[str], tmp_path: Path
) -> None:
    """By the command, before it makes a folder."""
    other = reordered(tiny_folder, tmp_path / "o", ["dark", "bright", "striped"])
    (other / "classes.txt").write_text("dark\npale\nspotted")
    options = [str(other) if word == str(tiny_folder) else word for word in tiny_options]
    with pytest.raises(
        UserError,
        match=r"big answers other classes than the data have: it lacks 'pale' and 1 more, "
        r"and has 'bright' and 1 more; train a teacher",
    ):
        run.main([*options, "--teacher", str(teacher), "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_other_pixels_are_refused(teacher: Path, data: Dataset, tiny_folder: Path) -> None:
    larger = load_dataset(str(tiny_folder), image_size=24)
    with pytest.raises(
        UserError, match=r"trained at 16 px and this run is at 24 px; give --image-size 16, or"
    ):
        load_teacher(teacher, larger)
    brighter = msgspec.structs.replace(data.input, mean=(0.1, 0.2, 0.3))
    with pytest.raises(UserError, match=r"prepared in another way \(input mean .*\(0.1, 0.2, 0.3"):
        load_teacher(teacher, data.__class__(**{**vars(data), "input": brighter}))


def test_a_folder_that_is_no_finished_run_is_refused(
    teacher: Path, data: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"none does not exist; expected a run folder"):
        load_teacher(tmp_path / "none", data)
    former = read_checkpoint(teacher / "checkpoint.pt")
    content = {name: getattr(former, name) for name in former.__dataclass_fields__}
    (tmp_path / "run").mkdir()
    unfinished = former.__class__(**{**content, "finished": False})
    save_checkpoint(tmp_path / "run" / "checkpoint.pt", unfinished)
    with pytest.raises(UserError, match=r"run is not finished .*repeat its command with --resume"):
        load_teacher(tmp_path / "run", data)
