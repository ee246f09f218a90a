"""The studies of the queue, in the order in which they matter: docs/evidence.md says why."""

from training.config.archs import MOBILENET
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
QUEUE = (
    QueueStudy(
        "imagenette-filter",
        "Which taps, weights and shapes do no harm on photographs?",
        methods=("ce", *_VARIANTS),
        seeds=(0, 1),
        epochs=12,
        settings=_FIFTHS,
        folds=True,
    ),
    QueueStudy(
        "cifar100-filter-full",
        "Which shapes do no harm with 100 classes, when every image is new (regime F)?",
        methods=("ce", "drg-a0.2", *_SHAPES, "drg-multi-a0.2", "drg-multi-a0.5"),
        seeds=(0, 1),
        epochs=4,
        data="cifar100-arrays",
        image_size=16,
        students=_SMALL,
        recipe="cifar",
        settings={"validation_fraction": 0.1, "ema_decay": 0.99},
    ),
    QueueStudy(
        "cifar100-filter-few",
        "Which shapes do no harm with 100 classes and 50 images of each, many times (regime O)?",
        methods=("ce", "drg-a0.2", *_SHAPES, "drg-multi-a0.2", "drg-multi-a0.5"),
        seeds=(0, 1),
        epochs=36,
        data="cifar100-arrays",
        image_size=16,
        students=_SMALL,
        recipe="cifar",
        settings={"validation_fraction": 0.1, "train_share": 1 / 9, "ema_decay": 0.99},
    ),
)


QUESTIONS = {study.name: study.question for study in QUEUE}


def plan_lines() -> list[PlanLine]:
    """All runs of the queue, in their order."""
    return [line for study in QUEUE for line in study.lines()]
