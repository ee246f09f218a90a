"""How the steps of a run are computed: compiled or not, and in which precision.

Both change the last bits of a result. So they are decided once, when a run begins, by what is the
same at every start of that run, and never by a clock; its checkpoints keep the decision.
"""

import importlib.util
import os
import shlex
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from runtime.base.errors import UserError
from training.config.recipe import Recipe
from training.engine.device import has_amx, has_bf16

_MIN_CAPABILITY = (7, 0)  # of Triton


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What was decided for a run on a kind of device.

    `device` is "cpu" or "cuda", `compiled` whether torch.compile makes the loss and its backward
    pass fused kernels, `precision` what the networks compute in, "fp32" or "bf16". `why` is what a
    user is told of it.
    """

    device: str
    compiled: bool
    precision: str
    why: str = ""

    @property
    def words(self) -> str:
        """What a user is told, such as "steps in fp32, not compiled: as it was begun"."""
        compiled = "compiled" if self.compiled else "not compiled"
        return f"steps in {self.precision}, {compiled}" + (f": {self.why}" if self.why else "")

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"device": self.device, "compiled": self.compiled, "precision": self.precision}


def execution_of(recipe: Recipe, device: torch.device) -> Execution:
    """What the recipe's `compile` and `precision` mean on `device`.

    Args:
        recipe: of the run.
        device: on which it trains.

    Raises:
        UserError: if the recipe asks for what is not possible here.
    """
    missing = missing_to_compile(device)
    compiled, why = missing is None, ""
    if recipe.compile is True and missing is not None:
        raise UserError(
            f"compile: received true, but {missing}; install it, or use compile: auto or false"
        )
    if recipe.sync_batch_norm:
        compiled, why = False, "sync_batch_norm exchanges within a step"
    elif recipe.compile is False:
        compiled, why = False, "the recipe says compile: false"
    elif recipe.compile == "auto" and device.type == "cpu":
        # Measured for both students, see docs/measured.md.
        compiled, why = False, "torch's own kernels are faster on a CPU"
    elif missing is not None:
        why = missing
    return Execution(
        device=device.type, compiled=compiled, precision=precision_of(recipe, device), why=why
    )


def kept_execution(training: dict[str, Any], device: torch.device) -> Execution | None:
    """The decision of a run that goes on; None if it was made for another kind of device.

    Args:
        training: what the run's checkpoint has of `Learner.state_dict`.
        device: on which the run goes on.

    Raises:
        UserError: if the run was begun in a way that is not possible here.
    """
    state = training.get("execution")
    if state is None and device.type == "cpu":  # older checkpoints: no CPU compiled anything
        state = {"device": "cpu", "compiled": False, "precision": "fp32"}
    if state is None or state["device"] != device.type:
        return None
    kept = Execution(**state, why="as it was begun")
    missing = missing_to_compile(device)
    if kept.compiled and missing is not None:
        raise UserError(
            f"the run was begun with compiled steps, but {missing}; install it, or train again "
            "without --resume"
        )
    return kept


def precision_of(recipe: Recipe, device: torch.device) -> str:
    """What the networks compute in, "fp32" or "bf16"; see the recipe's `precision`.

    Raises:
        UserError: if the recipe asks for bf16 on a GPU that has none.
    """
    word = recipe.precision
    if device.type == "cuda":
        native = has_bf16()
        if word == "bf16" and not native:
            raise UserError(
                "precision: received bf16, which this GPU does not have; use precision: fp32"
            )
        return "bf16" if native and word != "fp32" else "fp32"
    if word == "auto":
        return "bf16" if has_amx() else "fp32"
    return word or "fp32"


def missing_to_compile(device: torch.device) -> str | None:
    """What torch.compile lacks here, as a clause; None if it has all."""
    missing = _missing_on_cuda(device) if device.type == "cuda" else _missing_on_cpu()
    if missing is not None:
        return missing
    header = Path(sysconfig.get_path("include")) / "Python.h"  # Triton's driver.c needs it, too
    if not header.is_file():
        return f"Python's headers are not installed ({header}; Debian: python3-dev)"
    return None


def compiler_word() -> str:
    """The C++ compiler that TorchInductor calls: `$CXX`, or that of the system."""
    words = shlex.split(os.environ.get("CXX", ""))
    return words[0] if words else "clang++" if sys.platform == "darwin" else "g++"


def _missing_on_cuda(device: torch.device) -> str | None:
    if torch.cuda.get_device_capability(device) < _MIN_CAPABILITY:
        return "the GPU is too old for Triton"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    named = os.environ.get("CC")  # Triton calls it as a whole, not word by word
    if named is not None:
        found = shutil.which(named)
        return None if found else f"there is no C compiler {named!r}, which $CC names"
    if not any(shutil.which(name) for name in ("gcc", "clang")):
        return "there is no C compiler (gcc or clang; $CC names another one)"
    return None


def _missing_on_cpu() -> str | None:
    compiler = compiler_word()
    if shutil.which(compiler) is None:
        return f"there is no C++ compiler ({compiler}; $CXX names another one)"
    return None
