"""Manifests for a cluster: KServe's InferenceService, and a Deployment of our own server.

The first serves the Triton repository with KServe's Triton runtime. The second needs no KServe: it
serves the bundle by HTTP, and scales by the queue of the server, which Prometheus' adapter hands to
Kubernetes.
"""

import re
from pathlib import Path
from typing import Any

from export.triton_server.config import TritonModel
from runtime.base.errors import UserError
from runtime.base.files import write_atomic

KSERVE_FILE, SERVER_FILE = "kserve.yaml", "kubernetes.yaml"
DEFAULT_STORAGE = "pvc://model-repository"
_MARK = "# Written by `python export/to_triton.py --kserve`."
_QUEUE_METRIC = "skd_edge_waiting_images"  # of runtime/server/metrics.py; a test compares them
_WAITING = 8  # images a server, on average; it accepts 128
_PORT = 8000
_MOST_REPLICAS = 10
_MOST_NAME = 50  # Kubernetes allows 63, and adds its own suffixes
_GRACE_SECONDS = 40  # the server takes up to 30 to answer what it has accepted
_CPU = {"cpu": "2", "memory": "1Gi"}
# The largest picture takes 2.0 GiB for a moment (pixel_budget.py), all bodies together 256 MiB.
_MOST_MEMORY = "3Gi"
_GPU = {"nvidia.com/gpu": "1"}
_USER = 10001  # as in docs/docker/Dockerfile


def write_manifests(
    repository: Path, model: TritonModel, *, storage: str, image: str
) -> tuple[Path, Path]:
    """Writes both manifests into the repository, where Triton reads folders only.

    They replace what is there, so that `check_manifests` comes first.

    Args:
        repository: the model repository.
        model: that it holds.
        storage: KServe's address of the repository, such as `s3://bucket/repository`.
        image: the container image of docs/docker/Dockerfile.
    """
    found = []
    for name, objects, notes in (
        (KSERVE_FILE, [inference_service(model, storage=storage)], _kserve_notes(model, storage)),
        (SERVER_FILE, server_objects(model, image=image), _server_notes(image)),
    ):
        path = repository / name
        write_atomic(path, _yaml(objects, notes).encode())
        found.append(path)
    return found[0], found[1]


def check_manifests(repository: Path, name: str) -> None:
    """Refuses a repository whose manifests this model would replace.

    Raises:
        UserError: a manifest is not of this command, or is of another model than `name`; or a
            cluster takes nothing of the name.
    """
    own = cluster_name(name)
    for file, named in ((KSERVE_FILE, own), (SERVER_FILE, f"{own}-server")):
        path = repository / file
        if not path.exists():
            continue
        text = path.read_text(errors="replace")
        if not text.startswith(_MARK):
            raise UserError(f"{path} was not written by this command; move it, or choose --out")
        found = re.search(r"^  name: '?(.+?)'?$", text, flags=re.MULTILINE)
        if found is None or found[1] != named:
            other = found[1] if found else "no model"
            raise UserError(
                f"{path} is of {other}, expected {named}; move it, choose --out, or leave out "
                "--kserve"
            )


def inference_service(model: TritonModel, *, storage: str) -> dict[str, Any]:
    """KServe's InferenceService (serving.kserve.io/v1beta1) on the Triton repository."""
    name = cluster_name(model.name)
    resources = _resources(gpu=model.backend == "tensorrt")
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name, "labels": _labels(name)},
        "spec": {
            "predictor": {
                "minReplicas": 1,
                "maxReplicas": _MOST_REPLICAS,
                "scaleMetric": "concurrency",
                "scaleTarget": _WAITING,
                "model": {
                    "modelFormat": {"name": "triton", "version": "2"},
                    "runtime": "kserve-tritonserver",
                    "protocolVersion": "v2",
                    "storageUri": storage,
                    "resources": resources,
                },
            }
        },
    }


