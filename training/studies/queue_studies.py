"""The studies of the queue, in the order in which they matter: docs/evidence.md says why."""

from dataclasses import replace

from training.config.archs import MOBILENET
from training.config.recipe import PEER_NAMES
from training.studies.evidence_tables import Question
from training.studies.paired_tests import area, mean_of
from training.studies.queue_plan import PlanLine, QueueStudy

# Photographs: 3,000 to train on and 1,000 to test on. A filter holds a fifth out, seed by seed
# another one, so that its runs are the first folds of the cross-validation that follows it.
_FIFTHS = {"validation_fraction": 0.2, "ema_decay": 0.99}
_SMALL = ((MOBILENET, 0.25),)
# In the order in which they matter: what comes first finishes first.
_SHAPES = (
    "drg+dsr-paper",
    "drg+dsr-below-first",
    "drg+dsr-standardised-below-first",
    "drg+dsr-standardised",
    "drg+dsr-auxiliary",
    "drg+dsr-fade",
)
_VARIANTS = (
    "drg-a0.2",
    "drg+dsr-below-first",
    "drg-multi-a0.5",
    "drg+dsr-paper",
    "drg+dsr-standardised-below-first",
    "drg+dsr-auxiliary",
    "drg-multi-a0.2",
    "drg+dsr-fade",
    "drg+dsr-standardised",
    "drg-a0.5",
    "dks-like",
    "ds",
    "ds-multi",
    "drg-multi-a1",
    "drg-a1",
    "drg+dsr-shuffled-ranks",
    "drg+dsr-norm-variance",
)
_ON_TWO_HEADS = (
    "drg-multi-a1+dsr-below-first",
    "drg-multi-a1+dsr-paper",
    "drg-multi-a1+dsr-fade",
    "drg-multi-a1+dsr-auxiliary",
)
# What is left for the choice after two folds of both students (docs/evidence.md, amendments).
_ON_LIGHT_HEADS = ("drg-multi-a0.2+dsr-paper", "drg-multi-a0.2+dsr-fade")
_LEFT = (
    "drg-multi-a1+dsr-paper",
    "drg-multi-a1+dsr-fade",
    "drg-multi-a1",
    "drg-multi-a0.2",
    *_ON_LIGHT_HEADS,
)
_OF_CIFAR = ("ce", "drg-a0.2", *_SHAPES, "drg-multi-a0.2", "drg-multi-a0.5")
_PHOTOGRAPHS = QueueStudy(
    "imagenette-filter",
    "Which taps, weights and shapes do no harm on photographs?",
    methods=("ce", *_VARIANTS),
    seeds=(0, 1),
    epochs=12,
    settings=_FIFTHS,
    folds=True,
    reference="drg-a0.2",
    closed=True,
)
_FULL = QueueStudy(
    "cifar100-filter-full",
    "Which shapes do no harm with 100 classes, when every image is new (regime F)?",
    methods=_OF_CIFAR,
    seeds=(0, 1),
    epochs=4,
    data="cifar100-arrays",
    image_size=16,
    students=_SMALL,
    recipe="cifar",
    settings={"validation_fraction": 0.1, "ema_decay": 0.99},
    reference="drg-a0.2",
    closed=True,
)
_FEW = replace(
    _FULL,
    name="cifar100-filter-few",
    question="Which shapes do no harm with 100 classes and 50 images of each, many times "
    "(regime O)?",
    epochs=36,
    settings={**_FULL.settings, "train_share": 1 / 9},
)
# `_FEW` did not fit its images (docs/evidence.md, amendments). These are fewer, and never changed.
_MEMORISED = replace(
    _FULL,
    name="cifar100-filter-memorised",
    question="Which shapes do no harm with 100 classes and 18 images of each, learned by heart "
    "(regime O)?",
    methods=("drg-multi-a1", "drg-multi-a1+dsr-fade", "ce", "drg-a0.2"),
    epochs=100,
    settings={**_FULL.settings, "train_share": 0.04, "crop": "none", "flip": False},
)
# The choice of the five folds (results/imagenette-filter.md), and what it is compared with.
_CHOSEN = "drg-multi-a1+dsr-fade"
_ROLES = {
    "chosen": _CHOSEN,
    "drg": "drg-multi-a1",
    "ds": "ds-multi",
    "ce-as-long": "ce-13-epochs",
}
_CONFIRM = QueueStudy(
    "imagenette-confirm",
    "Does DRG+DSR (chosen) pay on photographs, and does it no harm?",
    methods=(
        "ce",
        *_ROLES.values(),
        "drg+dsr-paper",
        "drg-a0.2",
        "ce-hard-labels",
    ),
    seeds=range(10, 22),
    epochs=12,
    settings={"validation_fraction": 0.05, "ema_decay": 0.99},
    roles=_ROLES,
)
# Behind it: five methods and three seeds each. The seeds are the first of the confirmation.
_COMPARED = ("ce", "ds-multi", "drg-multi-a1", "drg+dsr-paper", _CHOSEN)
_THREE = (10, 11, 12)
_BEHIND = replace(_CONFIRM, methods=_COMPARED, seeds=_THREE, roles={})
_LENGTHS = tuple(
    replace(
        _BEHIND,
        name=f"imagenette-{epochs}-epochs",
        question=f"What is left of the gain with {word} the epochs?",
        epochs=epochs,
    )
    for epochs, word in ((24, "twice"), (48, "four times"))
)
# Of 285 images of a class, 28, 71 and 142: so many steps of 64 images an epoch, where all give 44.
# A share is trained for as many steps as all images, with as many steps of both warm-ups: without
# them the last features would die in the first steps (docs/training.md), and with few images most.
_SHARES = tuple(
    replace(
        _BEHIND,
        name=f"imagenette-share-{percent}",
        question=f"What is the gain with {percent} % of the images, in as many steps?",
        epochs=12 * 44 // steps,
        settings={
            **_BEHIND.settings,
            "train_share": percent / 100,
            "warmup_epochs": 2.0 * 44 / steps,
            "distillation_warmup_epochs": 44 / steps,
        },
    )
    for percent, steps in ((10, 4), (25, 11), (50, 22))
)
_RECIPES = tuple(
    replace(
        _BEHIND,
        name=f"cifar100-{recipe}",
        question=f"What is the gain on CIFAR-100 at 32 px, with the recipe cifar-{recipe}?",
        data="cifar100-arrays",
        image_size=32,
        recipe=f"cifar-{recipe}",
        settings={**_BEHIND.settings, "distillation_warmup_epochs": 1.0},
    )
    for recipe in ("plain", "strong")
)
_OTHERS = (
    replace(
        _BEHIND,
        name="imagenette-dsr-alone",
        question="What is DSR worth without DRG?",
        methods=("ce", "dsr-paper", "dsr-fade", "dsr-below-first", "dsr-standardised"),
    ),
    replace(
        _BEHIND,
        name="imagenette-peers",
        question="How does it stand against other self-distillation?",
        methods=("ce", *PEER_NAMES, _CHOSEN),
        settings={**_BEHIND.settings, "label_smoothing": 0.0},  # several of them need hard labels
    ),
    replace(
        _BEHIND,
        name="imagenette-label-noise-20",
        question="What is left of the gain with 20 % wrong labels?",
        settings={**_BEHIND.settings, "label_noise": 0.2},
    ),
    replace(
        _BEHIND,
        name="imagenette-corruptions",
        question="What is left of the gain on corrupted images?",
        corrupted=True,
    ),
)
QUEUE = (
    _PHOTOGRAPHS,
    _FULL,
    _FEW,
    # Two heads led with the first seed (docs/evidence.md, amendments): the shapes on them, too.
    replace(_PHOTOGRAPHS, methods=_ON_TWO_HEADS),
    replace(_FULL, methods=("drg-multi-a1", *_ON_TWO_HEADS)),
    replace(_FEW, methods=("drg-multi-a1", *_ON_TWO_HEADS)),
    replace(_PHOTOGRAPHS, methods=("drg-multi-a1-warm0", "drg-multi-a1-warm4")),
    replace(_PHOTOGRAPHS, methods=_ON_LIGHT_HEADS),
    *(replace(_PHOTOGRAPHS, methods=_LEFT, seeds=(fold,)) for fold in (2, 3, 4)),
    _MEMORISED,
    *(replace(_CONFIRM, seeds=(seed,)) for seed in _CONFIRM.seeds),  # both students, seed by seed
    *_LENGTHS,
    *_SHARES,
    *_RECIPES,
    *_OTHERS,
    # What the rule about more seeds asks for (amendment of 2026-11-29).
    *(replace(_CONFIRM, seeds=(seed,)) for seed in range(22, 30)),
)
QUEUED = {study.name: study for study in reversed(QUEUE)}  # by name; the methods are those of one
# What is dropped is not trained by mistake, and what confirms is trained at its own commit alone.
NOT_IN_ALL = {study.name for study in QUEUE if study.closed or study.roles}

_RIGHT = mean_of("right")
# The six questions of docs/evidence.md, about the methods that have these roles in a study.
ASKED = (
    Question("Does DRG+DSR pay?", "chosen", "ce", _RIGHT, 100, "points", bar=0.0, at_least=2.0),
    Question("Does its DSR do no harm to DRG?", "chosen", "drg", _RIGHT, 100, "points", bar=-0.5),
    Question("Does it rank its answers as well?", "chosen", "ce", area, 1, "AUROC", bar=-0.01),
    Question(
        "Are its probabilities as good?",
        "chosen",
        "ce",
        mean_of("nll"),
        1,
        "nats",
        bar=0.02,
        lower=False,
    ),
    Question("Is it more than speed?", "chosen", "ce-as-long", _RIGHT, 100, "points", bar=0.0),
    Question("Is it the distillation?", "drg", "ds", _RIGHT, 100, "points", bar=0.0),
)


def plan_lines() -> list[PlanLine]:
    """All runs of the queue, in their order."""
    return [line for study in QUEUE for line in study.lines()]
