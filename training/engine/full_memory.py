"""Errors of torch that say that a device's memory is full, as one line for the user."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from runtime.base.errors import UserError
from training.config.plan import Plan
from training.engine.device import device_name

SMALLER = "use a smaller --batch-size or --image-size"
# Where CUDA itself has no memory, and where a CPU has none, torch has no class for the error.
_WORDS = ("CUDA error: out of memory", "DefaultCPUAllocator: can't allocate memory")


def images_words(plan: Plan) -> str:
    """What the memory of a training holds."""
    return f"batches of {plan.recipe.batch_size} images of {plan.input.size} px"


@contextmanager
def full_memory_told(device: torch.device, held: str, *, smaller: str = "") -> Iterator[None]:
    """While the block runs, an error of a full memory becomes an error of the user.

    Args:
        device: on which the block computes.
        held: what its memory is to hold.
        smaller: how the user makes that smaller, if there is a way.

    Raises:
        UserError: the memory is full.
    """
    try:
        yield
    except RuntimeError as error:
        if not _is_of_full_memory(error):
            raise
        on_cuda = device.type == "cuda"
        ways = [smaller] if smaller else ["use --device cpu"] if on_cuda else []
        ways.append(f"end what else uses it{' (`nvidia-smi` shows it)' if on_cuda else ''}")
        raise UserError(
            f"the memory of {device_name(device)} did not hold {held}; {', or '.join(ways)}"
        ) from error


def _is_of_full_memory(error: BaseException | None) -> bool:
    """Whether it is one, or came after one: the end of a graph's capture raises another error."""
    while error is not None:
        told = str(error)
        if isinstance(error, torch.OutOfMemoryError) or any(words in told for words in _WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False
