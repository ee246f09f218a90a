"""Inference without torch: images in, labels out. May import nothing of training, export, demo.

from runtime import open_classifier

with open_classifier("runs/latest") as classifier:
    for prediction in classifier.classify("photo.jpg"):
        print(prediction.label, prediction.probability)
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.backends.session import Session, Threads
    from runtime.base.errors import (
        BackendError,
        BundleError,
        EngineMismatchError,
        ImageError,
        OverloadedError,
        SkdEdgeError,
        UserError,
        VerificationError,
    )
    from runtime.inference.batcher import Batcher
    from runtime.inference.classifier import Classifier
    from runtime.inference.open_classifier import open_classifier
    from runtime.inference.predictions import Prediction
    from runtime.model.card import Card
    from runtime.model.preprocess import Limits

__all__ = [
    "BackendError",
    "Batcher",
    "BundleError",
    "Card",
    "Classifier",
    "EngineMismatchError",
    "ImageError",
    "Limits",
    "OverloadedError",
    "Prediction",
    "Session",
    "SkdEdgeError",
    "Threads",
    "UserError",
    "VerificationError",
    "open_classifier",
]

if not TYPE_CHECKING:
    # A name is imported when it is first used, because importing numpy, Pillow and msgspec takes
    # 0.2 s. Training and export need the card without the classifier; `--help` needs nothing.
    _HOMES = {
        "backends.session": ("Session", "Threads"),
        "inference.batcher": ("Batcher",),
        "inference.classifier": ("Classifier",),
        "inference.predictions": ("Prediction",),
        "inference.open_classifier": ("open_classifier",),
        "model.card": ("Card",),
        "model.preprocess": ("Limits",),
    }
    _HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

    def __getattr__(name):
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"runtime.{_HOME_OF.get(name, 'base.errors')}"), name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
