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

from training import finish

OWN = runpy.run_path(str(Path(__file__).with_name("same_results.py")))
RECORD: dict[str, Any] = json.loads(OWN["RECORDED"].read_text())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = OWN["write_data"](tmp_path_factory.mktemp("data") / "four")
    return folder


def test_the_record_has_every_case() -> None:
    expected = {f"{name}, {arch}" for name in OWN["CASES"] for arch in OWN["STUDENTS"]}
    assert set(RECORD["moving"]) == set(RECORD["still"]) == expected


def test_a_moving_network_begins_as_a_still_one() -> None:
    """So its first step, all that other machines could compare, is compared with the still one."""
    for case, moving in RECORD["moving"].items():
        still = RECORD["still"][case]["terms"]
        assert {term: values[0] for term, values in moving["terms"].items()} == {
            term: values[0] for term, values in still.items()
        }


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take as long as ten steps, and nothing here looks at them."""
    monkeypatch.setattr(finish, "plot_curves", lambda *_, **__: None)
    monkeypatch.setattr(finish, "plot_confusion", lambda *_, **__: None)


def train(case: str, data: Path, folder: Path, *, still: bool) -> dict[str, Any]:
    name, _, arch = case.rpartition(", ")
    found: dict[str, Any] = OWN["train_case"](name, arch, data=data, folder=folder, still=still)
    return found


def assert_equal_terms(found: dict[str, Any], recorded: dict[str, Any]) -> None:
    assert found.keys() == recorded.keys()
    for term, values in recorded.items():
        np.testing.assert_allclose(found[term], values, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("case", RECORD["still"])
def test_losses_are_those_recorded(
    case: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of twenty batches, with all that the methods remember from one to the next."""
    monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path / "cache"))
    found = train(case, data, tmp_path, still=True)
    assert_equal_terms(found["terms"], RECORD["still"][case]["terms"])


@pytest.mark.slow
@pytest.mark.parametrize("case", RECORD["moving"])
def test_a_training_is_the_one_recorded(
    case: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, where torch and processor are those of the record."""
    recorded = RECORD["moving"][case]
    own = OWN["capability"]()
    if {key: recorded.get(key, RECORD[key]) for key in own} != own:
        pytest.skip("recorded with another torch or processor, which rounds otherwise")
    monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path / "cache"))
    found = train(case, data, tmp_path, still=False)
    assert_equal_terms(found["terms"], recorded["terms"])
    assert found["sha256"] == recorded["sha256"]
