"""`export/to_triton.py --kserve`: what a cluster gets."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from export.to_triton import main
from export.triton_server.cluster_manifests import cluster_name
from runtime.base.errors import UserError
from runtime.server.metrics import Metrics

NIGHTLY = pytest.mark.skipif(
    "SKD_EDGE_NIGHTLY" not in os.environ,
    reason="installs kserve and kubernetes-validate in an environment of their own: make nightly",
)
VALIDATE = Path(__file__).with_name("validate_manifests.py")


@pytest.fixture
def repository(bundle: Path, tmp_path: Path) -> Path:
    out = tmp_path / "repository"
    assert main([str(bundle), "--out", str(out), "--name", "Leaves_v2", "--kserve"]) == 0
    return out


def objects(file: Path) -> dict[str, dict[str, Any]]:
    return {each["kind"]: each for each in yaml.safe_load_all(file.read_text())}


def test_kserve_serves_the_repository_with_triton(bundle: Path, repository: Path) -> None:
    (service,) = objects(repository / "kserve.yaml").values()
    assert (service["apiVersion"], service["kind"]) == (
        "serving.kserve.io/v1beta1",
        "InferenceService",
    )
    assert service["metadata"]["name"] == "leaves-v2"
    model = service["spec"]["predictor"]["model"]
    assert model["modelFormat"]["name"] == "triton"
    assert model["protocolVersion"] == "v2"
    assert model["storageUri"] == "pvc://model-repository"
    again = [str(bundle), "--out", str(repository), "--name", "Leaves_v2", "--kserve"]
    assert main([*again, "--storage-uri", "s3://bucket/models"]) == 0
    (service,) = objects(repository / "kserve.yaml").values()
    assert service["spec"]["predictor"]["model"]["storageUri"] == "s3://bucket/models"


def test_our_own_server_is_probed_and_scales_by_its_queue(repository: Path) -> None:
    found = objects(repository / "kubernetes.yaml")
    assert set(found) == {"Deployment", "Service", "HorizontalPodAutoscaler"}
    template = found["Deployment"]["spec"]["template"]
    (container,) = template["spec"]["containers"]
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in PROBES}
    assert paths == PROBES
    assert container["resources"] == {
        "requests": {"cpu": "2", "memory": "1Gi"},
        "limits": {"memory": "3Gi"},
    }
    labels = template["metadata"]["labels"]
    assert found["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert found["Service"]["spec"]["selector"] == labels
    scaler = found["HorizontalPodAutoscaler"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == found["Deployment"]["metadata"]["name"]
    (metric,) = scaler["metrics"]
    registry = Metrics(SimpleNamespace(by_name={})).exposition()  # type: ignore[arg-type]
    exposed = registry.decode()
    assert f"# TYPE {metric['pods']['metric']['name']} gauge" in exposed
    assert metric["pods"]["target"] == {"type": "AverageValue", "averageValue": "8"}
    volumes = {volume["name"] for volume in template["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


PROBES = {"startup": "/readyz", "readiness": "/readyz", "liveness": "/healthz"}


def test_a_file_of_somebody_else_is_kept(bundle: Path, tmp_path: Path) -> None:
    own = tmp_path / "kserve.yaml"
    own.write_text("mine: true\n")
    with pytest.raises(UserError, match="was not written by this command"):
        main([str(bundle), "--out", str(tmp_path), "--name", "leaves", "--kserve"])
    assert own.read_text() == "mine: true\n"
    assert not (tmp_path / "leaves").exists()


def test_manifests_of_another_model_are_kept(bundle: Path, repository: Path) -> None:
    former = {path: path.read_bytes() for path in repository.glob("*.yaml")}
    assert len(former) == 2
    second = [str(bundle), "--out", str(repository), "--name", "shells"]
    with pytest.raises(UserError, match=r"kserve.yaml is of leaves-v2, expected shells; move it"):
        main([*second, "--kserve"])
    assert not (repository / "shells").exists()
    assert main(second) == 0  # Triton serves several models of one repository
    assert {path: path.read_bytes() for path in repository.glob("*.yaml")} == former


def test_a_name_that_yaml_puts_in_quotes_is_known_again(bundle: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert main([str(bundle), "--out", str(tmp_path), "--name", "yes", "--kserve"]) == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [("digits-mobilenetv2", "digits-mobilenetv2"), ("Ünser Baum_1.", "nser-baum-1"),
     ("17flowers", "model-17flowers"), ("x" * 70, "x" * 50)],
)  # fmt: skip
def test_names_are_what_a_cluster_takes(name: str, expected: str) -> None:
    assert cluster_name(name) == expected


def test_a_name_of_which_nothing_is_left_is_refused() -> None:
    with pytest.raises(UserError, match="choose --name"):
        cluster_name("木木")


@NIGHTLY
def test_kserve_and_kubernetes_take_the_manifests(repository: Path, tmp_path: Path) -> None:
    home = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", home], check=True)
    python = home / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "kserve", "kubernetes-validate"]
    subprocess.run(pip, check=True)
    files = [repository / "kserve.yaml", repository / "kubernetes.yaml"]
    checked = subprocess.run([python, VALIDATE, *files], check=True, capture_output=True)
    assert json.loads(checked.stdout) == {
        "InferenceService": [],
        "Deployment": [],
        "Service": [],
        "HorizontalPodAutoscaler": [],
    }
