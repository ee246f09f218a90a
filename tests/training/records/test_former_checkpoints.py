"""Runs that were begun before all methods were of one kind (format 1) go on to the same end.

The files in format_1/ are of commit 4af5d65: each run was stopped after three of six steps. What
`expected.json` says of its end was found by that commit, too.
"""

import hashlib
import json
import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runtime.base.errors import UserError
from training import run
from training.records.checkpoint import FORMAT, load_trained, read_checkpoint

SAME_RESULTS = runpy.run_path(str(Path(__file__).parents[1] / "same_results.py"))
FORMER = Path(__file__).with_name("format_1")
EXPECTED: dict[str, Any] = json.loads((FORMER / "expected.json").read_text())
AUXILIARY = {"drg+dsr": "drg.head.", "byot": "byot.branches.", "dlb": None}
MEMORY = {
    "drg+dsr": {"dsr.ranked", "dsr.updates"},
    "byot": set(),
    "dlb": {"dlb.images", "dlb.labels", "dlb.logits", "dlb.present"},
}


@pytest.mark.parametrize("name", EXPECTED["runs"])
def test_a_former_checkpoint_is_read_as_one_of_today(name: str) -> None:
    checkpoint = read_checkpoint(FORMER / name / "checkpoint.pt")
    methods = ("ce", "drg", "dsr") if name == "drg+dsr" else (name,)
    assert checkpoint.plan.methods == methods
    auxiliary = checkpoint.auxiliary or {}
    assert {key.startswith(AUXILIARY[name] or "") for key in auxiliary} <= {True}
    assert bool(auxiliary) == (AUXILIARY[name] is not None)
    assert set(checkpoint.training["processes"][0]["memory"]) == MEMORY[name]
    assert load_trained(FORMER / name).plan == checkpoint.plan


@pytest.mark.parametrize("name", EXPECTED["runs"])
def test_a_former_run_goes_on_to_its_end(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the losses that the former code found, and on the same processor, the weights.

    The first step shows what the methods remember, the second one the optimizer's momentum. In the
    third one processors round apart: by 1.2e-4 of the loss, AVX-512 of AMD and of Intel.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(FORMER, tmp_path, dirs_exist_ok=True)
    expected = EXPECTED["runs"][name]
    student = ["--arch", "mobilenetv2", "--width", "0.25", "--device", "cpu"]
    files = ["--data", "four", "--recipe", f"{name}.yaml", "--out", name, "--resume"]
    assert run.main([*student, *files, *expected["options"]]) == 0
    text = (tmp_path / name / "journal.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    same = {key: EXPECTED[key] for key in ("torch", "cpu")} == SAME_RESULTS["capability"]()
    losses = [line["loss"] for line in lines]
    assert len(losses) == len(expected["losses"])
    steps = len(losses) if same else 2
    np.testing.assert_allclose(losses[:steps], expected["losses"][:steps], rtol=1e-4)
    content = torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)
    assert content["format"] == FORMAT == 2
    if same:
        assert digest_of(content["student"]) == expected["sha256"]


def digest_of(weights: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(weights):
        digest.update(key.encode() + weights[key].numpy().tobytes())
    return digest.hexdigest()


def test_a_former_checkpoint_that_is_not_whole_is_one_line(tmp_path: Path) -> None:
    content = torch.load(FORMER / "dlb" / "checkpoint.pt", weights_only=True)
    del content["training"]
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match="is not a whole checkpoint") as info:
        load_trained(tmp_path)
    assert "\n" not in str(info.value)
