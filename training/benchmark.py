"""What a step costs: `python training/benchmark.py`.

Compares, in one process, a plain eager loop written as PyTorch's reference does it with our step
for cross-entropy and the methods of `--terms`. The contenders take turns, so that whatever else the
machine does meets all of them, and each is compared with cross-entropy round by round.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, NoReturn

from runtime.base.command import CommandParser, positive_float, positive_int, run_command
from runtime.model.card import InputSpec
from training.config.archs import check_arch
from training.config.options import DEVICES
from training.config.plan import Plan
from training.config.recipe import Recipe, load_recipe
from training.studies.rows import METHODS, methods_from_words

if TYPE_CHECKING:
    from training.studies.step_cost import Measurement

_CHANNEL = (0.5, 0.5, 0.5)


def main(arguments: Sequence[str]) -> int:
    """Measures, and prints a table or, with --json, a line for each contender."""
    options = _parser().parse_args(arguments)
    check_arch(options.arch, options.width)
    methods = methods_from_words(options.terms)

    # After the options are checked: torch takes seconds to import.
    import torch

    from training.engine.device import choose_device, device_name
    from training.engine.step import precision_of
    from training.studies.step_cost import measure_steps

    device = choose_device(options.device)
    on_cuda = device.type == "cuda"
    recipe = load_recipe("cifar", {"batch_size": options.batch_size or (128 if on_cuda else 32)})
    plan = _plan(options, recipe)
    steps = options.steps or (50 if on_cuda else 1)
    measurements = measure_steps(plan, methods, device=device, steps=steps, rounds=options.rounds)
    if options.json:
        facts = {"arch": plan.arch, "device": device_name(device), "torch": torch.__version__}
        for measurement in measurements:
            print(json.dumps({**facts, **asdict(measurement)}))  # noqa: T201
        return 0
    print(  # noqa: T201
        f"{plan.arch} x{plan.width:g}, {plan.input.size} px, batch {recipe.batch_size}, "
        f"{precision_of(device)}, {device_name(device)}, torch {torch.__version__}\n\n"
        + _table(measurements)
    )
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(prog="python training/benchmark.py", description=__doc__)
    add = parser.add_argument
    add("--arch", default="mobilenetv2")
    add("--width", type=positive_float, default=1.0)
    add("--image-size", type=positive_int, default=32)
    add("--classes", type=positive_int, default=100)
    add(
        "--terms",
        default="ce,drg,dsr,drg+dsr",
        help=f"of {','.join(METHODS)}; ce is always measured",
    )
    add("--batch-size", type=positive_int, help="default: 128 on CUDA, 32 on a CPU")
    add("--steps", type=positive_int, help="of a round; default: 50 on CUDA, 1 on a CPU")
    add("--rounds", type=positive_int, default=15)
    add("--device", choices=DEVICES, default="auto")
    add("--json", action="store_true", help="one JSON object a line")
    return parser


def _plan(options: argparse.Namespace, recipe: Recipe) -> Plan:
    size = options.image_size
    return Plan(
        arch=options.arch,
        width=options.width,
        terms="ce",
        data="random",
        data_argument="random",
        data_root=None,
        class_names=tuple(map(str, range(options.classes))),
        input=InputSpec(size=size, resize=size, crop=size, mean=_CHANNEL, std=_CHANNEL),
        seed=0,
        weights="random",
        recipe=recipe,
    )


def _table(measurements: "Sequence[Measurement]") -> str:
    """The measurements as a Markdown table."""
    lines = [
        "| step | ms | images/s | over CE | start-up s | peak memory MiB | more in training "
        "| more deployed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for m in measurements:
        memory = "-" if m.peak_memory_mib is None else f"{m.peak_memory_mib:.0f}"
        if m.memory_over_ce is not None:
            memory += f" ({m.memory_over_ce:+.1%})"
        lines.append(
            f"| {m.contender} | {m.ms_per_step:.2f} | {m.images_per_second:.0f} "
            f"| {m.over_ce:+.1%} | {m.start_up_seconds:.1f} | {memory} "
            f"| {m.added_in_training:,} | {m.added_at_deployment:,} |"
        )
    return "\n".join(lines)


def command() -> NoReturn:
    run_command(main, extra="train")


if __name__ == "__main__":
    command()
