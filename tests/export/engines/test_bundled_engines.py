"""Engines in a bundle: which are kept and listed, and which are not."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from export.build_trt import main
from export.engines import bundled_engines, flavors
from runtime.backends import engine_backends
from runtime.backends.gpu import GpuError
from runtime.backends.preflight import Machine, engine_mismatch, this_platform
from runtime.base.errors import BackendError, BundleError, VerificationError
from runtime.base.files import sha256_of
from runtime.evaluation.threshold import thresholds_to_try
from runtime.model.bundle import open_bundle, read_card, write_card
from runtime.model.card import EngineRecord, Parity, Profile
from runtime.model.holdout import KeptApart, validation_bytes

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed (extra `rtx`)")


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


def test_without_a_gpu_one_engine_is_built_for_three_kinds(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(flavors, "missing_gpu", lambda: GpuError("no driver", remedy="install one"))
    assert main([str(bundle), "--flavor", "tensorrt-rtx"]) == 0
    told = capsys.readouterr().out
    assert "for compute capability 8.6, 8.9, 12.0\n" in told
    opened = open_bundle(bundle)
    (half,) = opened.card.engines
    assert half.path == "engines/model.fp16.tensorrt-rtx.sm86-89-120.engine"
    assert half.compute_capability == ("8.6", "8.9", "12.0")
    for capability, fits in (("8.6", True), ("8.9", True), ("12.0", True), ("7.5", False)):
        machine = Machine(
            flavor="tensorrt-rtx",
            tensorrt_version=half.tensorrt_version,
            compute_capability=capability,
            gpu_name="NVIDIA GeForce RTX",
            platform=this_platform(),
        )
        assert (engine_mismatch(opened, half, machine) is None) == fits
    # A single one beside it keeps its own name.
    assert main([str(bundle), "--flavor", "tensorrt-rtx", "--compute-capability", "8.9"]) == 0
    card = read_card(bundle)
    assert len(card.engines) == 2
    assert "int8 brings nothing" not in capsys.readouterr().out
    eight = msgspec.structs.replace(half, path="engines/model.int8.engine", precision="int8")
    write_card(bundle, msgspec.structs.replace(card, engines=(*card.engines, eight)))
    capsys.readouterr()
    assert main([str(bundle), "--list"]) == 0
    listed = capsys.readouterr().out
    assert "(8.6, 8.9, 12.0)" in listed
    assert listed.count("note: int8 brings nothing with tensorrt-rtx") == 1


def test_a_bundle_of_schema_1_gets_engines_and_the_present_schema(tmp_path: Path) -> None:
    old = Path(__file__).parents[2] / "runtime" / "data" / "bundle_of_schema_1"
    bundle = tmp_path / "bundle"
    shutil.copytree(old, bundle)
    assert main([str(bundle), "--flavor", "tensorrt-rtx", "--compute-capability", "8.9"]) == 0
    before, built = read_card(bundle).engines
    assert (before.compute_capability, built.compute_capability) == (("8.6",), ("8.9",))
    assert sha256_of(bundle / built.path) == built.sha256
    assert json.loads((bundle / "card.json").read_text())["schema_version"] == 4


def test_building_again_replaces_the_record(bundle: Path) -> None:
    arguments = [str(bundle), "--compute-capability", "8.9"]
    assert main(arguments) == 0
    assert main([*arguments, "--batch", "2,4,8", "--optimization-level", "1"]) == 0
    (engine,) = read_card(bundle).engines
    assert engine.profile == Profile(min=2, opt=4, max=8)


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
    monkeypatch.setattr(bundled_engines, "why_not_here", lambda *_: None)
    monkeypatch.setattr(bundled_engines, "verify_engine", lambda *_, **__: bad)
    arguments = [str(bundle), "--compute-capability", "8.6"]
    with pytest.raises(VerificationError, match=r"sm86\.engine not kept: top-1 50\.00%"):
        main(arguments)
    assert not read_card(bundle).engines
    assert (
        not list((bundle / "engines").glob("*.engine")) if (bundle / "engines").exists() else True
    )
    assert main([*arguments, "--allow-drop"]) == 0
    assert read_card(bundle).engines[0].parity == bad


def test_an_engine_that_does_what_its_file_did_at_export_is_kept(
    toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate passed the file on the whole test split, of which the held-out images are a part."""
    bundle = shutil.copytree(toy_bundle, tmp_path / "bundle")
    found = Parity(images=360, top1=0.88, reference_top1=0.9, agreement=0.97, max_difference=0.1)
    monkeypatch.setattr(bundled_engines, "why_not_here", lambda *_: None)
    monkeypatch.setattr(bundled_engines, "verify_engine", lambda *_, **__: found)
    built = SimpleNamespace(plan=b"plan", seconds=1.0, loaded=None)
    monkeypatch.setattr(bundled_engines, "build_engine", lambda *_: built)

    def stating(exported: Parity | None) -> None:
        card = read_card(bundle)
        files = [msgspec.structs.replace(file, holdout_parity=exported) for file in card.files]
        write_card(bundle, msgspec.structs.replace(card, files=tuple(files)))

    arguments = [str(bundle), "--compute-capability", "8.6"]
    for exported, words in (
        (None, r"2\.00 points below the student's 90\.00%"),
        (
            msgspec.structs.replace(found, top1=0.89),
            r"1\.00 points below its own at export, 89\.00%",
        ),
    ):
        stating(exported)
        with pytest.raises(VerificationError, match=words):
            main(arguments)
    stating(found)
    assert main(arguments) == 0
    assert read_card(bundle).engines[0].parity == found


