"""`python export/build_trt.py`: from a run or a bundle to engines, or a line that says why not."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from export import build_trt, pipeline
from export.build_trt import main, parse_profile
from export.bundles.export_options import ExportOptions
from export.engines import bundled_engines, flavors
from export.engines.flavors import TensorRt, TensorRtRtx
from runtime.backends import preflight
from runtime.backends.gpu import Gpu
from runtime.base.errors import BackendError, UserError
from runtime.model.bundle import read_card
from runtime.model.card import Profile

Command = Callable[..., subprocess.CompletedProcess[str]]
pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed (extra `rtx`)")


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[ExportOptions]:
    """What would have been exported."""
    asked: list[ExportOptions] = []
    monkeypatch.setattr(build_trt, "_export", lambda missing, **_: asked.append(missing.options))
    return asked


def drop(bundle: Path, precision: str) -> None:
    card = json.loads((bundle / "card.json").read_text())
    card["files"] = [file for file in card["files"] if file["precision"] != precision]
    (bundle / "card.json").write_text(json.dumps(card))


def test_without_a_gpu_the_desktop_generations_are_built(bundle: Path, monkeypatch) -> None:
    monkeypatch.setattr(flavors, "missing_gpu", lambda: "no GPU")
    built: list[tuple[str, ...]] = []
    monkeypatch.setattr(
        bundled_engines,
        "add_engine",
        lambda _bundle, _flavor, _model, target, *_: built.append(target),
    )
    monkeypatch.setattr(build_trt, "_show", lambda *_: None)
    assert main([str(bundle)]) == 0
    assert built == [("8.6", "8.9", "12.0")]


def test_on_a_gpu_that_rtx_does_not_know_the_portable_engine_is_built(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make run` goes on to its last step there, as without a GPU."""
    gpu = Gpu("NVIDIA H200", "9.0", 139 << 30, "13.0")
    for module in (flavors, preflight):
        monkeypatch.setattr(module, "missing_gpu", lambda: None)
        monkeypatch.setattr(module, "find_gpu", lambda: gpu)
    monkeypatch.setattr(preflight, "bindings_are_installed", lambda: True)
    monkeypatch.setattr(preflight, "bindings_mismatch", lambda _gpu: None)
    rtx = ["--flavor", "tensorrt-rtx"]
    assert main([str(bundle), *rtx]) == 0
    (engine,) = read_card(bundle).engines
    assert engine.compute_capability == ("8.6", "8.9", "12.0")
    assert (engine.parity, engine.threshold) == (None, None)
    told = capsys.readouterr().out
    assert "builds nothing for this GPU (NVIDIA H200, compute capability 9.0)" in told
    assert "not run: tensorrt-rtx does not support compute capability 9.0" in told
    with pytest.raises(UserError, match=r"capability 9\.0 is unknown to tensorrt-rtx"):
        main([str(bundle), *rtx, "--compute-capability", "9.0"])


def test_list_of_a_bundle_without_engines(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(bundle), "--list"]) == 0
    assert f"has no engines; `python export/build_trt.py {bundle}`" in capsys.readouterr().out


def test_the_builder_gets_a_gibibyte_or_half_of_what_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = SimpleNamespace(__version__="10.3.0")
    full, rtx = TensorRt(module, log=None), TensorRtRtx(module, log=None)
    monkeypatch.setattr(flavors, "free_gpu_memory", lambda: 8 << 30)
    assert build_trt._workspace(full, None) == 1 << 30
    monkeypatch.setattr(flavors, "free_gpu_memory", lambda: 1 << 30)
    assert build_trt._workspace(full, None) == 1 << 29
    assert build_trt._workspace(rtx, None) is None
    assert [build_trt._workspace(flavor, 256) for flavor in (full, rtx)] == [1 << 28] * 2


