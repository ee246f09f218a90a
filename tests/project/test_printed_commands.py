"""Commands that are printed for the next step can be pasted, also where paths have spaces."""

import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import export.build_trt
import export.run
import export.to_triton
import training.train as train_module
from training.config.options import Options
from training.records.journal import Progress
from training.records.run_folder import RunFolder

SPACED = "my runs; 2"


def test_training_names_the_export_of_its_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train_module, "finish_run", lambda *_, **__: {})
    monkeypatch.setattr(train_module, "summary", lambda _: "done")
    trainer: Any = SimpleNamespace(train=lambda *_: None, plan=SimpleNamespace(data="d"))
    run = RunFolder(Path(SPACED), exists=False, finished=False)
    options = Options(arch="mobilenetv2", out=run.path)
    stop: Any = None
    train_module._train_in(run, trainer, options, Progress(epochs=1), stop)
    said = capsys.readouterr().out.splitlines()[-1]
    assert shlex.split(said) == ["next", "python", "export/run.py", SPACED]


def test_export_names_the_bundle_to_classify_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Path(SPACED)
    run.mkdir()
    (run / "checkpoint.pt").touch()
    monkeypatch.setattr(
        "export.pipeline.export_and_report", lambda *_: SimpleNamespace(path=run / "bundle")
    )
    assert export.run.main([str(run)]) == 0
    words = shlex.split(capsys.readouterr().out.split("`")[1])
    assert words == ["python", "-m", "runtime", "classify", f"{SPACED}/bundle", "IMAGE"]


def test_engines_and_triton_name_their_folders(
    toy_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / SPACED
    shutil.copytree(toy_bundle, bundle)
    assert export.build_trt.main([str(bundle), "--list"]) == 0
    words = shlex.split(capsys.readouterr().out.split("`")[1])
    assert words == ["python", "export/build_trt.py", str(bundle)]
    out = tmp_path / "served models"
    assert export.to_triton.main([str(bundle), "--out", str(out), "--kserve"]) == 0
    lines = capsys.readouterr().out.splitlines()
    applied = [line.partition("   ")[0] for line in lines if line.startswith("kubectl")]
    manifests = [f"{out}/kserve.yaml", f"{out}/kubernetes.yaml"]
    assert [shlex.split(command)[3] for command in applied] == manifests
    assert shlex.split(lines[-1]) == ["serve:", "tritonserver", "--model-repository", str(out)]


def test_a_list_of_engines_says_of_which_run_it_is(
    toy_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(toy_bundle, "runs/mine/bundle")
    Path("runs/mine/checkpoint.pt").touch()
    Path("runs/latest").symlink_to("mine")
    assert export.build_trt.main(["--list"]) == 0
    assert capsys.readouterr().out.startswith("run: runs/mine\n")