def test_an_engine_that_is_not_kept_does_not_keep_the_others_from_being_built(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = Parity(images=360, top1=0.5, reference_top1=0.9, agreement=0.5, max_difference=0.9)
    good = Parity(images=360, top1=0.9, reference_top1=0.9, agreement=1.0, max_difference=0.0)
    monkeypatch.setattr(bundled_engines, "why_not_here", lambda *_: None)
    monkeypatch.setattr(
        bundled_engines,
        "verify_engine",
        lambda _plan, engine, *_, **__: good if "fp16" in engine.path else bad,
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
        bundled_engines,
        "verify_engine",
        lambda _plan, it, *_, **__: bad if "fp32" in it.path else good,
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

    monkeypatch.setattr(bundled_engines, "build_engine", replaced)
    with pytest.raises(BundleError, match=r"sm86\.engine not kept: .* of fp16 .* was replaced"):
        main([str(bundle), "--compute-capability", "8.6"])
    assert not read_card(bundle).engines
    assert not list(bundle.rglob("*.engine"))


@pytest.fixture
def kept(bundle: Path) -> KeptApart:
    """60 validation images in the bundle, and as many that have chosen."""
    images = np.zeros((60, 16, 16, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(60)
    confidence = np.linspace(0.5, 1, 60, dtype=np.float32)
    kept = KeptApart(images, np.zeros(60, int), np.arange(60), confidence, np.ones(60, bool))
    (bundle / "validation.npz").write_bytes(validation_bytes(kept))
    return kept


def test_each_engine_has_a_threshold_of_its_own_answers(
    bundle: Path,
    kept: KeptApart,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The fp16 engine is surer of its right answers than the int8 engine, which has wrong ones."""
    good = Parity(images=360, top1=0.9, reference_top1=0.9, agreement=1.0, max_difference=0.0)
    monkeypatch.setattr(bundled_engines, "why_not_here", lambda *_: None)
    monkeypatch.setattr(bundled_engines, "verify_engine", lambda *_, **__: good)

    def answers(_plan: bytes, record: EngineRecord, images: np.ndarray) -> np.ndarray:
        first = np.full(len(images), 0.99 if record.precision == "fp16" else 0.7, np.float32)
        if record.precision == "fp32":
            first[::2] = 0.0  # the second class is the answer, and it is wrong
        return np.stack([first, 1 - first], axis=1)

    monkeypatch.setattr(bundled_engines, "engine_answers", answers)
    card = read_card(bundle)
    write_card(bundle, msgspec.structs.replace(card, max_error=0.1))
    assert main([str(bundle), "--precision", "fp32,fp16", "--compute-capability", "8.6"]) == 0
    tried = thresholds_to_try(kept.choosing_confidence, kept.choosing_right, 0.1)
    engines = {engine.precision: engine for engine in read_card(bundle).engines}
    threshold = engines["fp16"].threshold
    assert threshold is not None
    assert (threshold.max_error, threshold.coverage, threshold.images) == (0.1, 1.0, 60)
    assert threshold.probability == tried[tried <= np.float32(0.99)].min()
    assert engines["fp32"].threshold is None
    assert engines["fp32"].no_threshold.startswith("60 images do not prove that at most 0.1 of")
    told = capsys.readouterr().out
    assert f"{engines['fp16'].path}: accepts answers from 50.0% on, 100% of 60" in told
    assert f"no threshold for {engines['fp32'].path}: 60 images do not prove" in told


@pytest.mark.parametrize("name", ["holdout.npz", "validation.npz"])
def test_what_an_engine_is_verified_with_is_read_before_the_build(
    bundle: Path, kept: KeptApart, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build takes minutes, and the engine would not be kept."""
    (bundle / name).write_bytes(b"no archive")
    monkeypatch.setattr(bundled_engines, "why_not_here", lambda *_: None)
    monkeypatch.setattr(bundled_engines, "build_engine", lambda *_: pytest.fail("it was built"))
    with pytest.raises(BundleError, match=rf"{name} cannot be read"):
        main([str(bundle), "--compute-capability", "8.6"])


def test_an_engine_that_does_not_run_here_needs_no_images(bundle: Path) -> None:
    (bundle / "holdout.npz").unlink()
    assert main([str(bundle), "--compute-capability", "8.6"]) == 0
    assert len(read_card(bundle).engines) == 1


def test_an_engine_that_did_not_run_has_no_threshold_and_says_so(
    bundle: Path, kept: KeptApart
) -> None:
    assert main([str(bundle), "--compute-capability", "8.6"]) == 0
    (engine,) = read_card(bundle).engines
    assert engine.threshold is None
    assert engine.no_threshold.startswith("it has not run; ")


def test_an_engine_of_a_bundle_without_validation_images_says_why(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = Parity(images=360, top1=0.9, reference_top1=0.9, agreement=1.0, max_difference=0.0)
    monkeypatch.setattr(bundled_engines, "why_not_here", lambda *_: None)
    monkeypatch.setattr(bundled_engines, "verify_engine", lambda *_, **__: good)
    assert main([str(bundle), "--compute-capability", "8.6"]) == 0
    (engine,) = read_card(bundle).engines
    assert engine.no_threshold == read_card(bundle).file("fp16").no_threshold
