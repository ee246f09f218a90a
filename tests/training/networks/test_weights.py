"""Where a student may start from."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torchvision import models

from runtime.base.errors import UserError
from training.config.archs import ARCHS, SHUFFLENET, SHUFFLENET_WIDTHS
from training.networks.students import build_student, classifier_name, torchvision_name
from training.networks.weights import pretrained_weights, start_from
from training.networks.weights_file import weights_from_file


@pytest.fixture
def downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Torchvision's cache with a MobileNetV2 in it, as if its weights had been downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    state = models.mobilenet_v2(num_classes=1000).state_dict()
    url = models.MobileNet_V2_Weights.DEFAULT.url
    path = tmp_path / "hub" / "checkpoints" / url.rsplit("/", 1)[1]
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    return state


def test_pretrained_weights_fit_all_but_the_classifier(
    downloaded: dict[str, torch.Tensor],
) -> None:
    student = build_student("mobilenetv2", num_classes=10, image_size=32)
    own = student.state_dict()["classifier.1.weight"].clone()
    said = start_from(student, pretrained_weights("mobilenetv2", 1.0), arch="mobilenetv2")
    assert said is not None
    assert "classifier is for 1000 classes" in said
    state = student.state_dict()
    assert torch.equal(state.pop("classifier.1.weight"), own)
    state.pop("classifier.1.bias")
    assert all(torch.equal(value, downloaded[name]) for name, value in state.items())


def test_with_as_many_classes_everything_is_loaded(downloaded: dict[str, torch.Tensor]) -> None:
    student = build_student("mobilenetv2", num_classes=1000, image_size=224)
    assert start_from(student, pretrained_weights("mobilenetv2", 1.0), arch="mobilenetv2") is None
    assert torch.equal(student.state_dict()["classifier.1.bias"], downloaded["classifier.1.bias"])


def _old_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As densenet121-a639ec97.pth and resnet18-f37072fd.pth are: no counters, `norm.1`."""
    return {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", name): value
        for name, value in state.items()
        if not name.endswith("num_batches_tracked")
    }


@pytest.mark.parametrize(
    ("arch", "width"),
    [(arch, 1.0) for arch in ARCHS]
    + [(SHUFFLENET, width) for width in SHUFFLENET_WIDTHS if width != 1],
)
@pytest.mark.parametrize("published", [dict, _old_names], ids=["new names", "old names"])
def test_every_student_starts_from_what_torchvision_publishes(
    arch: str,
    width: float,
    published: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Torchvision's own loader of these files is what they are compared with."""
    with torch.device("meta"):  # shapes and names are all that the students need here
        theirs = models.get_model(torchvision_name(arch, width)).state_dict()
        student = build_student(arch, num_classes=7, image_size=32, width=width)
    files = {
        name: torch.tensor(2.0).expand(value.shape) for name, value in published(theirs).items()
    }
    asked: list[str] = []

    def load(url: str, **_options: object) -> dict[str, torch.Tensor]:
        asked.append(url)
        return dict(files)

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", load)
    student.to_empty(device="cpu")
    for value in student.state_dict().values():
        value.fill_(1)
    said = start_from(student, pretrained_weights(arch, width), arch=arch)
    assert asked == [models.get_model_weights(torchvision_name(arch, width)).DEFAULT.url]
    assert said == (
        "the weights' classifier is for 1000 classes: it was left out and starts afresh"
    )
    own = {
        name
        for name, value in student.state_dict().items()
        if (value == 1).all() and not name.endswith("num_batches_tracked")
    }
    assert own == {f"{classifier_name(arch)}.weight", f"{classifier_name(arch)}.bias"}


@pytest.mark.parametrize(("arch", "last"), [("mobilenetv2", "classifier.1"), (SHUFFLENET, "fc")])
def test_a_classifier_of_several_layers_is_left_out(arch: str, last: str) -> None:
    """Also where one of them looks like the student's own."""
    student = build_student(arch, num_classes=10, image_size=32)
    own = {name: value.clone() for name, value in student.state_dict().items()}
    state = {name: torch.full_like(value, 2) for name, value in own.items()}
    state |= {f"{last}.3.weight": torch.zeros(10, 10), f"{last}.3.bias": torch.zeros(10)}
    said = start_from(student, state, arch=arch)
    assert said == (
        "the weights' classifier has other layers: it was left out and starts afresh; left out 2 "
        f"keys of the weights' file: {last}.3.weight, {last}.3.bias"
    )
    for name, value in student.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            expected = own[name] if name in (f"{last}.weight", f"{last}.bias") else state[name]
            assert torch.equal(value, expected), name


def test_there_is_one_width_of_pretrained_mobilenets() -> None:
    with pytest.raises(UserError, match=r"has mobilenetv2 at width 1.0 only, not 0.5"):
        pretrained_weights("mobilenetv2", 0.5)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            OSError("<urlopen error unreachable>"),
            r"cannot be downloaded .*or name a file with --weights",
        ),
        (
            RuntimeError('invalid hash value (expected "f37072fd", got "0a")'),
            r"cannot be downloaded .*\(invalid hash value",
        ),
    ],
)
def test_a_download_that_fails_is_one_line(
    error: Exception, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    with pytest.raises(UserError, match=expected):
        pretrained_weights("resnet18", 1.0)


def test_downloaded_weights_that_are_not_whole_are_one_line(
    downloaded: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    (file,) = (tmp_path / "hub" / "checkpoints").iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match=f"to {tmp_path}/hub or read there .* remove a broken file"):
        pretrained_weights("mobilenetv2", 1.0)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"epoch": 3}, "holds no state dict of tensors"),
        ([1, 2], "holds no state dict of tensors"),
        ({}, "holds no state dict of tensors"),
        ({"student": {}}, "holds no state dict of tensors"),
        ({"features.0.0.weight": torch.zeros(1)}, "lacks classifier.1.bias and"),
    ],
)
def test_files_that_are_no_weights(tmp_path: Path, content: object, expected: str) -> None:
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    student = build_student("mobilenetv2", num_classes=3, image_size=32)
    with pytest.raises(UserError, match=expected):
        start_from(student, weights_from_file(path), arch="mobilenetv2")


@pytest.mark.parametrize("kind", ["text", "empty", "cut off"])
def test_other_files_are_no_weights(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "weights.pt"
    torch.save(torch.zeros(99), path)
    content = {"text": b"hello", "empty": b"", "cut off": path.read_bytes()[:-99]}
    path.write_bytes(content[kind])
    with pytest.raises(UserError, match=r"weights.pt is no whole file of tensors; .*state_dict"):
        weights_from_file(path)


def test_an_absent_file_is_no_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"weights.pt cannot be read .*expected a .pt file"):
        weights_from_file(tmp_path / "weights.pt")
