# ruff: noqa: N802, N815  (the names of CUDA)
"""A stand-in for `cuda.bindings.runtime`, on the memory of the host."""

import ctypes
import itertools
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class FakeCuda:
    """`cuda.bindings.runtime` on host memory. Every call returns (status, value)."""

    cudaStreamNonBlocking = 1
    cudaHostAllocDefault = 0
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
    cudaError_t = SimpleNamespace(cudaSuccess=0)

    def __init__(self) -> None:
        self.live: dict[object, object] = {}  # what was made and not destroyed
        self.capturing: dict[int, list[Callable[[], None]]] = {}
        self.fail: str | None = None
        self.error = 700  # what the call `fail` gives
        self.log: list[str] = []
        self.streams = itertools.count(7000)
        self.lock = threading.Lock()

    def status(self, name: str) -> int:
        with self.lock:
            self.log.append(name)
        return self.error if name == self.fail else 0

    def make(self, name: str, thing: Any, address: int) -> tuple[int, object]:
        if status := self.status(name):
            return status, None
        self.live[address] = thing
        return 0, address

    def drop(self, name: str, address: int) -> tuple[int]:
        assert address in self.live, f"{name} of something that is not there"
        del self.live[address]
        return (self.status(name),)

    def allocate(self, name: str, size: int) -> tuple[int, object]:
        buffer = (ctypes.c_ubyte * size)()
        return self.make(name, buffer, ctypes.addressof(buffer))

    def cudaGetErrorString(self, status: int) -> tuple[int, bytes]:
        return 0, b"an illegal memory access was encountered"

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, object]:
        assert flags == self.cudaStreamNonBlocking
        return self.make("cudaStreamCreateWithFlags", "stream", next(self.streams))

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        return self.drop("cudaStreamDestroy", stream)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        assert stream not in self.capturing, "not allowed while capturing"
        return (self.status("cudaStreamSynchronize"),)

    def cudaStreamQuery(self, stream: int) -> tuple[int]:
        unsupported = 900  # cudaErrorStreamCaptureUnsupported
        return (unsupported if stream in self.capturing else self.status("cudaStreamQuery"),)

    def cudaMalloc(self, size: int) -> tuple[int, object]:
        return self.allocate("cudaMalloc", size)

    def cudaFree(self, address: int) -> tuple[int]:
        return self.drop("cudaFree", address)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[int, object]:
        return self.allocate("cudaHostAlloc", size)

    def cudaFreeHost(self, address: int) -> tuple[int]:
        return self.drop("cudaFreeHost", address)

    def cudaMemcpyAsync(
        self, target: int, source: int, size: int, kind: int, stream: int
    ) -> tuple[int]:
        self.submit(stream, lambda: ctypes.memmove(target, source, size))
        return (self.status("cudaMemcpyAsync"),)

    def cudaEventCreate(self) -> tuple[int, object]:
        return self.make("cudaEventCreate", "event", next(self.streams))

    def cudaEventRecord(self, event: int, stream: int) -> tuple[int]:
        return (self.status("cudaEventRecord"),)

    def cudaEventElapsedTime(self, begin: int, end: int) -> tuple[int, float]:
        return self.status("cudaEventElapsedTime"), 100.0  # between any two

    def cudaEventDestroy(self, event: int) -> tuple[int]:
        return self.drop("cudaEventDestroy", event)

    def submit(self, stream: int, work: Callable[[], Any]) -> None:
        if stream in self.capturing:
            self.capturing[stream].append(work)
        else:
            work()

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[int]:
        assert mode == self.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        if not (status := self.status("cudaStreamBeginCapture")):
            self.capturing[stream] = []
        return (status,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, object]:
        steps = self.capturing.pop(stream)
        return self.make("cudaStreamEndCapture", steps, id(steps))

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[int, object]:
        steps = self.live[graph]
        return self.make("cudaGraphInstantiate", steps, graph + 1)

    def cudaGraphDestroy(self, graph: int) -> tuple[int]:
        return self.drop("cudaGraphDestroy", graph)

    def cudaGraphExecDestroy(self, graph: int) -> tuple[int]:
        return self.drop("cudaGraphExecDestroy", graph)

    def cudaGraphLaunch(self, graph: int, stream: int) -> tuple[int]:
        for step in self.live[graph]:  # type: ignore[attr-defined]
            step()
        return (self.status("cudaGraphLaunch"),)
