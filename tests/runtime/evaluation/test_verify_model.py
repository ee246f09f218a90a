"""`python -m runtime verify`: a bundle that answers as exported passes; no other one does."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import msgspec
import numpy as np
import pytest

from runtime.evaluation.verify_model import verify_bundle
from runtime.model.bundle import open_bundle, read_card, write_card
from runtime.model.card import Card, EngineRecord, Profile

Cli = Callable[..., CompletedProcess[str]]


@pytest.fixture
def bundle(toy_bundle: Path, tmp_path: Path) -> Path:
    """A copy, as on a device that the bundle was sent to."""
    copy = tmp_path / "copy"
    shutil.copytree(toy_bundle, copy)
    return copy


def change_card(bundle: Path, change: Callable[[Card], Card]) -> None:
    write_card(bundle, change(read_card(bundle)))


def change_holdout(bundle: Path, **arrays: np.ndarray) -> None:
    with np.load(bundle / "holdout.npz") as former:
        content = {**former, **arrays}
    np.savez(bundle / "holdout.npz", **content)


def test_every_file_passes_with_its_figures(cli: Cli, bundle: Path) -> None:
    shown = cli("verify", bundle, "--backend", "onnx-cpu", "--json")
    assert (shown.returncode, shown.stderr) == (0, "")
    results = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [result["path"] for result in results] == ["model.onnx", "model.fp16.onnx"]
    for result in results:
        assert result["passed"] is True
        assert result["top1"] == result["agreement"] == 1.0
        assert (result["backend"], result["images"]) == ("onnx-cpu", 24)
        assert result["worst_class"]["recall_after"] == 1.0
        assert 0 < result["max_difference"] < 1e-4


def test_the_table_is_for_people(cli: Cli, bundle: Path) -> None:
    shown = cli("verify", bundle, "--precision", "fp32")
    assert shown.returncode == 0
    assert shown.stdout.splitlines()[1].startswith("model.onnx  onnx-cpu  100.00%")
    assert "24 held-out test images; the trained student answers 100.00%" in shown.stdout


def test_a_file_that_was_damaged_by_the_copy_is_found_and_the_others_are_judged(
    cli: Cli, bundle: Path
) -> None:
    file = bundle / "model.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    shown = cli("verify", bundle, "--backend", "onnx-cpu", "--json")
    damaged, whole = (json.loads(line) for line in shown.stdout.splitlines())
    assert shown.returncode == 3
    assert (damaged["passed"], damaged["top1"], whole["passed"]) == (False, None, True)
    assert "is damaged or was replaced" in damaged["complaint"]
    assert shown.stderr.count("\n") == 1


def test_a_file_of_another_network_is_outside_of_the_gate(cli: Cli, bundle: Path) -> None:
    """Its digest is the card's, and it answers otherwise than the student did."""
    from onnx import load, numpy_helper

    model = load(bundle / "model.onnx")
    for constant in model.graph.initializer:
        if constant.name == "weight":
            weaker = np.float32(0.9) * numpy_helper.to_array(constant)
            constant.CopyFrom(numpy_helper.from_array(weaker, constant.name))
    content = model.SerializeToString()
    (bundle / "model.onnx").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    change_card(
        bundle,
        lambda card: msgspec.structs.replace(
            card, files=(msgspec.structs.replace(card.files[0], sha256=digest), card.files[1])
        ),
    )
    shown = cli("verify", bundle, "--precision", "fp32", "--json")
    assert shown.returncode == 3
    result = json.loads(shown.stdout)
    assert result["passed"] is False
    assert "a probability differs by" in result["complaint"]


def test_a_file_that_fails_while_it_runs_does_not_pass(cli: Cli, bundle: Path) -> None:
    """It opens, and its last batch is of 24 images, which are no whole number of fives."""
    from onnx import helper, load, numpy_helper

    model = load(bundle / "model.onnx")
    for name, shape in {"fives": [5, -1], "back": [-1, 3]}.items():
        constant = numpy_helper.from_array(np.array(shape, np.int64), name)
        model.graph.initializer.append(constant)
    model.graph.node[-1].output[0] = "whole"
    for source, shape, target in (("whole", "fives", "cut"), ("cut", "back", "probabilities")):
        model.graph.node.append(helper.make_node("Reshape", [source, shape], [target]))
    content = model.SerializeToString()
    (bundle / "model.onnx").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    change_card(
        bundle,
        lambda card: msgspec.structs.replace(
            card, files=(msgspec.structs.replace(card.files[0], sha256=digest), card.files[1])
        ),
    )
    shown = cli("verify", bundle, "--backend", "onnx-cpu", "--json")
    failed, whole = (json.loads(line) for line in shown.stdout.splitlines())
    assert shown.returncode == 3
    assert (failed["passed"], failed["images"], whole["passed"]) == (False, 0, True)
    assert "onnx-cpu failed at 24 images in" in failed["complaint"]
    assert "run fewer at once" in failed["complaint"]


def test_a_lost_class_is_named(cli: Cli, bundle: Path) -> None:
    """The student has found the class whose images every file now takes for another."""
    with np.load(bundle / "holdout.npz") as holdout:
        labels, probabilities = holdout["labels"], holdout["probabilities"]
    swapped = np.where(labels == 0, 1, labels)
    answers = probabilities.copy()
    answers[labels == 0] = answers[labels == 0][:, [1, 0, 2]]
    change_holdout(bundle, labels=swapped, probabilities=answers)
    shown = cli("verify", bundle, "--precision", "fp16", "--backend", "onnx-cpu", "--json")
    result = json.loads(shown.stdout)
    assert shown.returncode == 3
    assert result["worst_class"]["recall_before"] == 1.0
    assert result["worst_class"]["recall_after"] == 0.5
    assert "it loses the class" in shown.stderr


