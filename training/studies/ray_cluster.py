"""The connection to a Ray cluster: within a time limit, with what is wrong in one line.

`ray.init` waits for two minutes where nothing answers, and then ends the whole process. So another
process tries it first.
"""

import math
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runtime.base.errors import UserError

EXTRA = "ray"
_ANSWER_SECONDS = 5.0  # for a connection by TCP
_JOIN_SECONDS = 30.0  # for a process that joins the cluster and leaves it
_OWN_CLUSTER = "auto"  # Ray's word for the cluster that this machine belongs to
_JOIN = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
"""
_HINT = (
    "expected the address of a head node (`ray start --head` prints it, its port is 6379 by "
    "default), called from a machine of its cluster"
)


@dataclass(frozen=True)
class Node:
    """A node that is alive.

    Attributes:
        key: Ray's number of it.
        address: of its machine.
        cpus: all that it has, as Ray counts them.
        gpus: the same.
    """

    key: str
    address: str
    cpus: int
    gpus: int


def join_cluster(address: str) -> Any:
    """Connects this process to the cluster, and returns the module `ray`.

    Args:
        address: `HOST:PORT` of the head; empty: of the cluster that this machine belongs to.

    Raises:
        UserError: if Ray is not installed, or if no cluster answers in time.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise UserError(
            f"the package ray is not installed; `pip install '.[{EXTRA}]'` in SKD Edge's folder "
            "brings what --on needs"
        ) from error
    # Newer versions hide no GPU from what has no share of one, and older ones warn that they will
    # not either. What has no share is told so by `NodeRun`.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address:
        _check_answer(address)
    named = address or _OWN_CLUSTER
    _check_join(named)
    ray.init(address=named, log_to_driver=False, logging_level="ERROR")
    return ray


def alive_nodes(ray: Any) -> list[Node]:
    """The nodes of the cluster that are alive."""
    return [
        Node(
            key=each["NodeID"],
            address=each["NodeManagerAddress"],
            cpus=int(each["Resources"].get("CPU", 0)),
            gpus=int(each["Resources"].get("GPU", 0)),
        )
        for each in ray.nodes()
        if each["Alive"]
    ]


def usual_jobs(nodes: Sequence[Node], *, device: str) -> int:
    """A run for each GPU; where there is none, or where none is wanted, one for each node."""
    gpus = sum(node.gpus for node in nodes) if device != "cpu" else 0
    return max(1, gpus or sum(node.cpus > 0 for node in nodes))


def share_of_run(nodes: Sequence[Node], *, jobs: int, device: str) -> tuple[int, float]:
    """The CPUs, and the GPUs or part of one, of each of `jobs` runs that go on at a time.

    Where the cluster has GPUs and the device is not `cpu`, every run has a GPU or a part of one.
    CPUs are as many as leave room for `jobs` runs, and at least one.

    Raises:
        UserError: if no node has what the device needs.
    """
    if not any(node.cpus for node in nodes):
        raise UserError("the Ray cluster has no CPUs; start its nodes with --num-cpus above 0")
    total = sum(node.gpus for node in nodes) if device != "cpu" else 0
    if device == "cuda" and not total:
        raise UserError("no node of the Ray cluster has a GPU, which --device cuda needs")
    gpus = 1 / max(1, math.ceil(jobs / total)) if total else 0.0

    def room(cpus: int) -> int:
        """How many runs with so many CPUs go on at a time."""
        on_cpus = [node.cpus // cpus for node in nodes]
        on_gpus = [
            round(node.gpus / gpus) if gpus else room
            for node, room in zip(nodes, on_cpus, strict=True)
        ]
        return sum(map(min, on_cpus, on_gpus))

    candidates = [node.cpus for node in nodes if node.cpus and (node.gpus or not gpus)]
    fitting = [cpus for cpus in range(1, max(candidates, default=1) + 1) if room(cpus) >= jobs]
    return max(fitting, default=1), gpus


def _check_answer(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS).close()
    except OSError as error:
        why = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise UserError(f"no Ray cluster is at {address} ({why}); {_HINT}") from error


def _check_join(address: str) -> None:
    command = [sys.executable, "-c", _JOIN, address]
    try:
        tried = subprocess.run(
            command, capture_output=True, text=True, timeout=_JOIN_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"what is at {address} is no Ray cluster that answers within {_JOIN_SECONDS:.0f} s; "
            f"{_HINT}"
        ) from None
    if tried.returncode == 0:
        return
    if address == _OWN_CLUSTER:
        raise UserError(
            "this machine belongs to no Ray cluster; start one with `ray start --head`, or name "
            "it: --on ray://HOST:PORT"
        )
    said = tried.stderr.strip().splitlines() or ["it said nothing"]
    raise UserError(f"the Ray cluster at {address} cannot be used ({said[-1]}); {_HINT}")
