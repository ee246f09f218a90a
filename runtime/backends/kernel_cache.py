"""Kernels that TensorRT-RTX compiled, kept for the next process that runs the engine.

TensorRT-RTX compiles an engine's kernels while it runs; the other TensorRT does so when it builds.
Without the kept ones nothing is lost but time, so whatever goes wrong here is a line in the log.
"""

import hashlib
import logging
from pathlib import Path
from typing import Any

from runtime.backends.gpu import find_gpu
from runtime.backends.tensorrt_library import last_errors
from runtime.base.errors import UserError
from runtime.base.files import cache_root, sha256_of_bytes, write_atomic

_log = logging.getLogger(__name__)
_DIGEST_BYTES = hashlib.sha256().digest_size


class KernelCache:
    """The compiled kernels of one engine, common to its contexts."""

    def __init__(self, cache: Any, path: Path, logger: Any) -> None:
        """`cache` is an IRuntimeCache; it begins with what the file at `path` holds."""
        self._cache, self._path, self._logger = cache, path, logger
        self._kept = b""  # what the file holds, as far as we know
        self._load()

    def use_in(self, config: Any) -> None:
        """Lets the contexts made with `config`, an IRuntimeConfig, share the kernels."""
        if not config.set_runtime_cache(self._cache):
            self._warn(f"is not used: set_runtime_cache failed, {last_errors(self._logger)}")

    def keep(self) -> None:
        """Writes the file if there is something new to write."""
        memory = self._cache.serialize()
        if memory is None:
            self._warn(f"is not written: serialize failed, {last_errors(self._logger)}")
            return
        kernels = bytes(memory)
        if not kernels or kernels == self._kept:
            return
        try:
            write_atomic(self._path, hashlib.sha256(kernels).digest() + kernels)
        except OSError as error:
            self._warn(f"cannot be written ({error.strerror})")
        # Not tried again for the same kernels, written or not.
        self._kept = kernels

    def _load(self) -> None:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            self._warn(f"cannot be read ({error.strerror})")
            return
        digest, kernels = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(kernels).digest() != digest:
            self._warn("is damaged")
        elif not self._cache.deserialize(kernels):  # of another driver, for instance
            self._warn(f"does not fit this machine ({last_errors(self._logger)})")
        else:
            self._kept = kernels

    def _warn(self, problem: str) -> None:
        _log.warning("%s %s; TensorRT-RTX compiles the kernels again", self._path, problem)


def open_kernel_cache(trt: Any, engine: Any, plan: bytes, logger: Any) -> KernelCache | None:
    """The cache of the engine that `plan` holds, on this GPU with this version.

    None with a TensorRT that has no such thing, or where none can be made.
    """
    if not hasattr(trt, "IRuntimeCache"):  # TensorRT-RTX alone has it
        return None
    config = engine.create_runtime_config()
    cache = None if config is None else config.create_runtime_cache()
    if cache is None:
        _log.warning("create_runtime_cache failed: %s", last_errors(logger))
        return None
    try:
        folder = cache_root() / "kernels"
    except UserError as error:  # this user has no home
        _log.warning("%s; TensorRT-RTX compiles the kernels again at every start", error)
        return None
    names = f"{trt.__version__} {find_gpu().name} {sha256_of_bytes(plan)}"
    return KernelCache(cache, folder / sha256_of_bytes(names.encode()), logger)
