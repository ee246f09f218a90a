"""What is wrong with one engine neither stops the others nor hides what is wrong with them."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from export import build_trt
from export.engines import bundled_engines
from export.engines.bundled_engines import list_engine
from runtime.base.errors import BackendError, BundleError, UserError, VerificationError
from runtime.base.files import sha256_of_bytes
from runtime.model.bundle import open_bundle, read_card, write_card
from runtime.model.card import EngineRecord, Parity

BUNDLE = Path(__file__).parents[2] / "runtime" / "data" / "bundle_of_schema_1"
GOOD = Parity(images=9, top1=0.9, reference_top1=0.9, agreement=1.0, max_difference=0.0)
BAD = Parity(images=9, top1=0.5, reference_top1=0.9, agreement=0.5, max_difference=0.9)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle with the engines bad, damaged, odd and good, all of which seem to run here."""
    folder = shutil.copytree(BUNDLE, tmp_path / "bundle")
    card = read_card(folder)
    (listed,) = card.engines
    write_card(folder, msgspec.structs.replace(card, engines=()))
    for name in ("bad", "damaged", "odd", "good"):
        plan = name.encode()
        record = msgspec.structs.replace(
            listed, path=f"engines/{name}.engine", sha256=sha256_of_bytes(plan), parity=None
        )
        list_engine(folder, record, plan)
    (folder / "engines" / "damaged.engine").write_bytes(b"cut off")

    def answers(plan: bytes, record: EngineRecord, *_: object, **__: object) -> Parity:
        if plan == b"odd":
            raise BackendError(f"{record.path} cannot be loaded; build it again")
        return {b"bad": BAD, b"good": GOOD}[plan]

    monkeypatch.setattr(bundled_engines, "verify_engine", answers)
    monkeypatch.setattr(
        bundled_engines.backends,
        "options",
        lambda opened, _: [SimpleNamespace(record=r, problem=None) for r in opened.card.engines],
    )
    return folder


def engines_of(folder: Path) -> dict[str, Parity | None]:
    return {Path(engine.path).stem: engine.parity for engine in read_card(folder).engines}


def test_every_engine_is_run_and_all_errors_are_told(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(VerificationError) as caught:
        build_trt.main([str(bundle), "--verify"])
    for words in ("bad.engine not kept: ", "damaged.engine", "odd.engine cannot be loaded"):
        assert words in str(caught.value)
    assert engines_of(bundle) == {"damaged": None, "odd": None, "good": GOOD}
    assert "engines/good.engine" in capsys.readouterr().out  # in the table
    assert not (bundle / "engines" / "bad.engine").exists()
    with pytest.raises(UserError, match=r"damaged.engine.*; .*odd.engine cannot be loaded"):
        build_trt.main([str(bundle), "--verify"])


def test_an_engine_that_fails_and_was_replaced_meanwhile_is_still_told(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise BundleError("was replaced while it was run")

    monkeypatch.setattr(bundled_engines, "replace_record", refuse)
    with pytest.raises(VerificationError, match=r"bad.engine not kept: .*; was replaced while"):
        build_trt.main([str(bundle), "--verify"])


@pytest.mark.parametrize("failed", [True, False])
def test_engines_are_built_though_others_are_refused(
    failed: bool, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = open_bundle(bundle)

    def build(_bundle: object, _flavor: object, precision: str, *_: object) -> EngineRecord:
        if precision == "fp32" and failed:
            raise VerificationError("fp32 not kept")
        if precision != "int8":
            raise BundleError(f"the ONNX file of {precision} was replaced")
        return opened.card.engines[-1]

    flavor = SimpleNamespace(
        name="tensorrt",
        version="10",
        newest_opset=17,
        targets=lambda _: [("8.6",)],
        unknown_gpu=lambda: None,
        default_workspace=lambda: None,
    )
    monkeypatch.setattr(build_trt, "_try_flavor", lambda _: (flavor, ""))
    monkeypatch.setattr(build_trt, "find_onnx", lambda *_, **__: opened)
    monkeypatch.setattr(bundled_engines, "add_engine", build)
    with pytest.raises(VerificationError if failed else UserError) as caught:
        build_trt.main([str(bundle), "--precision", "fp32,fp16,int8"])
    first = "fp32 not kept" if failed else "the ONNX file of fp32 was replaced"
    assert str(caught.value) == f"{first}; the ONNX file of fp16 was replaced"
    assert "engines/good.engine" in capsys.readouterr().out  # in the table
