"""Small networks whose export takes a second or two, both students, and a small trained run."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from export.bundles.export_options import ExportOptions
from export.graphs.graph_edits import network_nodes
from export.graphs.to_onnx import ExportedGraph, export_graph, model_bytes
from export.pipeline import export_run
from runtime.backends.onnx_session import OnnxSession
from runtime.model.card import InputSpec
from runtime.model.locate import CHECKPOINT
from training.augmentation.augment import channel_statistics, normalise
from training.config.plan import Plan
from training.config.recipe import load_recipe
from training.data import Dataset, load_dataset
from training.networks.students import build_student
from training.records.checkpoint import Checkpoint, save_checkpoint

SIZE = 32
# Different in every channel: swapped channels or a wrong mean must show.
SPEC = InputSpec(size=SIZE, resize=SIZE, crop=SIZE, mean=(0.3, 0.5, 0.7), std=(0.2, 0.25, 0.35))
TEMPERATURE = 1.7
CLASSES = 5
STUDENTS = ("mobilenetv2", "shufflenetv2")

Run = Callable[[ir.Model], np.ndarray]


class Residual(nn.Module):
    """Every kind of convolution that the int8 rules know, and a residual addition."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = self._unit(3, 16)
        self.wide = self._unit(16, 16, groups=16)  # depthwise, a multiple of 8
        self.narrow = nn.Sequential(self._unit(16, 20), self._unit(20, 20, groups=20))
        self.back = nn.Sequential(nn.Conv2d(20, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.classifier = nn.Linear(16, CLASSES)

    @staticmethod
    def _unit(inputs: int, outputs: int, groups: int = 1) -> nn.Module:
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6())

    def forward(self, images: Tensor) -> Tensor:
        features = self.wide(self.stem(images))
        features = features + self.back(self.narrow(features))
        return self.classifier(features.mean((2, 3)))


def with_statistics(student: nn.Module, images: np.ndarray) -> nn.Module:
    """Gives BatchNorm statistics that folding must not lose, and logits that differ."""
    generator = torch.Generator().manual_seed(1)
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, std=0.3, generator=generator)
    pixels = (images / 255 - np.array(SPEC.mean)) / np.array(SPEC.std)
    batch = torch.from_numpy(pixels.transpose(0, 3, 1, 2)).float()
    student.requires_grad_(requires_grad=False).train()(batch)
    *_, linear = (module for module in student.modules() if isinstance(module, nn.Linear))
    logits = student.eval()(batch)
    # Each logit gets mean 0 and deviation 2 over the images: every class is the first of some.
    scale = 2 / logits.std(dim=0)
    linear.weight.mul_(scale[:, None])
    linear.bias.sub_(logits.mean(dim=0)).mul_(scale)
    return student


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """67 uint8 images of coloured blotches: a network tells them apart, unlike noise."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (67, 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(SIZE // 4, axis=1).repeat(SIZE // 4, axis=2)


@pytest.fixture(scope="session")
def spec() -> InputSpec:
    return SPEC


@pytest.fixture(scope="session")
def temperature() -> float:
    return TEMPERATURE


@pytest.fixture(scope="session")
def small(images: np.ndarray) -> nn.Module:
    torch.manual_seed(0)
    return with_statistics(Residual(), images)


@pytest.fixture(scope="session")
def small_graph(small: nn.Module) -> ExportedGraph:
    return export_graph(small, SPEC, TEMPERATURE)


@pytest.fixture(scope="session")
def legacy_graph(small: nn.Module) -> ExportedGraph:
    return export_graph(small, SPEC, TEMPERATURE, opset=17)


@pytest.fixture(scope="session")
def students(images: np.ndarray) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        arch: with_statistics(build_student(arch, num_classes=CLASSES, image_size=SIZE), images)
        for arch in STUDENTS
    }


@pytest.fixture(scope="session")
def student_graphs(students: dict[str, nn.Module]) -> dict[str, ExportedGraph]:
    """Both students, exported by torch's default exporter. This takes half a minute."""
    return {arch: export_graph(net, SPEC, TEMPERATURE) for arch, net in students.items()}


@pytest.fixture(scope="session")
def run(images: np.ndarray) -> Run:
    """Probabilities of `images` by a graph, with the session that a user gets."""

    def run_graph(model: ir.Model) -> np.ndarray:
        with OnnxSession(model_bytes(model, {}), source="test", backend="onnx-cpu") as session:
            return session.run(images)

    return run_graph


