"""How near to float32 a training for int8 comes: `python tests/benchmarks/int8_settings.py RUN`.

The training is that of `training/qat.py` with another learning rate, temperature or speed of the
activations' steps. After each epoch it prints the agreement with the float32 student and the KL
divergence from it, through simulated int8 numbers, on images that are neither trained on nor
tested: uint8 (N, S, S, 3) of a .npy file. The last lines round only weights, only activations, or
nothing, and so say where the rest comes from. No file is written. docs/measured.md has a table.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from training.config.plan import MovedData
from training.engine.build_quantized import build_quantized_learner, recipe_for_int8
from training.engine.nearest_epoch import divergence
from training.engine.optimizers import learning_rate
from training.engine.trainer import Trainer
from training.evaluation.logits import logits_of
from training.quantization import quantized_student
from training.quantization.quantized_student import QuantizedStudent
from training.records.checkpoint import load_trained, read_checkpoint
from training.records.run_data import load_run_dataset

CPU = torch.device("cpu")


def main() -> None:
    """Trains, and prints a line an epoch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=Path, required=True, help="a .npy file")
    parser.add_argument("--count", type=int, default=2500, help="how many of them judge")
    parser.add_argument("--kind", choices=("int8", "int8-cpu"), default="int8")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--speed", type=float, default=quantized_student._SPEED)
    options = parser.parse_args()
    quantized_student._SPEED = options.speed
    source, trained = read_checkpoint(options.run / "checkpoint.pt"), load_trained(options.run)
    recipe = recipe_for_int8(source.plan.recipe, options.epochs)
    asked = {name: getattr(options, name) for name in ("learning_rate", "temperature")}
    recipe = msgspec.structs.replace(recipe, **{k: v for k, v in asked.items() if v is not None})
    plan = msgspec.structs.replace(source.plan, methods=("ce",), recipe=recipe)
    dataset = load_run_dataset(trained, MovedData(None, None))
    build = partial(build_quantized_learner, kind=options.kind, source=source)
    trainer = Trainer(plan, dataset, device=CPU, build=build)
    quantized = trainer.learner.student
    assert isinstance(quantized, QuantizedStudent)
    images = np.load(options.images)[: options.count]
    answer = partial(logits_of, images=images, spec=dataset.input, device=CPU)
    exact = answer(trained.student)
    print(f"learning rate {recipe.learning_rate:g}, temperature {recipe.temperature:g}")
    print(f"start    {_line(exact, answer(quantized))}", flush=True)
    for epoch in range(recipe.epochs):
        for step, batch in enumerate(trainer.batches.epoch(epoch)):
            done = epoch * trainer.steps_per_epoch + step
            rate = learning_rate(recipe, step=done, steps_per_epoch=trainer.steps_per_epoch)
            trainer.learner.step(batch, learning_rate=rate, scale=1.0)
        trainer.learner.take_terms(done=0, steps_per_epoch=trainer.steps_per_epoch)
        print(f"epoch {epoch + 1}  {_line(exact, answer(quantized))}", flush=True)
    for words in _parts(quantized):
        print(f"{words}  {_line(exact, answer(quantized))}", flush=True)


def _line(exact: NDArray[np.float32], found: NDArray[np.float32]) -> str:
    same = float((exact.argmax(axis=1) == found.argmax(axis=1)).mean())
    return f"agreement {same:7.2%}  KL {1e4 * divergence(exact, found):6.2f}e-4"


def _parts(quantized: QuantizedStudent) -> Iterator[str]:
    """Leaves out what is not named, until the next one is asked for."""
    index, placement = quantized._index, quantized._placement
    quantized._index = {}
    yield "only weights    "
    quantized._placement = replace(placement, weights=frozenset())
    yield "nothing         "
    quantized._index = index
    yield "only activations"
    quantized._placement = placement


if __name__ == "__main__":
    main()
