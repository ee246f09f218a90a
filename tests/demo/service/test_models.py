"""The models that the page offers, without a browser."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

import demo.service.models
from demo.service.comparison import compare_on_holdout
from demo.service.models import Models
from demo.tabs.benchmark import measured
from runtime.base.errors import BackendError, UserError
from runtime.inference.classifier import Classifier
from runtime.model.bundle import read_card, write_card


def test_the_menu_begins_with_the_best_and_refuses_what_it_does_not_hold(models: Models) -> None:
    assert [key for _, key in models.menu] == ["0:onnx-cpu:fp32", "0:onnx-cpu:fp16"]
    assert models.rival == "0:onnx-cpu:fp16"
    assert models.open("0:onnx-cpu:fp32") is models.first, "opened once, shared by all"
    with pytest.raises(UserError, match="not offered here"):
        models.open("../../etc/passwd")


def test_users_of_an_open_model_do_not_wait_while_another_is_opened(
    toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = Models([toy_bundle])
    begun, may_go_on = threading.Event(), threading.Event()
    really_open = demo.service.models.open_classifier

    def slow_open(*arguments: Any, **options: Any) -> Any:
        begun.set()
        assert may_go_on.wait(20)
        return really_open(*arguments, **options)

    monkeypatch.setattr(demo.service.models, "open_classifier", slow_open)
    with ThreadPoolExecutor(2) as users:
        try:
            slow = users.submit(models.open, "0:onnx-cpu:fp16")
            assert begun.wait(20)
            assert users.submit(models.open, "0:onnx-cpu:fp32").result(20) is models.first
        finally:
            may_go_on.set()
        assert models.open("0:onnx-cpu:fp16") is slow.result(20)
    models.close()


def test_a_model_that_does_not_warm_up_gives_its_memory_back(
    toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = Models([toy_bundle])
    closed = []
    really_close = Classifier.close

    def out_of_memory(_: Classifier) -> None:
        raise BackendError("out of memory")

    with monkeypatch.context() as broken:
        broken.setattr(Classifier, "warm_up", out_of_memory)
        broken.setattr(Classifier, "close", lambda self: (closed.append(self), really_close(self)))
        with pytest.raises(BackendError, match="out of memory"):
            models.open("0:onnx-cpu:fp16")
    assert [classifier.precision for classifier in closed] == ["fp16"]
    models.close()


def test_a_bundle_that_was_replaced_is_not_mixed_with_what_the_page_shows(
    toy_bundle: Path, tmp_path: Path
) -> None:
    """As when a training moves `runs/latest`. A bundle that only grew is the same model."""
    bundle = tmp_path / "bundle"
    shutil.copytree(toy_bundle, bundle)
    models = Models([bundle])
    card = read_card(bundle)
    try:
        write_card(bundle, msgspec.structs.replace(card, files=card.files[::-1]))
        other = models.open("0:onnx-cpu:fp16")
        assert compare_on_holdout(models.first, other, progress=lambda *_: None).compared.images
        provenance = msgspec.structs.replace(card.provenance, checkpoint_sha256="1" * 64)
        write_card(bundle, msgspec.structs.replace(card, provenance=provenance))
        with pytest.raises(UserError, match="the model was replaced on the server"):
            compare_on_holdout(models.first, other, progress=lambda *_: None)
        (shown,) = measured(models, progress=lambda *_, **__: None)
        assert "start the page again" in shown
    finally:
        models.close()


def test_no_file_of_a_bundle_that_was_replaced_is_opened(toy_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(toy_bundle, bundle)
    models = Models([bundle])
    card = read_card(bundle)
    try:
        write_card(bundle, msgspec.structs.replace(card, class_names=card.class_names[::-1]))
        with pytest.raises(UserError, match="the model was replaced on the server"):
            models.open("0:onnx-cpu:fp16")
    finally:
        models.close()


def test_a_lone_onnx_file_has_a_page_too(toy_bundle: Path) -> None:
    alone = Models([toy_bundle / "model.onnx"])
    try:
        assert [key for _, key in alone.menu] == ["0:onnx-cpu:fp32"]
        assert alone.rival == "0:onnx-cpu:fp32"
    finally:
        alone.close()


def test_two_models_of_one_name_can_be_told_apart(toy_bundle: Path, tmp_path: Path) -> None:
    for seed in ("a", "b"):
        shutil.copytree(toy_bundle, tmp_path / seed / "digits-s0" / "bundle")
        (tmp_path / seed / "latest").symlink_to("digits-s0")
    (tmp_path / "b" / "digits-s0").rename(tmp_path / "b" / "digits-s1")
    (tmp_path / "b" / "latest").unlink()
    (tmp_path / "b" / "latest").symlink_to("digits-s1")

    def names(*paths: Path) -> list[str]:
        models = Models([tmp_path / path for path in paths])
        models.close()
        return list(dict.fromkeys(words.partition(": ")[0] for words, _ in models.menu))

    assert names(Path("a/latest"), Path("b/digits-s1")) == ["latest", "digits-s1"]
    assert names(Path("a/latest"), Path("b/latest")) == ["digits-s0", "digits-s1"]
    assert names(Path("a/latest"), Path("a/latest")) == ["1. latest", "2. latest"]