@pytest.mark.slow
def test_int8_for_8_6_is_exported_again_beside_what_is_there(
    exported_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_card(exported_run / "bundle")
    assert main([str(exported_run), "--compute-capability", "8.6"]) == 0
    assert main([str(exported_run), "--precision", "int8", "--compute-capability", "8.6"]) == 0
    assert "exporting int8 with opset 20" in capsys.readouterr().out
    card = read_card(exported_run / "bundle")
    assert [file.opset for file in card.files] == [17, 17, 20, 20]
    assert card.files[:2] == before.files[:2]
    assert [engine.precision for engine in card.engines] == ["fp16", "int8"]
    assert card.engines[1].onnx_sha256 == card.file("int8").sha256


def test_without_tensorrt_the_bundle_is_written_and_then_the_command_is_named(
    exported_run: Path, exports: list[ExportOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(exported_run / "bundle", "fp16")
    monkeypatch.setattr(flavors, "is_installed", lambda _name: False)
    with pytest.raises(
        BackendError,
        match=r"has its ONNX files.*no TensorRT is installed.*pip install tensorrt-rtx-cu13",
    ):
        main([str(exported_run)])
    assert [options.precisions for options in exports] == [("fp16",)]


@pytest.mark.parametrize("pictures", [True, False])
def test_a_bundle_with_a_corrupt_card_is_exported_anew(
    exported_run: Path, pictures: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets no pictures that it did not have."""
    asked: list[ExportOptions] = []
    monkeypatch.setattr(pipeline, "export_and_report", lambda _run, options: asked.append(options))
    monkeypatch.setattr(flavors, "is_installed", lambda _name: False)
    bundle = exported_run / "bundle"
    (bundle / "card.json").write_text("{")
    for name in ("errors.png", "validation.npz"):
        (bundle / name).unlink(missing_ok=True)
        if pictures:
            (bundle / name).write_bytes(b"")
    with pytest.raises(BackendError, match="no TensorRT is installed"):
        main([str(exported_run)])
    (options,) = asked
    assert options.precisions == ("fp32", "fp16")
    assert (options.error_sheet, options.validation_images) == (pictures, pictures)


def test_a_bundle_that_may_not_be_written_is_named_before_the_work(
    exported_run: Path, exports: list[ExportOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(exported_run / "bundle", "fp16")
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != exported_run / "bundle")
    with pytest.raises(UserError, match="bundle may not be written to by this user"):
        main([str(exported_run)])
    assert exports == []
    with pytest.raises(UserError, match="bundle may not be written to by this user"):
        main([str(exported_run), "--verify"])


@pytest.mark.parametrize("text", ["", "1", "1,2", "1,2,3,4", "0,1,2", "a,b,c", "1,2,-3", "1.5,2,3"])
def test_a_profile_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is not a profile; expected MIN,OPT,MAX"):
        parse_profile(text)


def test_a_profile_has_to_ascend() -> None:
    with pytest.raises(UserError, match="is not ascending"):
        parse_profile("8,1,64")
    assert parse_profile("1,1,1") == Profile(min=1, opt=1, max=1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere does not exist; expected a run or a bundle"),
        (["empty"], "empty is neither a run"),
        (["bundle", "--precision", "fp64"], "precision 'fp64' is unknown"),
        (["bundle", "--compute-capability", "9.0"], "9.0 is unknown to tensorrt-rtx"),
        (["bundle", "--batch", "4,2,8"], "batch '4,2,8' is not ascending"),
        (["bundle", "--workspace", "0"], "received '0', expected a whole number above 0"),
        (["bundle", "--workspace", "9" * 20], "expected at most 16777216 MiB"),
        (["bundle", "--flavor", "openvino"], "invalid choice: 'openvino'"),
        (["bundle", "--flavor", "tensorrt"], "no engine was built: tensorrt is not installed"),
        (["bundle", "--verify", "--precision", "int8"], "--precision does nothing beside --verify"),
        (["bundle", "--verify", "--batch", "1,2,4"], "--batch does nothing beside --verify"),
        (["bundle", "--list", "--verify"], "--verify does nothing beside --list"),
        ([], "runs/latest does not exist"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], words: str, bundle: Path, tmp_path: Path, command: Command
) -> None:
    (tmp_path / "empty").mkdir()
    finished = command("export/build_trt.py", *arguments, cwd=tmp_path)
    assert finished.returncode == 2
    assert words in finished.stderr
    assert finished.stderr.count("\n") == 1
    assert "Traceback" not in finished.stderr + finished.stdout


def test_engines_need_neither_torch_nor_onnx(
    bundle: Path, tmp_path: Path, command: Command
) -> None:
    code = (
        "import runpy, sys;"
        "sys.modules.update(dict.fromkeys(['torch', 'torchvision', 'onnx', 'onnx_ir', 'tqdm']));"
        f"sys.argv = ['build_trt.py', {str(bundle)!r}, '--compute-capability', '8.6'];"
        "runpy.run_module('export.build_trt', run_name='__main__')"
    )
    finished = command("-c", code, cwd=tmp_path)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert [engine.precision for engine in read_card(bundle).engines] == ["fp16"]


@pytest.mark.slow
def test_the_default_command_on_a_trained_run(
    trained_run: Path, trained_bundle: Path, tmp_path: Path, command: Command
) -> None:
    (tmp_path / "runs").mkdir()
    name = trained_run.name  # which the card, inside each file, names too
    shutil.copytree(trained_run, tmp_path / "runs" / name)
    shutil.rmtree(tmp_path / "runs" / name / "bundle")
    (tmp_path / "runs" / "latest").symlink_to(name)
    finished = command("export/build_trt.py", cwd=tmp_path, check=True)
    assert finished.stdout.startswith(f"run: runs/{name}\n")
    card = read_card(tmp_path / "runs" / name / "bundle")
    assert [file.precision for file in card.files] == ["fp32", "fp16"]
    assert [engine.compute_capability for engine in card.engines] == [("8.6", "8.9", "12.0")]
    digests = {file.precision: file.sha256 for file in read_card(trained_bundle).files}
    assert card.file("fp16").sha256 == digests["fp16"]
