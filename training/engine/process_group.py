"""The processes of one run, as `torchrun` starts them; most runs are one process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

from runtime.base.errors import SkdEdgeError, first_line

# The other processes wait while the main one downloads, decodes or evaluates. The limit of torch,
# ten minutes, is too short for that. It is not needed: torchrun ends all when one has died.
_PATIENCE = timedelta(days=1)


class LostProcessError(SkdEdgeError):
    """Another process of the run has ended, so this one cannot go on."""


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


def started_by_torchrun() -> tuple[int, int]:
    """This process's rank on its machine and the number of processes, by torchrun's variables."""
    return int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def open_group(device: torch.device) -> Iterator[ProcessGroup]:
    """The group of this process while the block runs: NCCL between GPUs, gloo between CPUs."""
    _, world_size = started_by_torchrun()
    if world_size == 1:
        yield ProcessGroup()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield ProcessGroup(distributed.get_rank(), world_size)
    finally:
        distributed.destroy_process_group()


@contextmanager
def _losses_named() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # the backends have no more specific error
        raise LostProcessError(
            f"another process of this run has ended ({first_line(error)}); "
            "the last checkpoint is kept, start all processes again with --resume"
        ) from error