@pytest.fixture(scope="session")
def operators() -> Callable[[ir.Model, str], list[ir.Node]]:
    """The network's nodes of one operator."""
    return lambda model, op_type: [n for n in network_nodes(model.graph) if n.op_type == op_type]


# --- a run that took seconds: a small student that tells six coloured patterns apart ---

PATTERNS = ("red fox", "moss", "sky", "sand", "night", "snow")


@pytest.fixture(scope="session")
def patterns_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 training and 240 test images of 16 px as arrays."""
    folder = tmp_path_factory.mktemp("data") / "patterns"
    folder.mkdir()
    generator = np.random.default_rng(0)
    base = generator.integers(40, 216, (len(PATTERNS), 4, 4, 3)).repeat(4, axis=1).repeat(4, axis=2)
    for split, count in (("train", 600), ("test", 240)):
        labels = np.arange(count) % len(PATTERNS)
        noisy = base[labels] + generator.normal(scale=25, size=(count, 16, 16, 3))
        np.save(folder / f"{split}_images.npy", np.clip(noisy, 0, 255).astype(np.uint8))
        np.save(folder / f"{split}_labels.npy", labels)
    (folder / "classes.txt").write_text("\n".join(PATTERNS))
    return folder


@pytest.fixture(scope="session")
def patterns(patterns_folder: Path) -> Dataset:
    return load_dataset(str(patterns_folder))


@pytest.fixture(scope="session")
def fit_student(patterns: Dataset) -> Callable[[str, float], nn.Module]:
    """Makes a student of an architecture and a width that tells the patterns apart."""
    mean, std = channel_statistics(patterns.input, torch.device("cpu"))
    images = normalise(torch.from_numpy(np.array(patterns.train_images)), mean, std)
    labels = torch.from_numpy(patterns.train_labels.copy())

    def fit(arch: str, width: float) -> nn.Module:
        torch.manual_seed(0)
        student = build_student(arch, num_classes=len(PATTERNS), image_size=16, width=width)
        optimizer = torch.optim.Adam(student.train().parameters(), lr=3e-3)
        for _ in range(60):
            rows = torch.randint(0, len(labels), (64,))
            logits = student(images[rows])
            loss = nn.functional.cross_entropy(logits, labels[rows], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return student.eval()

    return fit


@pytest.fixture(scope="session")
def fitted_run(
    fit_student: Callable[[str, float], nn.Module],
    patterns: Dataset,
    patterns_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """An interrupted run without result.json; opset 17 exports it in a second. Read only."""
    student = fit_student("shufflenetv2", 0.5)
    folder = tmp_path_factory.mktemp("fitted") / "quick"
    folder.mkdir()
    plan = Plan(
        arch="shufflenetv2",
        width=0.5,
        methods=("ce",),
        data=patterns.name,
        data_argument=str(patterns_folder),
        data_root=None,
        class_names=patterns.class_names,
        input=patterns.input,
        seed=0,
        weights="random",
        recipe=load_recipe("digits"),
    )
    checkpoint = Checkpoint(
        plan=plan,
        epoch=1,
        step=0,
        student=student.state_dict(),
        raw_student=None,
        auxiliary=None,
        training={},
        terms=[],
        seconds=1.0,
        history=[{"epoch": 1, "loss": 1.0, "top1": 0.9}],
        temperature=0.8,
        finished=False,
    )
    save_checkpoint(folder / CHECKPOINT, checkpoint)
    return folder


@pytest.fixture(scope="session")
def fitted_bundle(fitted_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fitted run in all precisions, by the legacy exporter, which is quick. Read only."""
    bundle = tmp_path_factory.mktemp("exported") / "bundle"
    options = ExportOptions(
        precisions=("fp32", "fp16", "int8"), opset=17, calibration="minmax", out=bundle
    )
    exported = export_run(fitted_run, options, lambda _text: None)
    assert [outcome.complaint for outcome in exported.outcomes] == [None] * 4
    return bundle


@pytest.fixture
def bundle(fitted_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the fitted bundle, which a test may change."""
    copy = tmp_path / "bundle"
    shutil.copytree(fitted_bundle, copy)
    return copy


@pytest.fixture
def exported_run(fitted_run: Path, fitted_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the fitted run with its bundle, which a test may change."""
    copy = tmp_path / "quick"
    shutil.copytree(fitted_run, copy)
    shutil.copytree(fitted_bundle, copy / "bundle")
    return copy
