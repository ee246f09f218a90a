"""One training run from its options to its finished folder."""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import msgspec
import torch

from runtime.base.command import fail
from runtime.base.errors import UserError
from runtime.base.shown_text import pasted
from runtime.model.locate import CHECKPOINT, RESULT
from training.config.command_words import repeatable_command
from training.config.idle_keys import idle_words
from training.config.method_registry import TEACHER, chosen_methods, method_names
from training.config.options import Options, names_batch
from training.config.plan import Plan, moved_words
from training.config.recipe import Recipe, parsed_settings
from training.data import Dataset, data_names
from training.data.class_names import classes_line
from training.data.splits import check_selection, fit_batch
from training.engine.build import crop_of
from training.engine.device import choose_device, device_name, keep_freed_memory
from training.engine.execution import execution_of
from training.engine.full_memory import SMALLER, full_memory_told, images_words
from training.engine.heartbeat import LostProcessError
from training.engine.interruption import InterruptedRunError, StopRequest, stop_request
from training.engine.joint_start import check_same_plan, load_data
from training.engine.process_group import ProcessGroup, open_group, started_by_torchrun, watched
from training.engine.resharding import goes_on_with, shared_out_words
from training.engine.start_trainer import start_trainer
from training.engine.trainer import Trainer
from training.finish import finish_run, summary
from training.methods.method import method_class
from training.networks.students import build_student
from training.networks.weights import pretrained_weights, start_from, weights_word
from training.networks.weights_file import weights_from_file
from training.records.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from training.records.journal import Progress, counted
from training.records.run_data import find_renamed_run
from training.records.run_folder import (
    RunFolder,
    check_latest,
    check_out,
    choose_folder,
    exclusive,
    move_latest,
    run_name,
)
from training.records.teacher_run import TeacherRun, finished_run, load_teacher
from training.records.tracker import followed

_STOPPED = 1


def train(options: Options, recipe: Recipe) -> int:
    """Trains as `options` ask; returns the exit code."""
    local_rank, _ = started_by_torchrun()
    device = choose_device(options.device, local_rank=local_rank)
    try:
        with open_group(device) as group, watched(group):
            return _train(options, recipe, device, group)
    except LostProcessError as error:
        return fail(str(error), _STOPPED)
    except InterruptedRunError as interruption:  # before the first step
        return fail(f"{interruption}; nothing was trained, repeat the command", _STOPPED)


def _train(options: Options, recipe: Recipe, device: torch.device, group: ProcessGroup) -> int:
    execution_of(recipe, device)  # what is not possible here is told before data are decoded
    progress = Progress(epochs=recipe.epochs, quiet=not group.is_main)
    if options.out is None:
        group.on_main(check_latest)
    else:
        group.on_main(partial(check_out, options.out, resume=options.resume))
    group.on_main(partial(_check_named, options))
    dataset, check = load_data(options, recipe, group)
    progress.say(classes_line(dataset.class_names))
    if check is not None:
        check.say()
    check_selection(recipe, dataset)
    if not names_batch(options):
        recipe = fit_batch(recipe, dataset, say=progress.say, processes=group.world_size)
    teacher = group.on_all(lambda: _teacher(options, dataset))
    plan = _plan(options, recipe, dataset, group, teacher)
    check_same_plan(plan, group)
    for sentence in idle_words(
        parsed_settings(options.set or []),
        recipe,
        plan.terms,
        crop=crop_of(plan),
        own_validation=bool(dataset.validation_images),
    ):
        progress.say(sentence)
    name = run_name(data=plan.data, arch=plan.arch, terms=plan.terms, seed=plan.seed)
    # Only the main process chooses. Another one could look when the main one has written already.
    # It also reads the checkpoint for all, because other hosts may not see its folder.
    run, former = group.share(group.on_main(lambda: _choose(name, options, plan)))
    if former is not None:
        plan = _continued(former, plan, progress, where=str(run.path))
    if run.finished:
        progress.say(f"{run.path} is finished: nothing to resume")
        return 0
    with ExitStack() as held, stop_request() as stop:
        group.on_main(lambda: held.enter_context(exclusive(run.path)))
        if group.is_main and not run.exists:
            # A result that a former run left without its checkpoint would make this run look
            # finished as soon as its own first checkpoint exists.
            (run.path / RESULT).unlink(missing_ok=True)
        progress.say(f"run folder {run.path}")
        if check is not None and (pairs := check.write(run.path)):
            progress.say(f"duplicates {pairs}")
        for sentence in teacher.said if teacher is not None else ():
            progress.say(sentence)
        keep_freed_memory(device)
        held.enter_context(full_memory_told(device, images_words(plan), smaller=SMALLER))
        trainer = start_trainer(
            plan,
            dataset,
            device=device,
            group=group,
            teacher=teacher.network if teacher is not None else None,
            former=former,
            stop=stop,
            say=progress.say,
        )
        _set_up(trainer, former, options, progress)
        log = options.log if group.is_main else None
        with followed(run.path, log, params=_params(plan), say=progress.say):
            return _train_in(run, trainer, options, progress, stop)


def _params(plan: Plan) -> dict[str, object]:
    """What trackers are told of a run before it begins."""
    own = ("arch", "width", "data", "terms", "seed", "weights", "processes")
    recipe: dict[str, object] = msgspec.to_builtins(plan.recipe)
    return {name: getattr(plan, name) for name in own} | recipe


