"""Variants of DRG and DSR that the queue of studies compares, and their controls.

Each states every key of its own, so that its name means the same whatever the defaults are.
"""

from runtime.base.errors import UserError
from training.studies.study_methods import NAMED_METHODS, StudyMethod

_PAPER: dict[str, object] = {
    "dsr_shape": "paper",
    "dsr_teacher": "previous",
    "dsr_weight": 1.0,
    "dsr_on": "output",
    "dsr_fade": False,
}
# What each shape was proposed with.
_AVERAGED: dict[str, object] = {"dsr_teacher": "ema", "dsr_momentum": 0.99}
_SHAPES: dict[str, dict[str, object]] = {
    "paper": {},
    "paper-w0.3": {"dsr_weight": 0.3},
    "below-first": {"dsr_shape": "below-first", "dsr_teacher": "ema", "dsr_momentum": 0.9},
    "standardised": {"dsr_shape": "standardised"},
    "standardised-below-first": {
        "dsr_shape": "standardised-below-first",
        **_AVERAGED,
        "dsr_weight": 4.0,
    },
    "auxiliary": {"dsr_on": "auxiliary", "dsr_weight": 0.3},
    "fade": {"dsr_fade": True, "dsr_weight": 0.3},
    "shuffled-ranks": {"dsr_shape": "shuffled-ranks"},
    "norm-variance": {"dsr_shape": "norm-variance"},
}
# They ask whether it is the shape that acts; nobody is to deploy them.
CONTROLS = ("shuffled-ranks", "norm-variance")
_ONE_HEAD: dict[str, object] = {"taps": [2]}
_TWO_HEADS: dict[str, object] = {"taps": [2, 3]}
# Both terms as the authors' code has them, which is also what a recipe without these keys has.
AS_PUBLISHED: dict[str, object] = {"tap": 2, "taps": [], "drg_weight": 0.2, **_PAPER}

VARIANTS = {
    method.name: method
    for method in (
        StudyMethod("compiled", changes={"compile": True}),  # cross-entropy, also on a CPU
        StudyMethod("ds-single", drg=True, changes={**_ONE_HEAD, "drg_weight": 0.0}),
        StudyMethod("ds-multi", drg=True, changes={**_TWO_HEADS, "drg_weight": 0.0}),
        *(
            StudyMethod(f"drg-a{weight:g}", drg=True, changes={**_ONE_HEAD, "drg_weight": weight})
            for weight in (0.2, 0.5, 1.0)
        ),
        *(
            StudyMethod(
                f"drg-multi-a{weight:g}", drg=True, changes={**_TWO_HEADS, "drg_weight": weight}
            )
            for weight in (0.2, 0.5, 1.0)
        ),
        *(
            StudyMethod(
                f"drg-multi-a1-warm{epochs}",
                drg=True,
                changes={
                    **_TWO_HEADS,
                    "drg_weight": 1.0,
                    "distillation_warmup_epochs": float(epochs),
                },
            )
            for epochs in (0, 4)
        ),
        *(
            StudyMethod(f"dsr-{name}", dsr=True, changes={**_PAPER, **changes})
            for name, changes in _SHAPES.items()
            if name != "auxiliary"
        ),
        *(
            StudyMethod(
                f"drg+dsr-{name}",
                drg=True,
                dsr=True,
                changes={**_ONE_HEAD, "drg_weight": 0.2, **_PAPER, **changes},
            )
            for name, changes in _SHAPES.items()
        ),
        *(
            StudyMethod(
                f"drg-multi-a{weight:g}+dsr-{name}",
                drg=True,
                dsr=True,
                changes={**_TWO_HEADS, "drg_weight": weight, **_PAPER, **changes},
            )
            for weight in (0.2, 0.5, 1.0)
            for name, changes in _SHAPES.items()
        ),
        StudyMethod("ce-hard-labels", changes={"label_smoothing": 0.0}),
        # As many seconds as 12 epochs with two heads, which cost up to 6 % of a step.
        StudyMethod("ce-13-epochs", changes={"epochs": 13}),
    )
}
KNOWN_METHODS = {**NAMED_METHODS, **VARIANTS}


def methods_named(names: str) -> list[StudyMethod]:
    """The methods of a list such as "ce,ls,drg+dsr", each once.

    Raises:
        UserError: if a name is not that of a method.
    """
    found = dict.fromkeys(names.split(","))
    for name in found:
        if name not in KNOWN_METHODS:
            raise UserError(f"--terms {name!r} is unknown; choose of {','.join(KNOWN_METHODS)}")
    return [KNOWN_METHODS[name] for name in found]
