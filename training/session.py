"""One training run from its options to its finished folder."""

from pathlib import Path

from runtime.command import fail
from runtime.locate import CHECKPOINT
from training.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from training.data import Dataset, data_names, load_dataset
from training.device import choose_device, device_name
from training.interruption import InterruptedRunError, StopRequest, stop_request
from training.options import Options
from training.plan import Plan, check_same_run, terms_name
from training.progress import Progress
from training.recipe import Recipe
from training.result import finish_run, summary
from training.run_folder import RunFolder, choose_folder, exclusive, move_latest, run_name
from training.trainer import Trainer
from training.weights import PRETRAINED, pretrained_weights, weights_from_file, weights_word

_INTERRUPTED = 1


def train(options: Options, recipe: Recipe) -> int:
    """Trains as `options` ask; returns the exit code."""
    device = choose_device(options.device)
    dataset = load_dataset(options.data, image_size=options.image_size, data_root=options.data_root)
    plan = _plan(options, recipe, dataset)
    name = run_name(data=plan.data, arch=plan.arch, terms=plan.terms, seed=plan.seed)
    run = choose_folder(name, out=options.out, resume=options.resume)
    former = read_checkpoint(run.path / CHECKPOINT) if run.exists else None
    if former is not None:
        check_same_run(former.plan, plan, where=str(run.path))
    progress = Progress(epochs=recipe.epochs)
    if run.finished:
        progress.say(f"{run.path} is finished: nothing to resume")
        return 0
    with exclusive(run.path), stop_request() as stop:
        progress.say(f"run folder {run.path}")
        trainer = Trainer(plan, dataset, device=device)
        _set_up(trainer, former, options, progress)
        return _train_in(run, trainer, options, progress, stop)


def _plan(options: Options, recipe: Recipe, dataset: Dataset) -> Plan:
    return Plan(
        arch=options.arch,
        width=options.width,
        terms=terms_name(drg=options.drg, dsr=options.dsr),
        data=dataset.name,
        data_argument=_whole_path(options.data),
        data_root=str(options.data_root.resolve()) if options.data_root else None,
        class_names=dataset.class_names,
        input=dataset.input,
        seed=options.seed,
        weights=weights_word(pretrained=options.pretrained, path=options.weights),
        recipe=recipe,
    )


def _whole_path(data: str) -> str:
    """A folder's absolute path, so that the run can be read from anywhere; a name as it is."""
    return data if data in data_names() else str(Path(data).expanduser().resolve())


def _set_up(
    trainer: Trainer, former: Checkpoint | None, options: Options, progress: Progress
) -> None:
    plan = trainer.plan
    progress.say(
        f"{plan.arch} x{plan.width:g} on {plan.data} at {plan.input.size} px, {plan.terms}: "
        f"{len(trainer.train_rows)} training images, {len(trainer.validation_rows)} held out for "
        f"calibration, {len(trainer.dataset.test_labels)} for testing; "
        f"{plan.recipe.epochs} epochs on {device_name(trainer.device)}"
    )
    if former is not None:
        trainer.restore(former)
        progress.say(f"resumed after {former.epoch} epochs and {former.step} steps")
    elif options.pretrained or options.weights is not None:
        state = (
            pretrained_weights(plan.arch, plan.width)
            if plan.weights == PRETRAINED or options.weights is None
            else weights_from_file(options.weights)
        )
        left_out = trainer.start_from(state)
        if left_out:
            progress.say(left_out)


def _train_in(
    run: RunFolder, trainer: Trainer, options: Options, progress: Progress, stop: StopRequest
) -> int:
    def save(checkpoint: Checkpoint) -> None:
        save_checkpoint(run.path / CHECKPOINT, checkpoint)
        if options.out is None:
            move_latest(run.path)

    try:
        trainer.train(run.path, save, progress, stop)
    except InterruptedRunError as interruption:
        return fail(f"{interruption}; {run.path} goes on with --resume", _INTERRUPTED)
    result = finish_run(trainer, run.path, save)
    progress.say("")
    progress.say(summary(result))
    progress.say(f"\nrun   {run.path}\nnext  python export/run.py {run.path}")
    return 0
