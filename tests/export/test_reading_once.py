"""A command reads a checkpoint and a card as often as it must, and not once more."""

import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from export import build_trt, run
from export.engines import bundled_engines, flavors
from runtime.model import bundle as bundle_module
from runtime.model.bundle import read_card


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often cards are parsed and written, and checkpoints deserialised."""
    calls: Counter[str] = Counter()

    def count(module: Any, name: str) -> None:
        really = getattr(module, name)

        def counting(*arguments: Any, **named: Any) -> Any:
            calls[name] += 1
            return really(*arguments, **named)

        monkeypatch.setattr(module, name, counting)

    count(bundle_module, "card_from_json")
    count(bundle_module, "json_from_card")
    count(torch, "load")
    return calls


LEGACY = ("--opset", "17")  # quick
INT8 = ("--precision", "fp16,int8", "--calibration", "minmax")


def test_an_export_reads_the_checkpoint_once(
    fitted_run: Path, tmp_path: Path, counted: Counter[str]
) -> None:
    out = str(tmp_path / "bundle")
    assert run.main([str(fitted_run), "--out", out, *LEGACY]) == 0
    assert counted == {"load": 1, "json_from_card": 1}
    counted.clear()
    # The card is read to find the float32 file, and again when the new one takes its place: an
    # engine may have been listed meanwhile.
    assert run.main([str(fitted_run), "--out", out, *LEGACY, *INT8]) == 0
    assert counted == {"load": 1, "card_from_json": 2, "json_from_card": 1}


def test_a_build_reads_the_card_once_and_once_for_each_engine_that_it_lists(
    bundle: Path, counted: Counter[str]
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed (extra `rtx`)")
    assert build_trt.main([str(bundle), "--compute-capability", "8.6"]) == 0
    assert counted == {"card_from_json": 2, "json_from_card": 1}
    counted.clear()
    arguments = [str(bundle), "--precision", "fp32,fp16", "--compute-capability", "8.6,8.9"]
    assert build_trt.main(arguments) == 0
    assert counted == {"card_from_json": 5, "json_from_card": 4}


def test_a_build_from_a_run_does_not_read_the_card_that_it_has_just_written(
    fitted_run: Path, tmp_path: Path, counted: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "quick"
    shutil.copytree(fitted_run, copy)
    legacy = SimpleNamespace(newest_opset=17, name="none", version="0", default_workspace=int)
    legacy.targets, legacy.unknown_gpu = lambda _wanted: (("8.6",),), lambda: None
    monkeypatch.setattr(flavors, "load_flavor", lambda _name: legacy)
    built: list[Any] = []
    monkeypatch.setattr(bundled_engines, "add_engine", lambda *of: built.append(of[0]))
    monkeypatch.setattr(build_trt, "_show", lambda *_: None)
    assert build_trt.main([str(copy)]) == 0
    assert counted == {"load": 1, "json_from_card": 1}
    assert built[0].card.files == read_card(copy / "bundle").files
