"""Reads the weights in a file: of torch.save, of other tools' checkpoints, or safetensors."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from runtime.base.errors import UserError, first_line
from training.networks.tensor_pickle import load_tensors

# What torch raises for a damaged file, and for a download with the wrong hash.
NO_WEIGHTS = (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError)
# Where checkpoints keep their state dict: ours, Lightning's and timm's, many loops', torchvision's.
_STUDENT = "student"
_KEYS = (_STUDENT, "state_dict", "model_state_dict", "model")
_SAFETENSORS = ".safetensors"


def weights_from_file(path: Path) -> dict[str, object]:
    """The state dict in a file, by the file's own names.

    Values that are no tensors are kept, so that `start_from` can say that it leaves them out. So
    are further state dicts beside the one that was taken, such as averaged weights.

    Raises:
        UserError: if the file cannot be read or holds no state dict.
    """
    content = _safetensors(path) if _is_safetensors(path) else _pickled(path)
    found = _state_dict(content)
    if found is None:
        raise UserError(
            f"--weights {path} holds no state dict of tensors; expected one, or a checkpoint with "
            f"one as its {', '.join(_KEYS[:-1])} or {_KEYS[-1]}"
        )
    return found


def _is_safetensors(path: Path) -> bool:
    """By name, or by the JSON that follows the eight bytes of its length."""
    if path.suffix == _SAFETENSORS:
        return True
    try:
        with path.open("rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError as error:
        raise _unreadable(path, error) from error


def _safetensors(path: Path) -> object:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise UserError(
            f"--weights {path} needs the package safetensors: pip install safetensors"
        ) from error
    try:
        return load_file(path, device="cpu")
    except OSError as error:
        raise _unreadable(path, error) from error
    except (SafetensorError, *NO_WEIGHTS) as error:
        raise UserError(
            f"--weights {path} is no whole safetensors file ({first_line(error)})"
        ) from error


def _pickled(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise _unreadable(path, error) from error
    except pickle.UnpicklingError:
        pass  # it holds objects of other classes, or it is no such file
    except Exception as error:  # torch's own message tells how to load unsafe files
        raise _not_whole(path) from error
    try:
        return load_tensors(path)
    except Exception as error:  # a file made to harm can raise anything in its reader
        raise _not_whole(path) from error


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"--weights {path} cannot be read ({first_line(error)}); expected a .pt file or "
        f"a {_SAFETENSORS} file"
    )


def _not_whole(path: Path) -> UserError:
    return UserError(
        f"--weights {path} is no whole file of tensors; expected a .pt file of a state dict, as "
        f"torch.save(student.state_dict(), FILE) writes, or a {_SAFETENSORS} file"
    )


def _state_dict(content: object) -> dict[str, object] | None:
    """The state dict in `content`, however deep it lies; None if there is none."""
    if not isinstance(content, Mapping):
        return None
    for key in _KEYS:
        found = _state_dict(content.get(key))
        if found is not None:
            # The rest of our own checkpoints is known; of others' we say what is not used.
            others = {} if key == _STUDENT else _other_states(content, key)
            return {**found, **others}
    return {str(key): value for key, value in content.items()} if _has_tensors(content) else None


def _other_states(content: Mapping[object, object], taken: str) -> dict[str, object]:
    return {
        str(key): value for key, value in content.items() if key != taken and _has_tensors(value)
    }


def _has_tensors(content: object) -> bool:
    return isinstance(content, Mapping) and any(
        isinstance(value, Tensor) for value in content.values()
    )
