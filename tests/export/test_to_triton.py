"""`python export/to_triton.py`: the repository it writes, and what it refuses."""

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from export.to_triton import main
from export.triton_server.config import MARK, labels_text
from runtime.base.errors import BundleError, UserError
from runtime.model.bundle import read_card, write_card
from runtime.model.card import EngineRecord, Profile, Threshold

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "repository"


def add_engine(bundle: Path, **changes: object) -> EngineRecord:
    """Lists an engine whose content is only its name. The command does not load engines."""
    values = {"flavor": "tensorrt", "compute_capability": ("8.7",), **changes}
    card = read_card(bundle)
    path = f"engines/{len(card.engines)}.engine"
    (bundle / "engines").mkdir(exist_ok=True)
    (bundle / path).write_bytes(path.encode())
    engine = EngineRecord(
        path=path,
        sha256=hashlib.sha256(path.encode()).hexdigest(),
        precision="fp16",
        tensorrt_version="10.3.0",
        gpu_name="Orin",
        platform="Linux-aarch64",
        onnx_sha256=card.file("fp16").sha256,
        **{"profile": Profile(min=1, opt=4, max=16), **values},
    )
    write_card(bundle, msgspec.structs.replace(card, engines=(*card.engines, engine)))
    return engine


def warm_ups(config: str) -> list[int]:
    return [int(batch) for batch in re.findall(r"model_warmup .* batch_size: (\d+)", config)]


def model_folder(repository: Path) -> Path:
    (folder,) = repository.iterdir()
    return folder


