"""A step as CUDA graphs. Small networks spend their time on launches, and a graph is one launch."""

import torch

from training.data.batches import Batch
from training.engine.step import Step

_WARM_UP_STEPS = 3


class CapturedStep:
    """Runs the first steps as they are and then replays them as CUDA graphs.

    The warm-up steps are real steps of the training, so no state has to be restored after them.
    They run on the stream that is captured later, because autograd and the optimizer allocate their
    lasting buffers there. With one process the whole step is one graph. With several there are two
    graphs, and the exchange of gradients runs between them.
    """

    def __init__(
        self, step: Step, *, generator: torch.Generator, device: torch.device, single: bool
    ) -> None:
        self.plain = step
        self._generator = generator
        self._device = device
        self._single = single
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._steps = 0
        self._graphs: list[torch.cuda.CUDAGraph] = []
        self._batch: Batch | None = None  # where the graphs read each batch

    def __call__(self, batch: Batch, *, learning_rate: float, scale: float) -> None:
        """One update on a stored batch; all batches have one shape."""
        if self._batch is None:
            self._batch = batch.each(torch.empty_like)
        for own, part in zip(self._batch, batch, strict=True):
            if own is not None and part is not None:
                own.copy_(part)
        self.plain.set_rates(learning_rate=learning_rate, scale=scale)
        if self._steps < _WARM_UP_STEPS:
            self._run_uncaptured()
        else:
            if not self._graphs:
                self._capture()
            self._replay()
        self._steps += 1

    def _run_uncaptured(self) -> None:
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            self.plain.compute(self._static())
            self.plain.exchange()
            self.plain.apply()
        current.wait_stream(self._stream)

    def _static(self) -> Batch:
        assert self._batch is not None
        return self._batch

    def _capture(self) -> None:
        torch.cuda.synchronize(self._device)
        first = torch.cuda.CUDAGraph()
        first.register_generator_state(self._generator)
        # Other threads gather batches at the same time. "thread_local" keeps them out of the graph.
        with torch.cuda.graph(first, stream=self._stream, capture_error_mode="thread_local"):
            self.plain.compute(self._static())
            if self._single:
                self.plain.apply()
        self._graphs = [first]
        if self._single:
            return
        second = torch.cuda.CUDAGraph()
        with torch.cuda.graph(
            second,
            pool=first.pool(),
            stream=self._stream,
            capture_error_mode="thread_local",
        ):
            self.plain.apply()
        self._graphs.append(second)

    def _replay(self) -> None:
        self._graphs[0].replay()
        if not self._single:
            self.plain.exchange()
            self._graphs[1].replay()