@pytest.mark.parametrize(
    ("right_at_export", "words"),
    [
        (None, "12.50 points below the student's 100.00%"),
        (21, None),
        (22, None),  # one image is always allowed
        (23, "top-1 87.50% is 8.33 points below its own at export, 95.83% (allowed 0.2)"),
    ],
)
def test_a_file_is_judged_by_what_it_did_at_export_on_these_images(
    bundle: Path, right_at_export: int | None, words: str | None
) -> None:
    """It is right on 21 of 24, and the student on all of them."""
    with np.load(bundle / "holdout.npz") as holdout:
        labels, probabilities = holdout["labels"], holdout["probabilities"]
    rows = np.flatnonzero(labels == 0)[:3]
    labels[rows] = 1
    probabilities[rows] = probabilities[rows][:, [1, 0, 2]]
    change_holdout(bundle, labels=labels, probabilities=probabilities)

    def stating(card: Card) -> Card:
        single, half = card.files
        exported = None
        if right_at_export is not None:
            exported = msgspec.structs.replace(half.parity, top1=right_at_export / 24)
        half = msgspec.structs.replace(half, holdout_parity=exported)
        return msgspec.structs.replace(card, files=(single, half))

    change_card(bundle, stating)
    (found,) = verify_bundle(
        open_bundle(bundle), not_run=print, backend="onnx-cpu", precision="fp16"
    )
    assert (found.top1, found.passed) == (21 / 24, words is None)
    assert (words or "") in (found.complaint or "")


def test_what_does_not_run_here_is_said_and_not_judged(cli: Cli, bundle: Path) -> None:
    engine = EngineRecord(
        path="engines/model.fp16.engine",
        sha256="0" * 64,
        precision="fp16",
        flavor="tensorrt",
        tensorrt_version="10.3.0",
        compute_capability=("8.7",),
        gpu_name="Orin",
        platform="linux-aarch64",
        profile=Profile(min=1, opt=8, max=16),
        onnx_sha256=read_card(bundle).files[1].sha256,
        build_seconds=1.0,
    )
    change_card(bundle, lambda card: msgspec.structs.replace(card, engines=(engine,)))
    shown = cli("verify", bundle, "--json")
    assert shown.returncode == 0
    assert "not run: engines/model.fp16.engine on tensorrt: " in shown.stderr
    assert "engines/" not in shown.stdout


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda bundle: (bundle / "holdout.npz").unlink(), "holdout.npz cannot be read"),
        (
            lambda bundle: change_holdout(bundle, images=np.zeros((24, 8, 8, 3), np.uint8)),
            "the held-out test images, labels and answers have the shapes",
        ),
        (lambda bundle: (bundle / "card.json").unlink(), "is not a bundle"),
    ],
)
def test_a_bundle_that_cannot_be_verified_is_refused(
    cli: Cli, bundle: Path, spoil: Callable[[Path], None], words: str
) -> None:
    spoil(bundle)
    shown = cli("verify", bundle)
    assert shown.returncode == 2
    assert words in shown.stderr
    assert shown.stderr.count("\n") == 1


NONE = {
    "images": np.zeros((0, 32, 32, 3), np.uint8),
    "labels": np.zeros(0, int),
    "probabilities": np.zeros((0, 3), np.float32),
}


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"labels": np.arange(24) % 3 + 50}, "go from 50 to 52, the card has 3 classes"),
        ({"labels": np.arange(24) % 3 - 1}, "go from -1 to 1, the card has 3 classes"),
        ({"labels": np.zeros(7, int)}, "have the shapes"),
        ({"labels": np.zeros(24)}, "their labels float64"),
        ({"images": np.zeros((24, 32, 32, 3), np.float32)}, "images are float32"),
        (NONE, "with at least one image"),
    ],
)
def test_held_out_images_that_do_not_fit_each_other_or_the_card_are_named(
    cli: Cli, bundle: Path, arrays: dict[str, np.ndarray], words: str
) -> None:
    whole = shutil.copytree(bundle, bundle.with_name("whole"))
    change_holdout(bundle, **arrays)
    for command in (("verify", bundle), ("compare", bundle, whole), ("compare", whole, bundle)):
        shown = cli(*command)
        assert shown.returncode == 2
        assert shown.stderr.startswith(f"error: {bundle / 'holdout.npz'} cannot be read (")
        assert words in shown.stderr
        assert shown.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--backend", "onnx-gpu"], "onnx-gpu"),
        (["--precision", "fp8"], "unknown precision 'fp8'; choose one of fp32, fp16, int8"),
        (["--precision", "int8", "--backend", "onnx-cpu"], "no file of onnx-cpu int8"),
    ],
)
def test_what_is_asked_for_and_absent_is_refused(
    cli: Cli, bundle: Path, arguments: list[str], words: str
) -> None:
    shown = cli("verify", bundle, *arguments)
    assert shown.returncode == 2
    assert words in shown.stderr


def test_a_lone_file_has_no_test_images(cli: Cli, bundle: Path) -> None:
    shown = cli("verify", bundle / "model.onnx")
    assert (shown.returncode, shown.stdout) == (2, "")
    assert "is a lone file; expected a bundle" in shown.stderr
