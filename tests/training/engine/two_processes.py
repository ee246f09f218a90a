"""Trains a few steps and writes the terms: run by `torchrun` in test_processes.py.

Without `sync_batch_norm`, BatchNorm is left in evaluation mode: each process normalises its own
rows, so the statistics of two half batches are not those of the whole one, and everything else must
be equal.
"""

import sys
from pathlib import Path

import msgspec
import numpy as np
import torch

from training.config.plan import Plan
from training.data import load_dataset
from training.data.batches import Batches
from training.engine.build import build_learner
from training.engine.process_group import open_group


def main(plan_file: str, out: str) -> None:
    torch.set_num_threads(1)
    plan = msgspec.json.decode(Path(plan_file).read_bytes(), type=Plan)
    dataset = load_dataset(plan.data_argument)
    device = torch.device("cpu")
    with open_group(device) as group:
        learner = build_learner(plan, dataset, steps_per_epoch=64, device=device, group=group)
        if not plan.recipe.sync_batch_norm:
            learner.student.eval()
            learner.methods.eval()
        batches = Batches(
            dataset.train_images,
            dataset.train_labels,
            batch_size=plan.recipe.batch_size,
            device=device,
            seed=plan.seed,
            rank=group.rank,
            world_size=group.world_size,
        )
        for epoch in range(plan.recipe.epochs):
            for batch in batches.epoch(epoch):
                learner.step(batch, learning_rate=plan.recipe.learning_rate, scale=1.0)
        terms = learner.log.take(group)
        if group.is_main:
            np.save(out, terms)


if __name__ == "__main__":
    main(*sys.argv[1:])
