"""`python export/build_trt.py`: from a run or a bundle to engines, or a line that says why not."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from export import build_trt
from export.build_trt import main, parse_profile
from export.bundles.export_options import ExportOptions
from export.bundles.gate import Parity
from export.engines import builder_memory as memory
from export.engines import bundled_engines as record
from export.engines import flavors
from export.engines import onnx_sources as place
from runtime.backends import engine_backends
from runtime.backends.preflight import Machine, this_platform
from runtime.base.errors import BackendError, BundleError, UserError, VerificationError
from runtime.base.files import sha256_of
from runtime.model.bundle import read_card, write_card
from runtime.model.card import Profile

Command = Callable[..., subprocess.CompletedProcess[str]]
pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed (extra `rtx`)")


@pytest.fixture
def bundle(fitted_bundle: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "bundle"
    shutil.copytree(fitted_bundle, copy)
    return copy


@pytest.fixture
def run(fitted_run: Path, fitted_bundle: Path, tmp_path: Path) -> Path:
    """A run with its bundle, less the float16 file."""
    copy = tmp_path / "quick"
    shutil.copytree(fitted_run, copy)
    shutil.copytree(fitted_bundle, copy / "bundle")
    return copy


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[ExportOptions]:
    """What would have been exported."""
    asked: list[ExportOptions] = []
    monkeypatch.setattr(build_trt, "_export", lambda _run, options: asked.append(options))
    return asked


def test_engines_are_listed_with_all_that_preflight_needs(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(bundle), "--precision", "fp32,fp16", "--compute-capability", "8.6,12.0"]) == 0
    told = capsys.readouterr().out
    card = read_card(bundle)
    assert [engine.path for engine in card.engines] == [
        "engines/model.fp32.tensorrt-rtx.sm86.engine",
        "engines/model.fp32.tensorrt-rtx.sm120.engine",
        "engines/model.fp16.tensorrt-rtx.sm86.engine",
        "engines/model.fp16.tensorrt-rtx.sm120.engine",
    ]
    for engine in card.engines:
        assert sha256_of(bundle / engine.path) == engine.sha256
        assert engine.onnx_sha256 == card.file(engine.precision).sha256
        assert engine.profile == Profile(min=1, opt=8, max=64)
        assert (engine.platform, engine.gpu_name) == (this_platform(), None)
        assert engine.tensorrt_version.startswith("1.")
        assert engine.parity is None
        assert engine.path in told
    assert told.count("not run: ") == 4
    assert main([str(bundle), "--list"]) == 0
    listed = capsys.readouterr().out
    assert all(engine.path in listed for engine in card.engines)


def test_building_again_replaces_the_record(bundle: Path) -> None:
    arguments = [str(bundle), "--compute-capability", "8.9"]
    assert main(arguments) == 0
    assert main([*arguments, "--batch", "2,4,8", "--optimization-level", "1"]) == 0
    (engine,) = read_card(bundle).engines
    assert engine.profile == Profile(min=2, opt=4, max=8)


def test_without_a_gpu_the_desktop_generations_are_built(bundle: Path, monkeypatch) -> None:
    monkeypatch.setattr(flavors, "missing_gpu", lambda: "no GPU")
    built: list[str] = []
    monkeypatch.setattr(
        record,
        "add_engine",
        lambda _bundle, _flavor, _model, capability, *_: built.append(capability),
    )
    monkeypatch.setattr(build_trt, "_table", lambda *_: "")
    assert main([str(bundle)]) == 0
    assert built == ["8.6", "8.9", "12.0"]


def test_list_of_a_bundle_without_engines(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(bundle), "--list"]) == 0
    assert f"has no engines; `python export/build_trt.py {bundle}`" in capsys.readouterr().out


def test_the_builder_gets_a_gibibyte_or_half_of_what_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    full, rtx = SimpleNamespace(name="tensorrt"), SimpleNamespace(name="tensorrt-rtx")
    monkeypatch.setattr(memory, "free_gpu_memory", lambda: 8 << 30)
    assert build_trt._workspace(full, None) == 1 << 30
    monkeypatch.setattr(memory, "free_gpu_memory", lambda: 1 << 30)
    assert build_trt._workspace(full, None) == 1 << 29
    assert build_trt._workspace(rtx, None) is None
    assert [build_trt._workspace(flavor, 256) for flavor in (full, rtx)] == [1 << 28] * 2


# --- which ONNX files are exported first ---


def ensure(path: Path, *precisions: str, newest_opset: int | None = 20) -> list[tuple[tuple, int]]:
    asked: list[tuple[tuple, int]] = []
    place.ensure_onnx(
        place.locate(path),
        precisions,
        newest_opset=newest_opset,
        allow_drop=False,
        export=lambda _run, options: asked.append((options.precisions, options.opset)),
    )
    return asked


def drop(bundle: Path, precision: str) -> None:
    card = json.loads((bundle / "card.json").read_text())
    card["files"] = [file for file in card["files"] if file["precision"] != precision]
    (bundle / "card.json").write_text(json.dumps(card))


def test_what_is_there_is_not_exported_again(run: Path, bundle: Path) -> None:
    assert ensure(run, "fp32", "fp16") == []
    assert ensure(bundle, "fp32", "fp16", "int8", newest_opset=17) == []
    assert ensure(bundle, "fp32", "fp16", "int8", newest_opset=None) == []


def test_a_missing_precision_is_exported_from_the_run(run: Path) -> None:
    drop(run / "bundle", "fp16")
    assert ensure(run, "fp16", "fp32") == [(("fp16",), 20)]
    assert ensure(run, "fp16", "int8", newest_opset=None) == [(("fp16",), 20)]


def test_a_run_without_a_bundle_also_gets_the_float32_file(run: Path) -> None:
    shutil.rmtree(run / "bundle")
    assert ensure(run, "fp16") == [(("fp32", "fp16"), 20)]


def test_a_corrupt_card_or_another_checkpoint_is_exported_anew(run: Path) -> None:
    (run / "bundle" / "card.json").write_text("{")
    assert ensure(run, "fp16") == [(("fp32", "fp16"), 20)]
    shutil.rmtree(run / "bundle")
    (run / "checkpoint.pt").write_bytes(b"trained again")
    assert ensure(run, "int8") == [(("fp32", "int8"), 20)]


def test_tensorrt_8_gets_an_opset_that_it_reads(run: Path) -> None:
    card = read_card(run / "bundle")
    assert ensure(run, "fp16", newest_opset=17) == []
    newer = [msgspec.structs.replace(file, opset=20) for file in card.files]
    write_card(run / "bundle", msgspec.structs.replace(card, files=tuple(newer)))
    assert ensure(run, "fp16", newest_opset=20) == []
    assert ensure(run, "fp16", newest_opset=17) == [(("fp16",), 17)]
    with pytest.raises(
        UserError, match=r"of opset 20, this TensorRT reads up to 17; .*fp16 --opset 17 --out"
    ):
        ensure(place.locate(run).bundle, "fp16", newest_opset=17)


@pytest.mark.parametrize("opset", [17, 18])
def test_int8_for_8_6_is_not_built_by_a_strongly_typed_version(run: Path, opset: int) -> None:
    """Its scales are float32, and all that is not int8 would be too."""
    card = read_card(run / "bundle")
    older = [msgspec.structs.replace(file, opset=opset) for file in card.files]
    write_card(run / "bundle", msgspec.structs.replace(card, files=tuple(older)))
    assert ensure(run, "fp16", "int8") == [(("int8",), 20)]
    with pytest.raises(
        UserError,
        match=rf"bundle has model\.int8\.onnx of opset {opset}, too old for this TensorRT, which "
        r"needs 19 or newer for int8; .*--precision int8 --opset 20 --out",
    ):
        ensure(run / "bundle", "fp16", "int8")


@pytest.mark.slow
def test_int8_for_8_6_is_exported_again_beside_what_is_there(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_card(run / "bundle")
    assert main([str(run), "--compute-capability", "8.6"]) == 0
    assert main([str(run), "--precision", "int8", "--compute-capability", "8.6"]) == 0
    assert "exporting int8 with opset 20" in capsys.readouterr().out
    card = read_card(run / "bundle")
    assert [file.opset for file in card.files] == [17, 17, 20, 20]
    assert card.files[:2] == before.files[:2]
    assert [engine.precision for engine in card.engines] == ["fp16", "int8"]
    assert card.engines[1].onnx_sha256 == card.file("int8").sha256


def test_a_bundle_without_the_file_says_where_to_export_it(bundle: Path) -> None:
    drop(bundle, "fp16")
    with pytest.raises(
        UserError, match=r"no ONNX file of fp16; .*--precision fp16 --opset 20 --out"
    ):
        ensure(bundle, "fp16")


# --- what is missing or wrong ---


def test_without_tensorrt_the_bundle_is_written_and_then_the_command_is_named(
    run: Path, exports: list[ExportOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(run / "bundle", "fp16")
    monkeypatch.setattr(flavors, "is_installed", lambda _name: False)
    with pytest.raises(
        BackendError,
        match=r"has its ONNX files.*no TensorRT is installed.*pip install tensorrt-rtx-cu13",
    ):
        main([str(run)])
    assert [options.precisions for options in exports] == [("fp16",)]


def test_a_damaged_onnx_file_is_not_built(bundle: Path) -> None:
    path = bundle / "model.fp16.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match="is not the file that the card lists"):
        main([str(bundle)])
    assert not read_card(bundle).engines


def test_an_engine_outside_its_tolerance_is_not_kept(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = Parity(images=360, top1=0.5, reference_top1=0.9, agreement=0.5, max_difference=0.9)
    monkeypatch.setattr(record, "why_not_here", lambda _record: None)
    monkeypatch.setattr(record, "verify_engine", lambda *_: bad)
    arguments = [str(bundle), "--compute-capability", "8.6"]
    with pytest.raises(VerificationError, match=r"sm86\.engine not kept: top-1 50\.00%"):
        main(arguments)
    assert not read_card(bundle).engines
    assert (
        not list((bundle / "engines").glob("*.engine")) if (bundle / "engines").exists() else True
    )
    assert main([*arguments, "--allow-drop"]) == 0
    assert read_card(bundle).engines[0].parity == bad


def test_an_engine_that_is_not_kept_does_not_keep_the_others_from_being_built(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = Parity(images=360, top1=0.5, reference_top1=0.9, agreement=0.5, max_difference=0.9)
    good = Parity(images=360, top1=0.9, reference_top1=0.9, agreement=1.0, max_difference=0.0)
    monkeypatch.setattr(record, "why_not_here", lambda _record: None)
    monkeypatch.setattr(
        record, "verify_engine", lambda _plan, engine, _: good if "fp16" in engine.path else bad
    )
    with pytest.raises(VerificationError, match=r"model\.fp32\S* not kept: it agrees") as caught:
        main([str(bundle), "--precision", "fp32,fp16", "--compute-capability", "8.6,8.9"])
    assert str(caught.value).count("not kept") == 2
    kept = [engine.path for engine in read_card(bundle).engines]
    assert kept == [f"engines/model.fp16.tensorrt-rtx.sm{n}.engine" for n in (86, 89)]
    table = capsys.readouterr().out.rpartition("\n\n")[2]
    assert all(path in table for path in kept)
    assert "fp32" not in table


def test_engines_of_elsewhere_are_verified_on_their_gpu(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(bundle), "--precision", "fp32,fp16", "--compute-capability", "8.6,12.0"]) == 0
    with pytest.raises(BackendError, match="has no engine that runs here"):
        main([str(bundle), "--verify"])
    before = read_card(bundle).engines
    assert [engine.parity for engine in before] == [None] * 4

    here = Machine(
        flavor="tensorrt-rtx",
        tensorrt_version=before[0].tensorrt_version,
        compute_capability="8.6",
        gpu_name="a GPU",
        platform=this_platform(),
    )
    monkeypatch.setattr(engine_backends, "engine_problem", lambda _flavor: None)
    monkeypatch.setattr(engine_backends, "this_machine", lambda _flavor: here)
    good = Parity(images=360, top1=0.9, reference_top1=0.9, agreement=1.0, max_difference=0.0)
    bad = Parity(images=360, top1=0.5, reference_top1=0.9, agreement=0.5, max_difference=0.9)
    monkeypatch.setattr(
        record, "verify_engine", lambda _plan, it, _holdout: bad if "fp32" in it.path else good
    )
    capsys.readouterr()
    with pytest.raises(VerificationError, match=r"fp32.*sm86\.engine not kept: it agrees"):
        main([str(bundle), "--verify"])
    told = capsys.readouterr().out
    assert told.count("not run: ") == told.count("this GPU (a GPU) has 8.6") == 2
    after = {engine.path: engine.parity for engine in read_card(bundle).engines}
    assert after == {
        "engines/model.fp32.tensorrt-rtx.sm120.engine": None,
        "engines/model.fp16.tensorrt-rtx.sm86.engine": good,
        "engines/model.fp16.tensorrt-rtx.sm120.engine": None,
    }
    assert not (bundle / "engines/model.fp32.tensorrt-rtx.sm86.engine").exists()
    assert main([str(bundle), "--verify"]) == 0


def test_an_engine_of_a_file_that_was_replaced_meanwhile_is_not_kept(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replaced(*_: object) -> SimpleNamespace:
        card = read_card(bundle)
        others = [
            msgspec.structs.replace(file, sha256=digit * 64)
            for digit, file in zip("0123", card.files, strict=True)
        ]
        write_card(bundle, msgspec.structs.replace(card, files=tuple(others)))
        return SimpleNamespace(plan=b"plan", seconds=1.0)

    monkeypatch.setattr(record, "build_engine", replaced)
    with pytest.raises(BundleError, match=r"sm86\.engine not kept: .* of fp16 .* was replaced"):
        main([str(bundle), "--compute-capability", "8.6"])
    assert not read_card(bundle).engines
    assert not list(bundle.rglob("*.engine"))


def test_a_bundle_that_may_not_be_written_is_named_before_the_work(
    run: Path, exports: list[ExportOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(run / "bundle", "fp16")
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != run / "bundle")
    with pytest.raises(UserError, match="bundle may not be written to by this user"):
        main([str(run)])
    assert exports == []
    with pytest.raises(UserError, match="bundle may not be written to by this user"):
        main([str(run), "--verify"])


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
        (["bundle", "--flavor", "openvino"], "invalid choice: 'openvino'"),
        (["bundle", "--flavor", "tensorrt"], "no engine was built: tensorrt is not installed"),
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
    assert [engine.compute_capability for engine in card.engines] == [("8.6",), ("8.9",), ("12.0",)]
    digests = {file.precision: file.sha256 for file in read_card(trained_bundle).files}
    assert card.file("fp16").sha256 == digests["fp16"]
