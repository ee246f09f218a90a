"""Runs on a Ray cluster. A run of a node that is lost goes on elsewhere from its last checkpoint.

Each run is an actor that holds processors and its share of a GPU: a small process on a node, whose
child is the same resumable command as on one machine (training.studies.ray_node).
"""

import os
import secrets
import signal
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any

from runtime.base.command import VERSION
from runtime.base.errors import UserError, first_line
from runtime.base.files import write_atomic
from training.studies.place import whole_paths
from training.studies.pool import epochs_done
from training.studies.ray_cluster import (
    Node,
    alive_nodes,
    join_cluster,
    share_of_run,
    usual_jobs,
)
from training.studies.ray_node import Look, NodeRun, Order, State, files_of, lacking
from training.studies.study_run import StudyRun

_MARK = ".shared"  # in the study's folder: a node that can read it shares the folder
_LOOK_SECONDS = 0.5  # between two looks at a run
_CHECK_SECONDS = 60.0  # for all nodes to say what they lack
_CLEAR_SECONDS = 10.0  # for a node to remove what it has of a finished run
_STOP_SECONDS = 10.0  # for a node to hand a signal on
_WAIT_SECONDS = 30.0  # for a place in the cluster, before that is said
_MOST_LOSSES = 5  # of a run without an epoch in between: then it is the run that ends its nodes
_FAILED = 1


@dataclass
class _Started:
    """A run that was started: its actor, and the question that it has not answered yet."""

    run: StudyRun
    jobs: int
    actor: Any
    question: Any  # Ray's reference; the answer is a bool first, then None, then looks
    stage: str = "opening"  # then "beginning", then "going on"
    known: dict[str, State] = field(default_factory=dict)
    asked_at: float = field(default_factory=monotonic)
    told_to_wait: bool = False
    stopping: bool = False
    losses: int = 0
    epochs_at_loss: int = 0
    code: int | None = None


