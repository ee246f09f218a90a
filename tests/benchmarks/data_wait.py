"""How long the device waits for images that are streamed from the memory map while it trains.

    python tests/benchmarks/data_wait.py --data FOLDER --image-size 224 --epochs 3

Prints one JSON object a line for each epoch. First the arrays are streamed through pinned buffers,
as in training where they do not fit on the GPU; then they lie on the GPU. The first epoch of each
includes compiling. `data_wait_share` is the share of the epoch's seconds without a batch.
"""

import argparse
import json
import time

import torch

from training.config.plan import Plan
from training.config.recipe import load_recipe
from training.data import Dataset, load_dataset
from training.data.batches import Batches
from training.engine.build import build_learner
from training.engine.device import choose_device, device_name
from training.engine.learner import Learner


def main() -> None:
    options = _parse()
    device = choose_device(options.device)
    dataset = load_dataset(options.data, image_size=options.image_size, data_root=None)
    changes = {"batch_size": options.batch_size} if options.batch_size else {}
    plan = Plan(
        arch=options.arch,
        width=1.0,
        methods=("ce", "drg", "dsr"),
        data=dataset.name,
        data_argument=options.data,
        data_root=None,
        class_names=dataset.class_names,
        input=dataset.input,
        seed=0,
        weights="random",
        recipe=load_recipe("folder", changes),
    )
    facts = {"arch": plan.arch, "device": device_name(device), "torch": torch.__version__}
    for resident in (False, True):
        for found in _epochs(plan, dataset, device, options.epochs, resident=resident):
            print(json.dumps({**facts, "resident": resident, **found}), flush=True)


def _epochs(
    plan: Plan, dataset: Dataset, device: torch.device, count: int, *, resident: bool
) -> list[dict[str, float]]:
    batches = Batches(
        dataset.train_images,
        dataset.train_labels,
        batch_size=plan.recipe.batch_size,
        device=device,
        seed=0,
        resident=resident,
    )
    learner = build_learner(plan, dataset, steps_per_epoch=count * len(batches), device=device)
    return [_epoch(learner, batches, number) for number in range(count)]


def _epoch(learner: Learner, batches: Batches, number: int) -> dict[str, float]:
    begun, images = time.perf_counter(), 0
    for batch in batches.epoch(number):
        learner.step(batch, learning_rate=0.01, scale=1.0)
        images += len(batch.rows)
    if learner.device.type == "cuda":
        torch.cuda.synchronize(learner.device)
    seconds = time.perf_counter() - begun
    return {
        "epoch": number + 1,
        "images_per_second": images / seconds,
        "data_wait_share": batches.wait_seconds / seconds,
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="as of training/run.py")
    parser.add_argument("--arch", default="mobilenetv2")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    main()
