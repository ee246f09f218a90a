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
    assert set(RECORD["figures"]) == expected


@pytest.mark.slow
@pytest.mark.parametrize("case", RECORD["figures"])
def test_losses_are_those_recorded(
    case: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path / "cache"))
    name, _, arch = case.rpartition(", ")
    found = OWN["train_case"](name, arch, data=data, folder=tmp_path)
    recorded = RECORD["figures"][case]
    assert found["terms"].keys() == recorded["terms"].keys()
    for term, values in recorded["terms"].items():
        np.testing.assert_allclose(found["terms"][term], values, rtol=1e-5, atol=1e-5)
    if {key: RECORD[key] for key in ("torch", "cpu")} == OWN["capability"]():
        assert found["sha256"] == recorded["sha256"]
