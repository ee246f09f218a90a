"""Fixtures that every folder of tests shares; how two processes share the tests (`make test`)."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from runtime.model.bundle import write_card
from runtime.model.card import (
    INPUT_NAME,
    METADATA_KEY,
    MODEL_FILES,
    OUTPUT_NAME,
    PRECISION_KEY,
    Card,
    InputSpec,
    ModelFile,
    Parity,
    Provenance,
)
from runtime.model.card_json import json_from_card

ROOT = Path(__file__).resolve().parent.parent

Command = Callable[..., subprocess.CompletedProcess[str]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--workspace",
        type=Path,
        help="keep the trained run of the tests here and use it again (for quick repetitions)",
    )


# --- two processes (pytest-xdist) ---

# What others wait for comes first, what is short comes last.
ORDER = ("test_documents.py", "test_architecture.py", "export", "training", "demo", "runtime")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if _shared_folder(config) is None:
        return

    def rank(item: pytest.Item) -> int:
        names = (item.path.name, *item.path.relative_to(ROOT / "tests").parts)
        return next((i for i, name in enumerate(ORDER) if name in names), len(ORDER))

    items.sort(key=rank)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file stays in one process, and all of export/, whose fixtures take a minute."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return "tests/export" if file.startswith("tests/export/") else file

    config.option.loadscopereorder = False  # the order is ours
    return ByFile(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """A test that is marked `alone` waits for the other process, which waits for it in turn."""
    shared = _shared_folder(item.config)
    alone = item.get_closest_marker("alone") is not None
    with turn(shared, alone=alone) if shared else nullcontext():
        return (yield)


def _shared_folder(config: pytest.Config) -> Path | None:
    """The temporary folder that all processes of this session know, if there are several."""
    return Path(config.getoption("basetemp")).parent if hasattr(config, "workerinput") else None


@contextmanager
def turn(folder: Path, *, alone: bool) -> Iterator[None]:
    with (folder / "turn.lock").open("a") as file:
        with FileLock(folder / "gate.lock"):  # whoever waits to be alone lets nobody pass
            fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        try:
            yield
        finally:  # by word, not by closing: a forked child may still hold the file open
            fcntl.flock(file, fcntl.LOCK_UN)


@pytest.fixture(scope="session")
def shared_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _shared_folder(request.config) or tmp_path_factory.getbasetemp()


@pytest.fixture(scope="session", autouse=True)
def cache_of_tests(shared_folder: Path) -> Iterator[None]:
    """Tests find nothing in the user's cache, and leave nothing there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKD_EDGE_CACHE", str(shared_folder / "cache"))
        yield


# --- commands as a user types them, and what they leave ---


def user_environment() -> dict[str, str]:
    """Without the single thread that `make test` gives its processes: a user has all cores."""
    return {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}


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
            env=user_environment(),
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
def copy_tree() -> Callable[[Path], dict[str, str]]:
    """Copies the tracked tree to a folder and links the installed environment in.

    It gives the environment of the commands that are run there.
    """

    def copy(folder: Path) -> dict[str, str]:
        listed = subprocess.run(
            ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        for name in listed.stdout.splitlines():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
        if not (folder / ".venv").is_symlink():
            (folder / ".venv").symlink_to(ROOT / ".venv")
        # The copy is what runs, not the tree that the environment was installed from.
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        changes = {"PATH": path, "PYTHONPATH": str(folder), "PYTHONUNBUFFERED": "1"}
        return user_environment() | changes

    return copy


@pytest.fixture(scope="session")
def triton_client_python() -> Path:
    """The interpreter of an environment that holds Triton's client."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = Path(tempfile.gettempdir()) / f"skd-edge-tritonclient-py{version}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        for command in (
            [sys.executable, "-m", "venv", str(folder)],
            [str(python), "-m", "pip", "install", "--quiet", "tritonclient[http]>=2.60"],
        ):
            made = subprocess.run(command, capture_output=True, text=True, check=False)
            if made.returncode != 0:
                last = (made.stderr.strip().splitlines() or ["no reason given"])[-1]
                pytest.skip(f"tritonclient cannot be installed here: {last}")
        (folder / "complete").touch()
    return python


@pytest.fixture(scope="session")
def is_installed() -> bool:
    """Whether `make` finds its environment up to date."""
    stamp = ROOT / ".venv" / "installed.stamp"
    declared = [ROOT / "pyproject.toml", ROOT / "constraints.txt"]
    newest = max(file.stat().st_mtime for file in declared)
    return stamp.exists() and stamp.stat().st_mtime >= newest


@pytest.fixture(scope="session")
def workspace(
    request: pytest.FixtureRequest,
    shared_folder: Path,
    copy_tree: Callable[[Path], dict[str, str]],
    is_installed: bool,
) -> Path:
    """A copy of the tree in which `make run` has run: `runs/latest` is a full default run.

    `story.json` has the seconds that it took and what it printed.
    """
    kept: Path | None = request.config.getoption("--workspace")
    folder = kept.resolve() if kept else shared_folder / "workspace"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "workspace.lock"):
        if not (folder / "story.json").exists():
            environment = copy_tree(folder)
            is_own = Path(sys.prefix).resolve() == (ROOT / ".venv").resolve()
            here = ["-o", ".venv/installed.stamp", f"BIN={Path(sys.executable).parent}"]
            started = time.monotonic()
            finished = subprocess.run(
                ["make", "run", *([] if is_installed and is_own else here)],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=900,
                check=False,
            )
            assert finished.returncode == 0, f"{finished.stdout}\n{finished.stderr}"
            story = {"seconds": time.monotonic() - started, "printed": finished.stdout}
            (folder / "story.json").write_text(json.dumps(story))
    return folder


@pytest.fixture(scope="session")
def trained_run(workspace: Path) -> Path:
    """The run folder of `python training/run.py --arch mobilenetv2 --drg --dsr`."""
    return (workspace / "runs" / "latest").resolve()


@pytest.fixture(scope="session")
def trained_bundle(trained_run: Path, workspace: Path, command: Command) -> Path:
    """Its bundle with every precision. Read only: copy it before changing anything."""
    bundle = trained_run / "bundle"
    with FileLock(workspace / "workspace.lock"):
        if not (bundle / "model.int8-cpu.onnx").exists():
            command("export/run.py", trained_run, "--precision", "int8", cwd=workspace, check=True)
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
        arch="toy",
        class_names=TOY_CLASSES,
        input=InputSpec(
            size=TOY_SIZE, resize=TOY_SIZE, crop=TOY_SIZE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
        ),
        temperature=1.0,
        provenance=Provenance(
            run="toy",
            data="colours",
            terms=("ce",),
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
