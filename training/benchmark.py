"""What a step costs: `python training/benchmark.py`.

Compares, in one process, a plain eager loop written as PyTorch's reference does it with our step
for cross-entropy, DRG, DSR and both. The contenders take turns, so that whatever else the machine
does meets all of them, and each is compared with cross-entropy round by round.
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import NoReturn, get_args

import msgspec
import torch
from torch import Tensor
from torch.nn import functional as F

from runtime.card import InputSpec
from runtime.command import CommandParser, positive_float, positive_int, run_command
from training.archs import check_arch
from training.assembly import build_learner
from training.device import choose_device, device_name
from training.options import DEVICES
from training.plan import Plan, Terms
from training.recipe import Recipe, load_recipe
from training.step import precision_of
from training.students import build_student

EAGER = "eager loop"
BASELINE: Terms = "ce"
_WARM_UP_STEPS = 6  # three uncaptured, the capture, and two replays
_CHANNEL = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Measurement:
    """One contender's cost; `over_ce` is the median of its ratios to cross-entropy, less one."""

    contender: str
    ms_per_step: float
    images_per_second: float
    over_ce: float
    start_up_seconds: float
    peak_memory_mib: float | None  # of what it allocates on a GPU


def benchmark(
    plan: Plan, *, device: torch.device, steps: int, rounds: int
) -> tuple[Measurement, ...]:
    """Measures the eager loop and all four choices of terms on random images."""
    count, size = plan.recipe.batch_size, plan.input.size
    generator = torch.Generator().manual_seed(0)
    shape = (count, size, size, 3)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)
    labels = torch.randint(0, plan.num_classes, (count,), generator=generator).to(device)
    makers: dict[str, Callable[[], Callable[[], None]]] = {
        EAGER: partial(_eager_loop, plan, images, labels, device)
    }
    for terms in get_args(Terms):
        makers[terms] = partial(_our_step, plan, terms, images, labels, device)
    started = {name: _start(make, device) for name, make in makers.items()}
    times: dict[str, list[float]] = {name: [] for name in started}
    for _ in range(rounds):
        for name, (run, _, _) in started.items():
            times[name].append(_seconds(run, steps, device) / steps)
    return tuple(
        Measurement(
            contender=name,
            ms_per_step=1e3 * statistics.median(times[name]),
            images_per_second=count / statistics.median(times[name]),
            over_ce=statistics.median(
                own / base for own, base in zip(times[name], times[BASELINE], strict=True)
            )
            - 1,
            start_up_seconds=start_up,
            peak_memory_mib=memory,
        )
        for name, (_, start_up, memory) in started.items()
    )


def _our_step(
    plan: Plan, terms: Terms, images: Tensor, labels: Tensor, device: torch.device
) -> Callable[[], None]:
    plan = msgspec.structs.replace(plan, terms=terms)
    learner = build_learner(plan, steps_per_epoch=1 << 20, device=device)
    return partial(learner.step, images, labels, learning_rate=0.01, scale=1.0)


def _eager_loop(
    plan: Plan, images: Tensor, labels: Tensor, device: torch.device
) -> Callable[[], None]:
    """A step as in torchvision's `references/classification/train.py`, on batches already there."""
    student = build_student(
        plan.arch, num_classes=plan.num_classes, image_size=plan.input.size, width=plan.width
    ).to(device)
    optimizer = torch.optim.SGD(
        student.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    pixels = (images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    pixels = pixels.contiguous()

    def step() -> None:
        enabled = precision_of(device) == "bf16"
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled):
            logits = student(pixels)
            loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss.item()  # the reference logs every step
        (logits.argmax(dim=1) == labels).float().mean().item()

    return step


def _start(
    make: Callable[[], Callable[[], None]], device: torch.device
) -> tuple[Callable[[], None], float, float | None]:
    """A contender that is warm, the seconds that took, and what it allocated at its peak."""
    on_cuda = device.type == "cuda"
    if on_cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    begun = time.perf_counter()
    run = make()
    _seconds(run, _WARM_UP_STEPS, device)
    seconds = time.perf_counter() - begun
    if not on_cuda:
        return run, seconds, None
    return run, seconds, (torch.cuda.max_memory_allocated(device) - before) / 2**20


def _seconds(run: Callable[[], None], steps: int, device: torch.device) -> float:
    begun = time.perf_counter()
    for _ in range(steps):
        run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def table(measurements: Sequence[Measurement]) -> str:
    """The measurements as a Markdown table."""
    lines = [
        "| step | ms | images/s | over CE | start-up s | peak memory MiB |",
        "|---|---|---|---|---|---|",
    ]
    for m in measurements:
        memory = "-" if m.peak_memory_mib is None else f"{m.peak_memory_mib:.0f}"
        lines.append(
            f"| {m.contender} | {m.ms_per_step:.2f} | {m.images_per_second:.0f} "
            f"| {m.over_ce:+.1%} | {m.start_up_seconds:.1f} | {memory} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Measures, and prints a table or, with --json, a line for each contender."""
    parser = CommandParser(prog="python training/benchmark.py", description=__doc__)
    add = parser.add_argument
    add("--arch", default="mobilenetv2")
    add("--width", type=positive_float, default=1.0)
    add("--image-size", type=positive_int, default=32)
    add("--classes", type=positive_int, default=100)
    add("--batch-size", type=positive_int, help="default: 128 on CUDA, 32 on a CPU")
    add("--steps", type=positive_int, help="of a round; default: 50 on CUDA, 1 on a CPU")
    add("--rounds", type=positive_int, default=15)
    add("--device", choices=DEVICES, default="auto")
    add("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(arguments)
    check_arch(options.arch, options.width)
    device = choose_device(options.device)
    on_cuda = device.type == "cuda"
    recipe = load_recipe("cifar", {"batch_size": options.batch_size or (128 if on_cuda else 32)})
    plan = _plan(options.arch, options.width, options.image_size, options.classes, recipe)
    steps = options.steps or (50 if on_cuda else 1)
    measurements = benchmark(plan, device=device, steps=steps, rounds=options.rounds)
    if options.json:
        facts = {"arch": plan.arch, "device": device_name(device), "torch": torch.__version__}
        for measurement in measurements:
            print(json.dumps({**facts, **asdict(measurement)}))  # noqa: T201
        return 0
    print(  # noqa: T201
        f"{plan.arch} x{plan.width:g}, {plan.input.size} px, batch {recipe.batch_size}, "
        f"{precision_of(device)}, {device_name(device)}, torch {torch.__version__}\n\n"
        + table(measurements)
    )
    return 0


def _plan(arch: str, width: float, image_size: int, classes: int, recipe: Recipe) -> Plan:
    spec = InputSpec(
        size=image_size, resize=image_size, crop=image_size, mean=_CHANNEL, std=_CHANNEL
    )
    return Plan(
        arch=arch,
        width=width,
        terms=BASELINE,
        data="random",
        data_argument="random",
        data_root=None,
        class_names=tuple(map(str, range(classes))),
        input=spec,
        seed=0,
        weights="random",
        recipe=recipe,
    )


def command() -> NoReturn:
    run_command(main, extra="train")


if __name__ == "__main__":
    command()
