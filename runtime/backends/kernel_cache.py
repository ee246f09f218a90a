"""Keeps the kernels that TensorRT-RTX has compiled for the next process that runs the engine.

TensorRT-RTX compiles the kernels of an engine when it runs; TensorRT does so when it builds. A
failure of this cache costs only time, so every failure here is one line in the log.
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
    """The compiled kernels of one engine. All its contexts share them."""

    def __init__(self, cache: Any, path: Path, logger: Any) -> None:
        """Fills `cache`, an IRuntimeCache of TensorRT-RTX, with the content of the file `path`."""
        self._cache, self._path, self._logger = cache, path, logger
        self._kept = b""  # the kernels that the file is known to hold
        self._load()

    def use_in(self, config: Any) -> None:
        """Makes the contexts that are made with `config`, an IRuntimeConfig, share the kernels."""
        if not config.set_runtime_cache(self._cache):
            self._warn(f"is not used: set_runtime_cache failed, {last_errors(self._logger)}")

    def keep(self) -> None:
        """Writes the file if there are new kernels."""
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
        # The same kernels are not written again, even if this time failed.
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
        elif not self._cache.deserialize(kernels):  # for example, another driver made them
            self._warn(f"does not fit this machine ({last_errors(self._logger)})")
        else:
            self._kept = kernels

    def _warn(self, problem: str) -> None:
        _log.warning("%s %s; TensorRT-RTX compiles the kernels again", self._path, problem)


def open_kernel_cache(trt: Any, engine: Any, plan: bytes, logger: Any) -> KernelCache | None:
    """The cache of the engine that `plan` holds, on this GPU with this version.

    None with a TensorRT that has no such cache, or where none can be made.
    """
    if not hasattr(trt, "IRuntimeCache"):  # only TensorRT-RTX has it
        return None
    config = engine.create_runtime_config()
    cache = None if config is None else config.create_runtime_cache()
    if cache is None:
        _log.warning("create_runtime_cache failed: %s", last_errors(logger))
        return None
    try:
        folder = cache_root() / "kernels"
    except UserError as error:  # this user has no home folder
        _log.warning("%s; TensorRT-RTX compiles the kernels again at every start", error)
        return None
    names = f"{trt.__version__} {find_gpu().name} {sha256_of_bytes(plan)}"
    return KernelCache(cache, folder / sha256_of_bytes(names.encode()), logger)
