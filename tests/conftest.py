"""Fixtures that every folder of tests shares."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.card import (
    INPUT_NAME,
    METADATA_KEY,
    MODEL_FILES,
    OUTPUT_NAME,
    PRECISION_KEY,
    SCHEMA_VERSION,
    Card,
    InputSpec,
    ModelFile,
    Parity,
    Provenance,
    json_from_card,
    write_card,
)

ROOT = Path(__file__).resolve().parent.parent

Command = Callable[..., subprocess.CompletedProcess[str]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--workspace",
        type=Path,
        help="keep the trained run of the tests here and use it again (for quick repetitions)",
    )


@pytest.fixture(scope="session")
def command() -> Command:
    """Runs `python ARGUMENTS` as a user would: `command("training/run.py", "--help", cwd=...)`."""

    def run(
        *arguments: str | Path, cwd: Path, check: bool = False, timeout: float = 900
    ) -> subprocess.CompletedProcess[str]:
        first, *rest = map(str, arguments)
        script = [str(ROOT / first)] if first.endswith(".py") else [first]
        finished = subprocess.run(
            [sys.executable, *script, *rest],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and finished.returncode != 0:
            output = f"{finished.stdout}\n{finished.stderr}"
            raise AssertionError(f"{arguments} exited with {finished.returncode}\n{output}")
        return finished

    return run


@pytest.fixture(scope="session")
def find_python() -> Callable[[str], str | None]:
    """Looks for an interpreter by its version, such as "3.10", on the PATH and among pyenv's."""

    def find(version: str) -> str | None:
        installed = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
        for candidate in (shutil.which(f"python{version}"), *map(str, installed)):
            if candidate is None:
                continue
            # A command of pyenv is on the PATH even for versions that it does not start.
            asked = subprocess.run([candidate, "-V"], capture_output=True, text=True, check=False)
            if f" {version}." in asked.stdout:
                return candidate
        return None

    return find


@pytest.fixture(scope="session")
def workspace(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, command: Command
) -> Path:
    """A folder in which the user's first command has run: `runs/latest` is a full default run."""
    kept: Path | None = request.config.getoption("--workspace")
    folder = kept.resolve() if kept else tmp_path_factory.mktemp("workspace")
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "runs" / "latest" / "result.json").exists():
        command(
            "training/run.py", "--arch", "mobilenetv2", "--drg", "--dsr", cwd=folder, check=True
        )
    return folder


@pytest.fixture(scope="session")
def trained_run(workspace: Path) -> Path:
    """The run folder of `python training/run.py --arch mobilenetv2 --drg --dsr`."""
    return (workspace / "runs" / "latest").resolve()


@pytest.fixture(scope="session")
def trained_bundle(trained_run: Path, workspace: Path, command: Command) -> Path:
    """Its bundle with every precision. Read only: copy it before changing anything."""
    bundle = trained_run / "bundle"
    if not (bundle / "model.int8-cpu.onnx").exists():
        command(
            "export/run.py", trained_run, "--precision", "fp32,fp16,int8", cwd=workspace, check=True
        )
    return bundle


TOY_SIZE = 32
TOY_CLASSES = ("red", "green", "blue")


@pytest.fixture(scope="session")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that names the strongest colour of an image: fp32, fp16, no training, no torch.

    Read only: copy it before changing anything.
    """
    bundle = tmp_path_factory.mktemp("toy") / "bundle"
    (bundle / "examples").mkdir(parents=True)
    images, labels = toy_images(per_class=8)
    for name, image in zip(TOY_CLASSES, images[:3], strict=True):
        Image.fromarray(image).save(bundle / "examples" / f"{name}.png")
    logits = 8.0 * images.mean(axis=(1, 2)) / 255
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)
    np.savez(bundle / "holdout.npz", images=images, labels=labels, probabilities=probabilities)
    card = toy_card()
    parity = Parity(
        images=len(images), top1=1.0, reference_top1=1.0, agreement=1.0, max_difference=1e-6
    )
    files = []
    for precision in ("fp32", "fp16"):
        content = toy_onnx(card, precision)
        (bundle / MODEL_FILES[precision]).write_bytes(content)
        files.append(
            ModelFile(
                path=MODEL_FILES[precision],
                sha256=hashlib.sha256(content).hexdigest(),
                precision=precision,
                opset=20,
                exporter="onnx.helper",
                parity=parity,
            )
        )
    write_card(bundle, toy_card(files=tuple(files)))
    return bundle


def toy_images(*, per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy reds, greens and blues in turn: uint8 (N, 32, 32, 3), int64 (N,)."""
    rng = np.random.default_rng(0)
    labels = np.arange(3 * per_class) % 3
    images = rng.integers(0, 120, (len(labels), TOY_SIZE, TOY_SIZE, 3), dtype=np.uint8)
    images[np.arange(len(labels)), :, :, labels] += 120
    return images, labels


def toy_card(*, files: tuple[ModelFile, ...] = ()) -> Card:
    return Card(
        schema_version=SCHEMA_VERSION,
        arch="toy",
        class_names=TOY_CLASSES,
        input=InputSpec(
            size=TOY_SIZE, resize=TOY_SIZE, crop=TOY_SIZE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
        ),
        temperature=1.0,
        provenance=Provenance(
            run="toy",
            data="colours",
            terms="ce",
            seed=0,
            epochs=1,
            top1=1.0,
            top5=1.0,
            ece=0.01,
            params=12,
            macs=9,
            checkpoint_sha256="0" * 64,
        ),
        files=files,
    )


def toy_onnx(card: Card, precision: str) -> bytes:
    """softmax(8 * mean colour in [0, 1]), with the card inside."""
    from onnx import TensorProto, helper, numpy_helper

    dtype, kind = {
        "fp32": (np.float32, TensorProto.FLOAT),
        "fp16": (np.float16, TensorProto.FLOAT16),
    }[precision]
    constants = {
        "axes": np.array([1, 2], np.int64),
        "weight": (8 / 255 * np.eye(3)).astype(dtype),
        "bias": np.zeros(3, dtype),
    }
    nodes = [
        helper.make_node("Cast", [INPUT_NAME], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        helper.make_node("Cast", ["mean"], ["colour"], to=kind),
        helper.make_node("Gemm", ["colour", "weight", "bias"], ["scaled"]),
        helper.make_node("Cast", ["scaled"], ["logits"], to=TensorProto.FLOAT),
        helper.make_node("Softmax", ["logits"], [OUTPUT_NAME], axis=1),
    ]
    size = card.input.size
    shape = ["batch", size, size, 3]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    metadata = {METADATA_KEY: json_from_card(card).decode(), PRECISION_KEY: precision}
    helper.set_model_props(model, metadata)
    content: bytes = model.SerializeToString()
    return content