def server_objects(model: TritonModel, *, image: str) -> list[dict[str, Any]]:
    """A Deployment of `python -m runtime serve`, its Service, and what scales it by its queue."""
    name = f"{cluster_name(model.name)}-server"  # KServe makes a Service of the plain name
    labels = _labels(name)
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "labels": labels},
            # No number of replicas: the autoscaler has it, and applying this again must not reset
            # it.
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {
                        "labels": labels,
                        "annotations": {
                            "prometheus.io/scrape": "true",
                            "prometheus.io/path": "/metrics",
                            "prometheus.io/port": str(_PORT),
                        },
                    },
                    "spec": _pod(name, image),
                },
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "labels": labels},
            "spec": {
                "selector": labels,
                "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
            },
        },
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": name, "labels": labels},
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
                "minReplicas": 1,
                "maxReplicas": _MOST_REPLICAS,
                "metrics": [
                    {
                        "type": "Pods",
                        "pods": {
                            "metric": {"name": _QUEUE_METRIC},
                            "target": {"type": "AverageValue", "averageValue": str(_WAITING)},
                        },
                    }
                ],
            },
        },
    ]


def cluster_name(name: str) -> str:
    """`name` as Kubernetes and KServe take it: a DNS label that begins with a letter (RFC 1035).

    Raises:
        UserError: nothing of the name is left.
    """
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_MOST_NAME].rstrip("-")
    if not label:
        raise UserError(
            f"the model's name {name!r} has no letter that a cluster takes; choose --name"
        )
    return label if label[0].isalpha() else f"model-{label}"


def _pod(name: str, image: str) -> dict[str, Any]:
    def probe(path: str, **times: int) -> dict[str, Any]:
        return {"httpGet": {"path": path, "port": "http"}, "timeoutSeconds": 3, **times}

    return {
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "securityContext": {"runAsNonRoot": True, "runAsUser": _USER, "runAsGroup": _USER},
        "containers": [
            {
                "name": "server",
                "image": image,
                "args": ["/model", "--watch"],
                "ports": [{"name": "http", "containerPort": _PORT}],
                "env": [
                    {
                        "name": "SKD_EDGE_TOKEN",
                        "valueFrom": {
                            "secretKeyRef": {"name": name, "key": "token", "optional": True}
                        },
                    }
                ],
                "startupProbe": probe("/readyz", periodSeconds=2, failureThreshold=60),
                "readinessProbe": probe("/readyz", periodSeconds=5, failureThreshold=2),
                "livenessProbe": probe("/healthz", periodSeconds=10, failureThreshold=3),
                "resources": _resources(gpu=False),
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [
                    {"name": "model", "mountPath": "/model", "readOnly": True},
                    {"name": "temporary", "mountPath": "/tmp"},  # the cache lies here
                ],
            }
        ],
        "volumes": [
            {"name": "model", "persistentVolumeClaim": {"claimName": name, "readOnly": True}},
            {"name": "temporary", "emptyDir": {}},
        ],
    }


def _resources(*, gpu: bool) -> dict[str, dict[str, str]]:
    limits = {"memory": _MOST_MEMORY, **(_GPU if gpu else {})}
    # No limit of processor time: it would stop the threads in the middle of a batch.
    return {"requests": {**_CPU, **(_GPU if gpu else {})}, "limits": limits}


def _labels(name: str) -> dict[str, str]:
    return {"app.kubernetes.io/name": name}


def _kserve_notes(model: TritonModel, storage: str) -> list[str]:
    notes = [f"KServe reads the model repository from {storage}: copy this folder there."]
    if model.backend == "python":
        notes.append("Triton's image must have this project: `pip install .` in its Python.")
    return notes


def _server_notes(image: str) -> list[str]:
    return [
        f"{image} is built from docs/docker/Dockerfile; the claim of the volume holds the bundle.",
        "The autoscaler asks Prometheus' adapter for the number of images that wait.",
    ]


def _yaml(objects: list[dict[str, Any]], notes: list[str]) -> str:
    import yaml  # of the extra `train`, which `export` includes

    head = "".join(f"{line}\n" for line in (_MARK, *(f"# {note}" for note in notes)))
    return head + yaml.safe_dump_all(objects, sort_keys=False, allow_unicode=True, width=100)
