"""What a training step costs with each method, measured side by side on random images."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias

import msgspec
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from training.config.plan import Plan
from training.data import Dataset
from training.data.batches import Batch
from training.engine.build import build_batches, build_learner
from training.engine.execution import execution_of, precision_of
from training.networks.students import student_of
from training.studies.study_methods import BASELINE, METHODS, StudyMethod

EAGER = "eager loop"
_PLAIN = f"{BASELINE}, not compiled"
_WARM_UP_STEPS = 6  # three uncaptured, the capture, and two replays
_TRAIN_IMAGES = 50_000  # of CIFAR: what a peer remembers of each counts in its memory


@dataclass(frozen=True)
class Measurement:
    """The cost of one contender.

    `over_ce` is the median of its ratios to cross-entropy in the same round, minus one;
    `over_eager` is how many times as fast as the eager loop it is, likewise.
    `images_per_second` counts the new images of a batch, as an epoch does: CS-KD, DDGSD and DLB put
    two images through the network for each of them. `added_in_training` are the parameters that the
    optimizer updates, `added_at_deployment` those of the student that is deployed, both minus the
    parameters of a plain student.
    """

    contender: str
    ms_per_step: float
    images_per_second: float
    over_ce: float
    start_up_seconds: float
    peak_memory_mib: float | None  # of what it allocates on a GPU
    memory_over_ce: float | None
    added_in_training: int
    added_at_deployment: int
    over_eager: float


class _Made(NamedTuple):
    step: Callable[[], None]
    trained: int  # parameters that the step updates
    deployed: int  # parameters of the student that would be deployed


_Make: TypeAlias = Callable[[], _Made]


class _Started(NamedTuple):
    made: _Made
    seconds: float
    memory: float | None  # MiB


def measure_steps(
    plan: Plan, methods: Sequence[StudyMethod], *, device: torch.device, steps: int, rounds: int
) -> tuple[Measurement, ...]:
    """Measures the eager loop, cross-entropy and `methods`.

    Args:
        plan: of cross-entropy; the methods' changes are made to its recipe.
        methods: cross-entropy need not be among them.
        device: on which the steps run.
        steps: of each contender in a round.
        rounds: in each of them, the contenders take turns.
    """
    contenders = _contenders(plan, methods, device, total=_WARM_UP_STEPS + steps * rounds)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    # All methods compile the same function, once for each of them, and torch has a limit for that.
    with torch._dynamo.config.patch(recompile_limit=len(contenders)):
        started = {name: _start(make, device) for name, make in contenders.items()}
        for _ in range(rounds):
            for name, contender in started.items():
                times[name].append(_seconds(contender.made.step, steps, device) / steps)
    plain = _parameters(student_of(plan))

    def measurement(name: str) -> Measurement:
        own = started[name]
        median = statistics.median(times[name])
        pairs = zip(times[name], times[BASELINE], strict=True)
        to_eager = zip(times[EAGER], times[name], strict=True)
        reference = started[BASELINE].memory
        over = own.memory / reference - 1 if own.memory is not None and reference else None
        return Measurement(
            contender=name,
            ms_per_step=1e3 * median,
            images_per_second=plan.recipe.batch_size / median,
            over_ce=statistics.median(mine / its for mine, its in pairs) - 1,
            start_up_seconds=own.seconds,
            peak_memory_mib=own.memory,
            memory_over_ce=over,
            added_in_training=own.made.trained - plain,
            added_at_deployment=own.made.deployed - plain,
            over_eager=statistics.median(its / mine for its, mine in to_eager),
        )

    return tuple(measurement(name) for name in started)


def _contenders(
    plan: Plan, methods: Sequence[StudyMethod], device: torch.device, *, total: int
) -> dict[str, _Make]:
    """All contenders by name, in the order of the table. Each will take `total` steps."""
    dataset = random_dataset(plan)
    others = {method.name: method for method in methods if method.name != BASELINE}
    found: dict[str, _Make] = {EAGER: partial(_eager_loop, plan, dataset, device)}
    if execution_of(plan.recipe, device).compiled and device.type == "cpu":
        recipe = msgspec.structs.replace(plan.recipe, compile=False)
        uncompiled = msgspec.structs.replace(plan, recipe=recipe)
        found[_PLAIN] = partial(_our_step, uncompiled, METHODS[BASELINE], dataset, device, total)
    for method in (METHODS[BASELINE], *others.values()):
        found[method.name] = partial(_our_step, plan, method, dataset, device, total)
    return found


def random_dataset(plan: Plan) -> Dataset:
    """As many images as training has, with random labels.

    The images are windows into one row of random bytes, each one byte further than the last. So
    they take almost no memory, whatever their size is.
    """
    generator = np.random.default_rng(0)
    size = plan.input.size
    length = size * size * 3
    pixels = generator.integers(0, 256, _TRAIN_IMAGES + length - 1, dtype=np.uint8)
    images = np.lib.stride_tricks.sliding_window_view(pixels, length)
    labels = generator.integers(0, plan.num_classes, _TRAIN_IMAGES, dtype=np.int64)
    return Dataset(
        name=plan.data,
        class_names=plan.class_names,
        input=plan.input,
        train_images=images.reshape(-1, size, size, 3),
        train_labels=labels,
        test_images=np.zeros((1, size, size, 3), np.uint8),
        test_labels=labels[:1],
    )


def _batch(plan: Plan, dataset: Dataset, device: torch.device) -> Batch:
    """The first batch that training would give the plan's step, on `device`."""
    rows = np.arange(len(dataset.train_labels))
    batches = build_batches(plan, dataset, rows, device=torch.device("cpu"))
    return next(batches.epoch(0)).each(lambda part: part.contiguous().to(device))


