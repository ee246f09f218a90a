"""Reads tensors out of a pickle that holds other things, too, and builds nothing but the tensors.

Checkpoints of other tools hold hyperparameters, callbacks and arguments as pickled objects, which
`torch.load(weights_only=True)` refuses. Unpickling them would import and call whatever the file
names. Here every name that is not on a short list stands for a stub, so that the file's code is
neither imported nor run.
"""

import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch


class Stub:
    """Stands for any object of a pickle that is not a tensor. It takes everything, keeps nothing.

    The methods are those that a pickle may call: to build the object, to set its state, and to add
    items to it.
    """

    def __new__(cls, *_arguments: object, **_named: object) -> "Stub":
        return super().__new__(cls)

    def __init__(self, *_arguments: object, **_named: object) -> None:
        """Keeps nothing."""

    def __call__(self, *_arguments: object, **_named: object) -> "Stub":
        return self

    def __setstate__(self, _state: object) -> None:
        """Keeps nothing."""

    def __setitem__(self, _key: object, _value: object) -> None:
        """Keeps nothing."""

    def append(self, _item: object) -> None:
        """Keeps nothing."""

    def extend(self, _items: object) -> None:
        """Keeps nothing."""

    def add(self, _item: object) -> None:
        """Keeps nothing."""


class _Dict(dict[Any, Any]):
    """Stands for an OrderedDict: torch hangs versions of modules on it, which are not kept."""

    def __setstate__(self, _state: object) -> None:
        """Keeps nothing."""


class _Builder:
    """One of the few functions that a pickle may call. A pickle cannot change it."""

    __slots__ = ("_build",)

    def __init__(self, build: Callable[..., object]) -> None:
        self._build = build

    def __call__(self, *arguments: object) -> object:
        return self._build(*arguments)

    def __setstate__(self, _state: object) -> None:
        raise pickle.UnpicklingError("the file tries to change a function")


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_hooks: object) -> object:
    return torch._utils._rebuild_tensor(storage, offset, size, stride)  # type: ignore[no-untyped-call]


def _parameter(data: object, *_hooks: object) -> object:
    return data


# What a state dict is made of. torch itself adds its storages, which are plain memory.
_BUILDERS = {
    ("collections", "OrderedDict"): _Builder(_Dict),
    ("torch", "Size"): _Builder(torch.Size),
    ("torch._utils", "_rebuild_tensor"): _Builder(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Builder(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Builder(_parameter),
}


class TensorUnpickler(pickle.Unpickler):
    """Builds dictionaries, lists, texts, numbers and tensors; everything else is a `Stub`."""

    def find_class(self, module: str, name: str) -> Any:
        """What the pickle gets for a name: a builder of the list, or the class of stubs."""
        return _BUILDERS.get((module, name), Stub)


def load_tensors(path: Path) -> object:
    """The content of a file that torch.save wrote, on the CPU, with stubs for all but tensors.

    Raises:
        Exception: of any kind, for a file that is damaged or that was made to harm.
    """
    reader = SimpleNamespace(__name__=__name__, Unpickler=TensorUnpickler, load=_load)
    return torch.load(path, map_location="cpu", weights_only=False, pickle_module=reader)


def _load(file: Any, **options: Any) -> object:
    return TensorUnpickler(file, **options).load()
