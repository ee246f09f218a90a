"""The data of a run that exists: found where they lay or lie now, and known by their content."""

from dataclasses import replace
from pathlib import Path

from runtime.base.errors import UserError
from runtime.model.locate import CHECKPOINT, RESULT, RUNS
from training.config.plan import IN_PLACE, MovedData, Plan, differences, same_images
from training.data import Dataset, data_names, load_dataset
from training.data.forms import is_data
from training.data.leaks import without_leaks
from training.data.table_cells import names_of_labels
from training.records.checkpoint import TrainedRun, read_checkpoint
from training.records.run_folder import RunFolder, run_name


def load_run_dataset(trained: TrainedRun, moved: MovedData = IN_PLACE) -> Dataset:
    """The data set that a run was trained on, which may lie elsewhere by now.

    Other images are refused because even one more image changes the 80/20 split of a folder, and
    then images that were trained on would be tested on.

    Raises:
        UserError: if the data are not there, or have other images or labels.
    """
    plan = trained.plan
    data = plan.data_argument if moved.data is None else moved.data
    if moved.data is None and data not in data_names() and not is_data(Path(data)):
        raise UserError(
            f"the data of {trained.folder} were in {data}, which is not there; "
            "name the place where they lie now with --data"
        )
    root = moved.data_root
    if root is None and plan.data_root and data == plan.data_argument:
        root = Path(plan.data_root)
    try:
        dataset = load_dataset(
            data,
            image_size=plan.input.size,
            fit=plan.input.fit,
            data_root=root,
            classes=plan.classes,
            columns=plan.columns,
            cache=plan.cache,
            allow_leaks=True,
            of_a_run=True,
        )
    except UserError as error:
        if moved != IN_PLACE:
            raise
        # An empty mount point, or files that were moved out of their folder.
        raise UserError(
            f"{error}; if the data of {trained.folder} lie elsewhere now, name the place with "
            f"{'--data-root' if plan.data_root else '--data'}"
        ) from error
    dataset = without_leaks(dataset, plan.drop_leaks, progress=True)
    word = plan.data if moved.data is None else moved.data
    names = names_of_labels({*plan.class_names})
    if dataset.class_names == tuple(names[name] for name in plan.class_names):
        # Older versions called a class "7.0" as the list does, which is "7" since.
        dataset = replace(dataset, class_names=plan.class_names)
    if dataset.class_names != plan.class_names:
        raise UserError(
            f"data {word} now has {len(dataset.class_names)} classes that are not those of "
            f"{trained.folder} ({len(plan.class_names)}); name its own data with --data, "
            "or train again"
        )
    if not _has_images_of(plan, dataset):
        raise UserError(
            f"data {word} now has other images or labels than {trained.folder} was trained "
            "on; bring those back, name their place with --data, or train again"
        )
    return dataset


def _has_images_of(plan: Plan, dataset: Dataset) -> bool:
    """Whether the images and labels are those of the plan, as far as the plan states digests."""
    if plan.content_digest:
        return plan.content_digest == dataset.content_digest(show=True)
    return plan.data_digest in ("", dataset.digest())


def find_renamed_run(plan: Plan) -> RunFolder | None:
    """The run in `runs/` that `plan` goes on with, though its data had another name.

    It is known by the content of its data. Of several it is the newest unfinished one, or the
    newest.
    """
    ending = run_name(data="", arch=plan.arch, terms=plan.terms, seed=plan.seed)
    found: list[tuple[bool, float, Path]] = []
    for folder in RUNS.glob(f"*{ending}*"):
        path = folder / CHECKPOINT
        if folder.is_symlink() or not path.is_file():
            continue
        try:
            checkpoint = read_checkpoint(path)
        except UserError:  # not the run that is looked for, whatever it is
            continue
        former = checkpoint.plan
        if checkpoint.learned is not None:  # of training/qat.py: it has the plan of its source
            continue
        if same_images(former, plan) and not differences(former, plan):
            found.append((not (folder / RESULT).is_file(), path.stat().st_mtime, folder))
    if not found:
        return None
    unfinished, _, folder = max(found)
    return RunFolder(folder, exists=True, finished=not unfinished)