def _our_step(
    plan: Plan, method: StudyMethod, dataset: Dataset, device: torch.device, total: int
) -> _Made:
    recipe = method.recipe_on(plan.recipe)
    plan = msgspec.structs.replace(plan, methods=method.methods, recipe=recipe)
    learner = build_learner(plan, dataset, steps_per_epoch=total, device=device)
    batch = _batch(plan, dataset, device)
    updated = [p for group in learner.optimizer.param_groups for p in group["params"]]
    return _Made(
        step=partial(learner.step, batch, learning_rate=0.01, scale=1.0),
        trained=sum(parameter.numel() for parameter in updated),
        deployed=_parameters(learner.student),
    )


def _eager_loop(plan: Plan, dataset: Dataset, device: torch.device) -> _Made:
    """A step like that of torchvision's `references/classification/train.py`."""
    student = student_of(plan).to(device)
    optimizer = torch.optim.SGD(
        student.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    images, labels, *_ = _batch(plan, dataset, device)
    pixels = (images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    pixels = pixels.contiguous()

    def step() -> None:
        enabled = precision_of(plan.recipe, device) == "bf16"
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled):
            logits = student(pixels)
            loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss.item()  # the reference logs every step
        (logits.argmax(dim=1) == labels).float().mean().item()

    return _Made(step, trained=_parameters(student), deployed=_parameters(student))


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _start(make: _Make, device: torch.device) -> _Started:
    """Makes a contender and runs its first steps; notes the seconds and the peak of its memory."""
    on_cuda = device.type == "cuda"
    if on_cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    begun = time.perf_counter()
    made = make()
    _seconds(made.step, _WARM_UP_STEPS, device)
    seconds = time.perf_counter() - begun
    if not on_cuda:
        return _Started(made, seconds, None)
    return _Started(made, seconds, (torch.cuda.max_memory_allocated(device) - before) / 2**20)


def _seconds(run: Callable[[], None], steps: int, device: torch.device) -> float:
    begun = time.perf_counter()
    for _ in range(steps):
        run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun
