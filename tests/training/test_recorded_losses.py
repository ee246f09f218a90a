"""Twenty steps of every method with both students are what they were when they were recorded.

`python tests/training/same_results.py --record` writes the record anew. A change of the record
belongs into the commit that means to change results, which says so.
"""

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

OWN = runpy.run_path(str(Path(__file__).with_name("same_results.py")))
RECORD: dict[str, Any] = json.loads(OWN["RECORDED"].read_text())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = OWN["write_data"](tmp_path_factory.mktemp("data") / "four")
    return folder


def test_the_record_has_every_case() -> None:
    expected = {f"{name}, {arch}" for name in OWN["CASES"] for arch in OWN["STUDENTS"]}
    assert set(RECORD["moving"]) == set(RECORD["still"]) == expected


def train(case: str, data: Path, folder: Path, *, still: bool) -> dict[str, Any]:
    name, _, arch = case.rpartition(", ")
    found: dict[str, Any] = OWN["train_case"](name, arch, data=data, folder=folder, still=still)
    return found


def assert_equal_terms(found: dict[str, Any], recorded: dict[str, Any], *, steps: int) -> None:
    assert found.keys() == recorded.keys()
    for term, values in recorded.items():
        np.testing.assert_allclose(found[term][:steps], values[:steps], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("case", RECORD["still"])
def test_losses_are_those_recorded(
    case: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of twenty batches, with all that the methods remember from one to the next."""
    monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path / "cache"))
    found = train(case, data, tmp_path, still=True)
    assert_equal_terms(found["terms"], RECORD["still"][case]["terms"], steps=OWN["STEPS"])


@pytest.mark.slow
@pytest.mark.parametrize("case", RECORD["moving"])
def test_a_training_is_the_one_recorded(
    case: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit where torch and processor are those of the record, elsewhere its first step."""
    monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path / "cache"))
    recorded = RECORD["moving"][case]
    own = OWN["capability"]()
    same = {key: recorded.get(key, RECORD[key]) for key in own} == own
    found = train(case, data, tmp_path, still=False)
    assert_equal_terms(found["terms"], recorded["terms"], steps=OWN["STEPS"] if same else 1)
    if same:
        assert found["sha256"] == recorded["sha256"]
