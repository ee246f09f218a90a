"""The processes of one run, as `torchrun` starts them; most runs are one process."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed

from runtime.base.errors import UserError, first_line
from training.engine.heartbeat import ADVICE, LastWords, LostProcessError, ender, open_heartbeat

# The other processes wait while the main one downloads, decodes or evaluates. The limit of torch,
# ten minutes, is too short for that. It is not needed: torchrun ends all processes of a host when
# one has died, and the heartbeat finds hosts and links that are gone.
_PATIENCE = timedelta(days=1)
_ENDING_SECONDS = 60.0  # far more than the heartbeat's thread needs to end the process
T = TypeVar("T")


@dataclass(frozen=True)
class ProcessGroup:
    """What a process knows of its group; all processes must call each method together."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that evaluates, writes files and prints."""
        return self.rank == 0

    def average(self, tensors: list[Tensor]) -> None:
        """Replaces float tensors by their means over the processes, in one exchange."""
        if self.world_size == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _losses_named():
            distributed.all_reduce(flat)
        flat /= self.world_size
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))

    def any(self, flag: bool, *, device: torch.device) -> bool:
        """Whether `flag` is set in any process."""
        if self.world_size == 1:
            return flag
        count = torch.tensor(float(flag), device=device)
        with _losses_named():
            distributed.all_reduce(count)
        return bool(count > 0)

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes by rank, in the main process; elsewhere an empty list."""
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size if self.is_main else None
        with _losses_named():
            distributed.gather_object(value, values)
        return values or []

    def share(self, value: Any) -> Any:
        """The main process's value, in every process."""
        if self.world_size == 1:
            return value
        values = [value]
        with _losses_named():
            distributed.broadcast_object_list(values)
        return values[0]

    def on_main(self, work: Callable[[], T]) -> T | None:
        """What `work()` gives in the main process, which alone does it; None elsewhere.

        Raises:
            UserError: in every process, if it is raised in the main one.
        """
        result, mistake = _attempt(work) if self.is_main else (None, None)
        if (mistake := self.share(mistake)) is not None:
            raise UserError(mistake)
        return result

    def on_all(self, work: Callable[[], T]) -> T:
        """What `work()` gives in each process.

        Raises:
            UserError: in every process, if it is raised in some of them; it names those.
        """
        if self.world_size == 1:
            return work()
        result, mistake = _attempt(work)
        found = self.gather((socket.gethostname(), mistake))
        told = [
            f"process {rank} on {host}: {mistake}"
            for rank, (host, mistake) in enumerate(found)
            if mistake is not None
        ]
        if told and len({mistake for _, mistake in found}) == 1:  # the same for all
            told = [str(found[0][1])]
        elif told:
            told[-1] += "; all hosts of a run need the same files at the same paths"
        if words := self.share("; ".join(told)):
            raise UserError(words)
        return cast(T, result)


def started_by_torchrun() -> tuple[int, int]:
    """This process's rank on its machine and the number of processes, by torchrun's variables."""
    return int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def open_group(device: torch.device) -> Iterator[ProcessGroup]:
    """The group of this process while the block runs: NCCL between GPUs, gloo between CPUs.

    Raises:
        UserError: the processes cannot be connected.
    """
    _, world_size = started_by_torchrun()
    if world_size == 1:
        yield ProcessGroup()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        distributed.init_process_group(backend, timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:  # no connection; a variable of torchrun is missing
        raise UserError(
            f"this process cannot join the {world_size} of its run ({first_line(error)}); start "
            "them with torchrun, on hosts that reach each other on all TCP ports"
        ) from error
    try:
        yield ProcessGroup(distributed.get_rank(), world_size)
    finally:
        distributed.destroy_process_group()


@contextmanager
def watched(group: ProcessGroup) -> Iterator[None]:
    """The heartbeat of `group` while the block runs; all processes enter it together.

    Raises:
        LostProcessError: another process has ended or cannot be reached. Where the block waits in
            a collective that cannot be interrupted, the process ends with that line instead.
    """
    if group.world_size == 1:
        yield
        return
    words = LastWords()
    heartbeat = open_heartbeat(group.rank, group.world_size, group.share, ender(words))
    try:
        yield
    except LostProcessError:
        if not words.take():
            time.sleep(_ENDING_SECONDS)  # the heartbeat has said it and is ending the process
        heartbeat.stop(goodbye=False)
        raise
    except BaseException:
        heartbeat.stop(goodbye=False)
        raise
    heartbeat.stop(goodbye=True)


def _attempt(work: Callable[[], T]) -> tuple[T | None, str | None]:
    """What `work()` gives, or the user's mistake that it found."""
    try:
        return work(), None
    except UserError as error:
        return None, str(error)
    except OSError as error:  # such as a folder that another user alone may read
        return None, f"{error.filename or 'a file'}: {error.strerror or error}"


@contextmanager
def _losses_named() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # the backends have no more specific error
        raise LostProcessError(
            f"another process of this run has ended ({first_line(error)}); {ADVICE}"
        ) from error
