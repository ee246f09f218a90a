"""Batch normalisation over processes: two of them, as threads, against torch's own layer."""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from training.engine.sync_batch_norm import SyncBatchNorm, use_sync_batch_norm


class Exchange:
    """Means over two threads, as a ProcessGroup has them over processes."""

    def __init__(self) -> None:
        self._barrier = threading.Barrier(2, timeout=20)
        self._parts: list[list[Tensor]] = []

    def average(self, tensors: list[Tensor]) -> None:
        self._parts.append([tensor.clone() for tensor in tensors])
        self._barrier.wait()
        means = [torch.stack(pair).mean(0) for pair in zip(*self._parts, strict=True)]
        self._barrier.wait()
        self._parts.clear()
        self._barrier.wait()
        for tensor, mean in zip(tensors, means, strict=True):
            tensor.copy_(mean)


def norm() -> nn.BatchNorm2d:
    torch.manual_seed(1)
    made = nn.BatchNorm2d(3)
    nn.init.uniform_(made.weight)
    nn.init.uniform_(made.bias)
    return made


def test_two_halves_give_what_the_whole_batch_gives() -> None:
    torch.manual_seed(0)
    images, weights = torch.randn(8, 3, 4, 5) * 3 + 2, torch.randn(8, 3, 4, 5)
    whole, inputs = norm(), images.clone().requires_grad_()
    (whole(inputs) * weights).sum().div(2).backward()  # the mean of two processes' losses

    exchange = Exchange()
    norms = norm(), norm()  # not in the threads, which share torch's random numbers

    def half(rank: int) -> tuple[nn.BatchNorm2d, Tensor]:
        own = norms[rank]
        use_sync_batch_norm(own, exchange.average, 2)
        assert type(own) is SyncBatchNorm
        part = images[4 * rank :][:4].clone().requires_grad_()
        (own(part) * weights[4 * rank :][:4]).sum().backward()
        assert part.grad is not None
        return own, part.grad

    with ThreadPoolExecutor(2) as pool:
        (first, gradient), (second, other) = pool.map(half, (0, 1))
    # Each half has the gradient of the sum of the losses, of which the mean is taken later.
    torch.testing.assert_close(torch.cat([gradient, other]) / 2, inputs.grad)
    for name in ("weight", "bias"):
        parts = [getattr(each, name).grad for each in (first, second)]
        torch.testing.assert_close(sum(parts) / 2, getattr(whole, name).grad)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(first.state_dict()[name], value)
    first.eval()
    whole.eval()
    assert torch.allclose(first(images), whole(images), atol=1e-6)