def _check_named(options: Options) -> None:
    """Refuses a teacher or weights that cannot be used before data are decoded: that may take long.

    A run that goes on has its weights already, and the file of the first ones may be gone.
    """
    if options.teacher is not None:
        finished_run(options.teacher)
    weights = None if options.resume else _named_weights(options)
    if weights is not None:
        student = build_student(options.arch, num_classes=2, image_size=32, width=options.width)
        start_from(student, weights, arch=options.arch)


def _named_weights(options: Options) -> Mapping[str, object] | None:
    """What the options begin with, by names of tensors; None: random weights."""
    if options.pretrained:
        return pretrained_weights(options.arch, options.width)
    return weights_from_file(options.weights) if options.weights is not None else None


def _teacher(options: Options, dataset: Dataset) -> TeacherRun | None:
    return load_teacher(options.teacher, dataset) if options.teacher is not None else None


def _continued(former: Checkpoint, plan: Plan, progress: Progress, *, where: str) -> Plan:
    """The plan of a training that goes on with a run that this command has begun."""
    if former.learned:
        raise UserError(
            f"{where} was made by `python training/qat.py`: go on with that command, or choose "
            "another --out"
        )
    plan = goes_on_with(former.plan, plan, where=where)
    for words in (shared_out_words(former.plan, plan), moved_words(former.plan, plan)):
        if words:
            progress.say(words)
    return msgspec.structs.replace(plan, data=former.plan.data)


def _choose(name: str, options: Options, plan: Plan) -> tuple[RunFolder, Checkpoint | None]:
    """The folder to train in, and its checkpoint if the training goes on with one.

    `--resume` finds the folder by the data's content if not by its name.
    """
    chosen = choose_folder(name, out=options.out, resume=options.resume)
    if options.resume and options.out is None and not chosen.exists:
        chosen = find_renamed_run(plan) or chosen
    return chosen, read_checkpoint(chosen.path / CHECKPOINT) if chosen.exists else None


def _plan(
    options: Options,
    recipe: Recipe,
    dataset: Dataset,
    group: ProcessGroup,
    teacher: TeacherRun | None = None,
) -> Plan:
    terms = [name for name in method_names("term") if getattr(options, name)]
    if teacher is not None:
        terms.append(TEACHER)
    methods = chosen_methods(terms, peer=recipe.peer)
    for name in methods:
        if group.world_size > 1 and method_class(name).remembers_images:
            raise UserError(
                f"the method {name} remembers what it said of every image, which "
                f"{group.world_size} processes do not share; train with one"
            )
    return Plan(
        arch=options.arch,
        width=options.width,
        methods=methods,
        data=dataset.name,
        data_argument=_whole_path(options.data),
        data_root=str(options.data_root.resolve()) if options.data_root else None,
        classes=options.classes,
        columns=options.columns,
        cache=options.cache,
        drop_leaks=options.drop_leaks,
        class_names=dataset.class_names,
        input=dataset.input,
        seed=options.seed,
        weights=weights_word(pretrained=options.pretrained, path=options.weights),
        teacher=teacher.word if teacher is not None else "",
        processes=group.world_size,
        train_images=len(dataset.train_labels),
        data_digest=dataset.digest(),
        # Of arrays that lie outside of the cache, all bytes are read for it.
        content_digest=group.share(dataset.content_digest(show=True) if group.is_main else None),
        recipe=recipe,
    )


def _whole_path(data: str) -> str:
    """The absolute path of the data, so that the run can be read from anywhere, or a name."""
    if data in data_names():
        return data
    path = Path(data).expanduser()
    # The paths in a list are relative to its folder, also where the list is a link.
    return str(path.absolute() if path.is_file() else path.resolve())


def _set_up(
    trainer: Trainer, former: Checkpoint | None, options: Options, progress: Progress
) -> None:
    """Says what is trained, and continues or begins with what the options name."""
    plan = trainer.plan
    progress.say(
        f"{plan.arch} x{plan.width:g} on {plan.data} at {plan.input.size} px, {plan.terms}: "
        f"{len(trainer.train_rows)} training images, {_held_out_words(trainer)}, "
        f"{len(trainer.dataset.test_labels)} for testing; "
        f"{counted(plan.recipe.epochs, 'epoch')} on {device_name(trainer.device)}"
    )
    if former is not None:
        trainer.restore(former)
        progress.say(
            f"resumed after {counted(former.epoch, 'epoch')} and {counted(former.step, 'step')}"
        )
        if former.device not in ("", device_name(trainer.device)):
            progress.say(
                f"begun on {former.device}: the result will not be bit for bit what it was there"
            )
        return
    weights = _named_weights(options)
    left_out = trainer.learner.start_from(weights, arch=plan.arch) if weights is not None else None
    if left_out:
        progress.say(left_out)


def _held_out_words(trainer: Trainer) -> str:
    """How many images are held out, and for what."""
    recipe = trainer.plan.recipe
    chosen = recipe.select == "best" or recipe.patience
    purpose = "the choice of the epoch and calibration" if chosen else "calibration"
    choosing, apart = int(trainer.choosing.sum()), int((~trainer.choosing).sum())
    words = f"{choosing} held out for {purpose}"
    return words + (f" and {apart} for thresholds of acceptance" if apart else "")


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
        if not trainer.group.is_main:
            return _STOPPED
        return fail(f"{interruption}; {run.path} goes on with --resume", _STOPPED)
    command = repeatable_command(options, data=trainer.plan.data)
    result = finish_run(
        trainer, run.path, save, command=command, error_sheet=not options.no_error_sheet
    )
    if result is not None:
        progress.say(f"\n{summary(result)}")
        progress.say(f"\nrun   {run.path}\nnext  python export/run.py {pasted(run.path)}")
    return 0
