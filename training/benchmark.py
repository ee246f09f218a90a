"""What a step costs: `python training/benchmark.py`.

It compares a plain eager loop, written like PyTorch's reference, with our step for cross-entropy
and for the methods of `--terms`, all in one process. They take turns, so that other work of the
machine disturbs all of them alike, and each is compared with cross-entropy round by round.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, NoReturn

from runtime.base.command import CommandParser, positive_float, positive_int, run_command
from runtime.base.errors import UserError
from runtime.model.card import InputSpec
from training.config.archs import check_arch
from training.config.method_registry import BASE
from training.config.options import DEVICES
from training.config.plan import Plan
from training.config.recipe import Recipe, load_recipe
from training.data.dataset import check_image_size
from training.studies.study_methods import METHODS
from training.studies.variants import methods_named

if TYPE_CHECKING:
    from training.studies.step_cost import Measurement

_FEWEST_CLASSES = 2
_CHANNEL = (0.5, 0.5, 0.5)
_COMPILE = {"auto": "auto", "true": True, "false": False}


def main(arguments: Sequence[str]) -> int:
    """Measures, and prints a table or, with --json, a line for each contender."""
    options = _parser().parse_args(arguments)
    check_arch(options.arch, options.width)
    check_image_size(options.image_size)
    if options.classes < _FEWEST_CLASSES:
        raise UserError(f"received --classes {options.classes}, expected {_FEWEST_CLASSES} or more")
    methods = methods_named(options.terms)

    # Imported after the options are checked: torch takes seconds to import.
    import torch

    from training.engine.device import choose_device, device_name, keep_freed_memory
    from training.engine.execution import execution_of
    from training.engine.full_memory import SMALLER, full_memory_told, images_words
    from training.engine.start_trainer import keep_kernels
    from training.studies.step_cost import measure_steps

    device = choose_device(options.device)
    on_cuda = device.type == "cuda"
    keep_freed_memory(device)
    changes = {
        "batch_size": options.batch_size or (128 if on_cuda else 32),
        "compile": _COMPILE[options.compile],
        "precision": options.precision,
    }
    recipe = load_recipe("cifar", changes)
    execution = execution_of(recipe, device)
    if execution.compiled:
        print(keep_kernels(), file=sys.stderr)  # noqa: T201
    plan = _plan(options, recipe)
    steps = options.steps or (50 if on_cuda else 1)
    with full_memory_told(device, images_words(plan), smaller=SMALLER):
        measurements = measure_steps(
            plan, methods, device=device, steps=steps, rounds=options.rounds
        )
    if options.json:
        facts = {
            "arch": plan.arch,
            "device": device_name(device),
            "torch": torch.__version__,
            "precision": execution.precision,
            "batch_size": recipe.batch_size,
            "image_size": plan.input.size,
        }
        for measurement in measurements:
            print(json.dumps({**facts, **asdict(measurement)}))  # noqa: T201
        return 0
    print(  # noqa: T201
        f"{plan.arch} x{plan.width:g}, {plan.input.size} px, batch {recipe.batch_size}, "
        f"{execution.precision}, {device_name(device)}, torch {torch.__version__}\n\n"
        + _table(measurements)
    )
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(prog="python training/benchmark.py", description=__doc__)
    parser.add_argument("--arch", default="mobilenetv2")
    parser.add_argument("--width", type=positive_float, default=1.0)
    parser.add_argument("--image-size", type=positive_int, default=32)
    parser.add_argument("--classes", type=positive_int, default=100)
    parser.add_argument(
        "--terms",
        default="ce,drg,dsr,drg+dsr",
        help=f"of {','.join(METHODS)}; ce is always measured",
    )
    parser.add_argument("--batch-size", type=positive_int, help="default: 128 on CUDA, 32 on a CPU")
    parser.add_argument(
        "--steps", type=positive_int, help="of a round; default: 50 on CUDA, 1 on a CPU"
    )
    parser.add_argument("--rounds", type=positive_int, default=15)
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument(
        "--compile",
        choices=tuple(_COMPILE),
        default="auto",
        help="as in a recipe; on a CPU, true also measures cross-entropy without it",
    )
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), help="as in a recipe")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser


def _plan(options: argparse.Namespace, recipe: Recipe) -> Plan:
    size = options.image_size
    return Plan(
        arch=options.arch,
        width=options.width,
        methods=(BASE,),
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
        "| more deployed | times the eager loop |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for m in measurements:
        memory = "-" if m.peak_memory_mib is None else f"{m.peak_memory_mib:.0f}"
        if m.memory_over_ce is not None:
            memory += f" ({m.memory_over_ce:+.1%})"
        lines.append(
            f"| {m.contender} | {m.ms_per_step:.2f} | {m.images_per_second:.0f} "
            f"| {m.over_ce:+.1%} | {m.start_up_seconds:.1f} | {memory} "
            f"| {m.added_in_training:,} | {m.added_at_deployment:,} "
            f"| {m.over_eager:.2f} |"
        )
    return "\n".join(lines)


def command() -> NoReturn:
    run_command(main, extra="train")


if __name__ == "__main__":
    command()