def test_onnxruntime_gets_the_file_labels_and_batching(bundle: Path, repository: Path) -> None:
    assert main([str(bundle), "--out", str(repository)]) == 0
    folder = model_folder(repository)
    assert folder.name == "patterns-shufflenetv2"
    assert (folder / "1" / "model.onnx").read_bytes() == (bundle / "model.onnx").read_bytes()
    assert (folder / "labels.txt").read_text() == "red fox\nmoss\nsky\nsand\nnight\nsnow\n"
    config = (folder / "config.pbtxt").read_text()
    assert config.startswith(MARK)
    for line in ('backend: "onnxruntime"', "max_batch_size: 64", "dims: [16, 16, 3]", "dims: [6]"):
        assert line in config
    assert warm_ups(config) == [1, 64]
    assert "dynamic_batching { }" in config
    assert "KIND_AUTO" in config


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("_new", "new-shufflenetv2"),
        ("my pictures (2)", "my_pictures_2_-shufflenetv2"),
        ("数字", "shufflenetv2"),
        (".hidden", "hidden-shufflenetv2"),
        ("x" * 300, "x" * 100),
    ],
)
def test_the_name_is_one_for_any_data(
    bundle: Path, repository: Path, tmp_path: Path, data: str, expected: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    card = json.loads((copy / "card.json").read_text())
    card["provenance"]["data"] = data
    (copy / "card.json").write_text(json.dumps(card))
    assert main([str(copy), "--out", str(repository)]) == 0
    assert [folder.name for folder in repository.iterdir() if folder.is_dir()] == [expected]


def test_a_precision_is_taken_by_name(bundle: Path, repository: Path) -> None:
    arguments = [str(bundle), "--out", str(repository), "--precision", "int8-cpu"]
    assert main([*arguments, "--name", "fast"]) == 0
    served = repository / "fast" / "1" / "model.onnx"
    assert served.read_bytes() == (bundle / "model.int8-cpu.onnx").read_bytes()
    config = (repository / "fast" / "config.pbtxt").read_text()
    assert "KIND_CPU" in config  # a server with a GPU would run it there
    assert "parameters" not in config


def test_the_threshold_of_the_served_file_is_a_parameter(bundle: Path, repository: Path) -> None:
    card = read_card(bundle)
    threshold = Threshold(
        probability=0.75, max_error=0.05, confidence=0.9, coverage=0.8, images=200
    )
    first = msgspec.structs.replace(card.files[0], threshold=threshold)
    write_card(bundle, msgspec.structs.replace(card, files=(first, *card.files[1:])))
    assert main([str(bundle), "--out", str(repository)]) == 0
    config = (model_folder(repository) / "config.pbtxt").read_text()
    assert 'parameters { key: "threshold" value: { string_value: "0.75" } }' in config


def test_what_onnxruntime_would_garble_is_refused(bundle: Path, repository: Path) -> None:
    arguments = [str(bundle), "--out", str(repository), "--precision", "int8"]
    with pytest.raises(UserError, match=r"int8 file.*--precision int8-cpu, or --backend tensorrt"):
        main(arguments)
    assert not repository.exists()
    assert main([*arguments, "--backend", "python"]) == 0  # the runtime leaves the optimiser out


def test_a_precision_that_the_runtime_will_not_find_is_refused(
    bundle: Path, repository: Path
) -> None:
    card = read_card(bundle)
    kept = tuple(file for file in card.files if file.precision != "int8-cpu")
    write_card(bundle, msgspec.structs.replace(card, files=kept))
    arguments = [str(bundle), "--out", str(repository), "--precision", "int8-cpu"]
    for backend in ("python", "onnxruntime"):
        with pytest.raises(UserError, match=r"no ONNX file of int8-cpu, only of fp32, fp16, int8"):
            main([*arguments, "--backend", backend])
    assert not repository.exists()


def test_tensorrt_gets_the_engine_and_its_largest_batch(
    bundle: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = add_engine(bundle)
    add_engine(bundle, flavor="tensorrt-rtx", compute_capability=("8.6",))
    assert main([str(bundle), "--out", str(repository), "--backend", "tensorrt"]) == 0
    folder = model_folder(repository)
    assert (folder / "1" / "model.plan").read_bytes() == (bundle / engine.path).read_bytes()
    config = (folder / "config.pbtxt").read_text()
    assert "max_batch_size: 16" in config
    assert warm_ups(config) == [1, 4, 16]
    assert "KIND_GPU" in config
    assert "TensorRT must be 10.3.0, its GPU Orin" in capsys.readouterr().out


def test_python_gets_the_bundle_and_what_runs_it(bundle: Path, repository: Path) -> None:
    arguments = [str(bundle), "--out", str(repository), "--backend", "python"]
    assert main([*arguments, "--precision", "int8-cpu", "--max-batch", "4"]) == 0
    version = model_folder(repository) / "1"
    assert "class TritonPythonModel" in (version / "model.py").read_text()
    assert read_card(version / "bundle") == read_card(bundle)
    for file in read_card(bundle).files:
        assert (version / "bundle" / file.path).read_bytes() == (bundle / file.path).read_bytes()
    config = (version.parent / "config.pbtxt").read_text()
    assert 'key: "precision" value: { string_value: "int8-cpu" }' in config
    assert "max_batch_size: 4" in config
    assert warm_ups(config) == [1, 4]
    assert "KIND_CPU" in config


def test_python_is_warmed_up_at_the_batches_that_engines_are_tuned_for(
    bundle: Path, repository: Path
) -> None:
    add_engine(bundle, profile=Profile(min=1, opt=8, max=32))
    add_engine(bundle, flavor="tensorrt-rtx", compute_capability=("8.6",))
    arguments = [str(bundle), "--out", str(repository), "--backend", "python", "--name", "m"]
    config = repository / "m" / "config.pbtxt"
    assert main(arguments) == 0
    assert warm_ups(config.read_text()) == [1, 4, 8, 16]
    assert main([*arguments, "--max-batch", "6"]) == 0
    assert warm_ups(config.read_text()) == [1, 4, 6]


def test_writing_again_replaces_what_was_written(bundle: Path, repository: Path) -> None:
    arguments = [str(bundle), "--out", str(repository), "--name", "m"]
    assert main([*arguments, "--backend", "python"]) == 0
    assert main(arguments) == 0
    assert sorted(path.name for path in (repository / "m" / "1").iterdir()) == ["model.onnx"]
    assert [path.name for path in repository.iterdir()] == ["m"]


def test_labels_are_one_line_each(fitted_bundle: Path) -> None:
    card = msgspec.structs.replace(read_card(fitted_bundle), class_names=("a\nb", "c  d", "é"))
    assert labels_text(card) == "a b\nc d\né\n"


def test_a_folder_of_somebody_else_is_not_touched(bundle: Path, repository: Path) -> None:
    (repository / "m").mkdir(parents=True)
    (repository / "m" / "config.pbtxt").write_text('name: "m"')
    with pytest.raises(UserError, match="was not written by this command"):
        main([str(bundle), "--out", str(repository), "--name", "m"])
    assert (repository / "m" / "config.pbtxt").read_text() == 'name: "m"'


def test_a_bundle_or_a_run_is_no_repository(bundle: Path, tmp_path: Path) -> None:
    """Another export replaces a bundle whole, with what lies in it."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt").touch()
    for out, file in ((bundle, "card.json"), (tmp_path / "run", "checkpoint.pt")):
        former = sorted(out.iterdir())
        with pytest.raises(UserError, match=rf"holds a {file}; expected a folder of its own"):
            main([str(bundle), "--out", str(out)])
        assert sorted(out.iterdir()) == former


@pytest.mark.parametrize("name", ["a/b", "..", "a b", "-x"])
def test_a_name_that_is_no_folder_is_refused(name: str, bundle: Path, repository: Path) -> None:
    with pytest.raises(UserError, match="is no folder name"):
        main([str(bundle), "--out", str(repository), f"--name={name}"])


def test_engines_that_do_not_fit_are_refused(bundle: Path, repository: Path) -> None:
    arguments = [str(bundle), "--out", str(repository), "--backend", "tensorrt"]
    with pytest.raises(UserError, match=r"no fp16 engine of flavor tensorrt; build it"):
        main(arguments)
    with pytest.raises(UserError, match="no int8-cpu engines; choose one of fp16, fp32, int8"):
        main([*arguments, "--precision", "int8-cpu"])  # build_trt.py would refuse it too
    add_engine(bundle, profile=Profile(min=2, opt=4, max=8))
    with pytest.raises(UserError, match="takes batches from 2"):
        main(arguments)
    add_engine(bundle, compute_capability=("8.9",))
    with pytest.raises(UserError, match=r"several such engines.*8\.7, 8\.9"):
        main(arguments)
    chosen = [*arguments, "--compute-capability", "8.9"]
    with pytest.raises(UserError, match="beyond the engine's profile, which ends at 16"):
        main([*chosen, "--max-batch", "32"])
    assert main(chosen) == 0


def test_a_damaged_file_is_not_served(bundle: Path, repository: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(BundleError, match="is not the file that the card lists"):
        main([str(bundle), "--out", str(repository)])
    assert not repository.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "--out", "r"], "nowhere does not exist"),
        (["bundle"], "required: --out"),
        (["bundle", "--out", "r", "--backend", "vllm"], "invalid choice: 'vllm'"),
        (
            ["bundle", "--out", "r", "--max-batch", "0"],
            "expected a whole number above 0",
        ),
        (
            ["bundle", "--out", "r", "--max-batch", "2147483648"],
            "--max-batch 2147483648 is more than Triton's configuration can state",
        ),
        (
            ["bundle", "--out", "r", "--compute-capability", "8.6"],
            "--compute-capability does nothing without --backend tensorrt",
        ),
        (["bundle", "--out", "bundle/card.json"], "card.json is a file; expected a folder"),
        (["bundle", "--out", "r", "--name", ""], "--name: received '', expected a value"),
        (["bundle", "--out", "r", "--image", "a"], "--image does nothing without --kserve"),
        (["bundle", "--out", "r", "--storage-uri", "a"], "--storage-uri does nothing without"),
        (["bundle/model.onnx", "--out", "r"], "is a lone ONNX file"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], words: str, bundle: Path, tmp_path: Path, command: Command
) -> None:
    finished = command("export/to_triton.py", *arguments, cwd=tmp_path)
    assert finished.returncode == 2
    assert words in finished.stderr
    assert finished.stderr.count("\n") == 1
    assert "Traceback" not in finished.stderr + finished.stdout
