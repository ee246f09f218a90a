"""Checks manifests with kserve's classes and Kubernetes' schemas: run by test_cluster_manifests.py.

    python validate_manifests.py FILE ...

Prints one JSON object: the faults of each object, by its kind. Needs kserve and
kubernetes-validate.
"""

import json
import sys
from pathlib import Path
from typing import Any

import kserve
import kubernetes_validate
import yaml


def faults(value: dict[str, Any]) -> list[str]:
    if value["kind"] == "InferenceService":
        return kserve_faults(value, "V1beta1InferenceService", value["kind"])
    try:
        kubernetes_validate.validate(value, "1.30", strict=True)
    except Exception as error:
        return [str(error)]
    return []


def kserve_faults(value: Any, kind: str, where: str) -> list[str]:
    """Keys that kserve's class `kind` does not know, and values that it refuses."""
    known = getattr(kserve.models, kind, None)
    if known is None:  # a string, a number, or one of Kubernetes' own
        simple = {"str": str, "int": int}.get(kind, object)
        return [] if isinstance(value, simple) else [f"{where}: {value!r} is no {kind}"]
    names = {written: name for name, written in known.attribute_map.items()}
    found = [f"{where}.{key} is unknown to {kind}" for key in value if key not in names]
    for key in value.keys() & names:
        found += kserve_faults(value[key], known.openapi_types[names[key]], f"{where}.{key}")
    try:
        known(**{names[key]: each for key, each in value.items() if key in names})
    except ValueError as error:
        found.append(f"{where}: {error}")
    return found


if __name__ == "__main__":
    texts = [Path(file).read_text(encoding="utf-8") for file in sys.argv[1:]]
    values = [value for text in texts for value in yaml.safe_load_all(text)]
    print(json.dumps({value["kind"]: faults(value) for value in values}))