class RayRuns:
    """The runs on a cluster; a `Place` (training.studies.place)."""

    def __init__(self, address: str, *, device: str, forget_shared: bool = False) -> None:
        """Joins the cluster.

        Args:
            address: `HOST:PORT`; empty: of the cluster that this machine belongs to.
            device: on which the runs train.
            forget_shared: whether nodes shall use folders of their own in any case (for tests).

        Raises:
            UserError: if Ray is not installed, or if no cluster answers.
        """
        self._ray = join_cluster(address)
        self._device = device
        self._forget_shared = forget_shared
        self._checked: set[str] = set()  # the nodes that lack nothing
        self._mark_text = secrets.token_hex(8)
        self._started: dict[Path, _Started] = {}
        self.usual_jobs = usual_jobs(alive_nodes(self._ray), device=device)

    def start(self, run: StudyRun, jobs: int) -> None:
        write_atomic(run.parent / _MARK, self._mark_text)
        self._check_nodes(run)
        self._started[run.folder] = self._actor_of(run, jobs)

    def poll(self, run: StudyRun) -> int | None:
        started = self._started[run.folder]
        if started.code is None:
            try:
                self._advance(started)
            except self._ray.exceptions.ActorUnavailableError:
                self._ask(started)  # a connection was cut, and the node may be alive
            except self._ray.exceptions.RayActorError:
                self._lose(started)
            except self._ray.exceptions.RayTaskError as error:
                self._fail(started, str(first_line(error.cause)))
        return started.code

    def stop(self, run: StudyRun, *, at_once: bool = False) -> None:
        started = self._started[run.folder]
        if started.code is not None:
            return
        started.stopping = True
        waits = started.stage == "opening"  # it has no place in the cluster yet
        if at_once or waits:
            self._ray.kill(started.actor)
            started.code = -signal.SIGKILL
        else:
            self._send(started, signal.SIGTERM)

    def stand(self, run: StudyRun, *, still: bool) -> None:
        self._send(self._started[run.folder], signal.SIGSTOP if still else signal.SIGCONT)

    def _send(self, started: _Started, number: int) -> None:
        sent = started.actor.send.remote(number)
        with suppress(self._ray.exceptions.RayError):  # a node that is lost is found by `poll`
            self._ray.get(sent, timeout=_STOP_SECONDS)

    def _actor_of(self, run: StudyRun, jobs: int) -> _Started:
        cpus, gpus = share_of_run(alive_nodes(self._ray), jobs=jobs, device=self._device)
        parent = run.parent.absolute()
        whole = replace(run, parent=parent, shared=whole_paths(run.shared))
        order = Order(
            run=whole,
            working_folder=Path.cwd(),
            mark=parent / _MARK,
            mark_text=self._mark_text,
            threads=os.environ.get("OMP_NUM_THREADS"),
            gpus=gpus,
            forget_shared=self._forget_shared,
        )
        remote = self._ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0)(NodeRun)
        actor = remote.remote(order)
        return _Started(run, jobs, actor, actor.shares_folder.remote())

    def _advance(self, started: _Started) -> None:
        """Takes the answer, if there is one, and asks what comes next."""
        if started.question is None:
            if monotonic() - started.asked_at >= _LOOK_SECONDS:
                self._ask(started)
            return
        if not self._ray.wait([started.question], timeout=0)[0]:
            self._tell_waiting(started)
            return
        answer = self._ray.get(started.question)
        started.question = None
        if started.stage == "opening":
            started.stage = "beginning"
            files = {} if answer else _files(started.run)
            started.question = started.actor.begin.remote(files)
        elif started.stage == "beginning":
            started.stage = "going on"
            self._ask(started)
        else:
            self._take(started, answer)

    def _ask(self, started: _Started) -> None:
        started.asked_at = monotonic()
        started.question = started.actor.look.remote(started.known)

    def _take(self, started: _Started, look: Look) -> None:
        for name, content in look.files.items():
            write_atomic(started.run.parent / name, content)
        started.known = look.states
        if look.code is None:
            return
        with suppress(self._ray.exceptions.RayError):
            self._ray.get(started.actor.clear.remote(), timeout=_CLEAR_SECONDS)
        self._ray.kill(started.actor)
        started.code = look.code

    def _lose(self, started: _Started) -> None:
        """Starts a run again whose node was lost."""
        run = started.run
        epochs = epochs_done(run)
        losses = 1 if epochs > started.epochs_at_loss else started.losses + 1
        if started.stopping:
            started.code = _FAILED
        elif losses > _MOST_LOSSES:
            self._fail(started, f"its node was lost {losses} times without an epoch in between")
        else:
            print(  # noqa: T201
                f"{run.study}: {run.folder.name}: its node was lost; it goes on elsewhere from "
                "its last checkpoint",
                flush=True,
            )
            again = self._actor_of(run, started.jobs)
            again.losses, again.epochs_at_loss = losses, epochs
            self._started[run.folder] = again

    def _fail(self, started: _Started, why: str) -> None:
        with started.run.log.open("a", encoding="utf-8") as log:
            log.write(f"error: {why}\n")
        self._ray.kill(started.actor)
        started.code = _FAILED

    def _tell_waiting(self, started: _Started) -> None:
        waits = started.stage == "opening" and not started.told_to_wait
        if waits and monotonic() - started.asked_at > _WAIT_SECONDS:
            started.told_to_wait = True
            name = f"{started.run.study}: {started.run.folder.name}"
            print(f"{name}: waits for a place in the Ray cluster", flush=True)  # noqa: T201

    def _check_nodes(self, run: StudyRun) -> None:
        """Asks the nodes that were not asked yet what they lack.

        Raises:
            UserError: if a node lacks something, or does not answer in time.
        """
        nodes = [each for each in alive_nodes(self._ray) if each.cpus]
        new = [each for each in nodes if each.key not in self._checked]
        asked = {each: self._asked(each, run) for each in new}
        end = monotonic() + _CHECK_SECONDS
        for node, question in asked.items():
            try:
                lack = self._ray.get(question, timeout=max(0.0, end - monotonic()))
            except self._ray.exceptions.GetTimeoutError:
                lack = f"has not answered within {_CHECK_SECONDS:.0f} s"
            except self._ray.exceptions.RayError as error:
                lack = f"cannot run SKD Edge ({_last_line(error)}); install it there, too"
            if lack is not None:
                raise UserError(f"the Ray node {node.address} {lack}")
            self._checked.add(node.key)

    def _asked(self, node: Node, run: StudyRun) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(node.key, soft=False)
        remote = self._ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(lacking)
        return remote.remote(whole_paths(run.shared), VERSION)


def _files(run: StudyRun) -> dict[str, bytes]:
    return {name: (run.parent / name).read_bytes() for name in files_of(run)}


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
