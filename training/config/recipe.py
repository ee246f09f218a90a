"""Recipes: every choice of a training run, from a YAML file, strictly checked.

A recipe is one of the files in `training/config/recipes/`, chosen by the data set, or any YAML file
with the keys of `Recipe`. The command line's options are laid on top of it, and the result goes
whole into the run's `result.json`.
"""

import contextlib
import math
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from runtime.base.errors import UserError
from runtime.model.card import Fit
from training.config.method_registry import METHOD_REGISTRY, NO_PEER, method_names

FOLDER = Path(__file__).resolve().parent / "recipes"
SUFFIXES = (".yaml", ".yml")

Count = Annotated[int, msgspec.Meta(ge=1)]
Weight = Annotated[float, msgspec.Meta(ge=0)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]

Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["cosine", "step", "one-cycle"]
DsrTeacherKind = Literal["previous", "mean", "ema"]
Select = Literal["last", "best"]
DsrShape = Literal[
    "paper",
    "below-first",
    "standardised",
    "standardised-below-first",
    "shuffled-ranks",
    "norm-variance",
]
DsrPlace = Literal["output", "auxiliary"]
ClassWeights = Literal["none", "balanced", "sqrt"]
Crop = Literal["auto", "none", "pad", "resized"]
Precision = Literal["auto", "fp32", "bf16"]
Tap = Annotated[int, msgspec.Meta(ge=1, le=4)]
_TAP = 2

PEER_NAMES = method_names("whole")
_HARD_LABELS = {name for name in PEER_NAMES if not METHOD_REGISTRY[name].soft_labels}
# With fewer held out images, half of them could not bound the rate of errors by 5 % even if all
# answers were right (`runtime.evaluation.threshold`).
FEWEST_TO_SHARE = 90
_ROUNDING = 1e-9  # a fifth of the images is not exactly 0.2
# Keys whose words are listed elsewhere.
_CHOICES = {"peer": (NO_PEER, *PEER_NAMES)}

_RECIPE_OF_DATA = {
    "digits": "digits",
    "fashion-mnist": "cifar",
    "cifar10": "cifar",
    "cifar100": "cifar",
    "tiny-imagenet": "cifar",
}
_RECIPE_OF_OTHER_DATA = "folder"
# Epochs at the start and at the end that are special, and the largest share of a run that they
# have where one of our recipes is shortened.
_PHASES = {"warmup_epochs", "unmixed_epochs"}
MOST_OF_A_PHASE = 1 / 6


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to train: all that `result.json` needs so that the run can be repeated."""

    epochs: Count
    batch_size: Annotated[int, msgspec.Meta(ge=2)]  # per process; BatchNorm needs two images

    optimizer: Optimizer
    learning_rate: Positive  # the highest
    momentum: Share = 0.9  # of sgd, which is Nesterov's
    weight_decay: Weight = 0.0
    decay_norms_and_biases: bool = False  # false: weight decay leaves vectors alone
    schedule: Schedule = "cosine"
    milestones: tuple[Fraction, ...] = (0.3, 0.6, 0.8)  # of `step`, as shares of all epochs
    milestone_factor: Fraction = 0.2  # of `step`: what each milestone multiplies the rate by
    # Linear, from zero. At the full rate from the first step, the last features of some networks
    # are the same for every picture within 60 steps (test_warmup.py).
    warmup_epochs: Weight = 0.0

    drg_weight: Weight = 0.2  # α of the paper
    dsr_weight: Weight = 1.0  # β of the paper
    temperature: Positive = 4.0  # of both distillation terms
    dsr_teacher: DsrTeacherKind = "previous"  # row by row, the batch's mean shape, or its average
    dsr_momentum: Share = 0.9  # of `ema`
    dsr_shape: DsrShape = "paper"  # what is compared: training/methods/rank_shapes.py
    dsr_tau: Positive = 0.5  # of the standardised shapes, instead of `temperature`
    dsr_on: DsrPlace = "output"  # or the auxiliary heads' logits, whose trunk stays as it is
    dsr_fade: bool = (
        False  # DSR's weight grows over a tenth of the run, and goes in its second half
    )
    # Both weights grow linearly from zero. With the full weight from the first step, DSR can keep a
    # network for few classes at its first, uniform answers (results/, tiny-fashion).
    distillation_warmup_epochs: Weight = 1.0
    tap: Tap = _TAP  # the stage that the auxiliary head reads
    taps: tuple[Tap, ...] = ()  # several heads, each on a stage; empty: one head, on `tap`
    head_width: Positive = 1.0  # widens the auxiliary head

    # Of `--teacher RUN`: the divergence from its answers is added to all other terms.
    teacher_weight: Weight = 1.0
    teacher_temperature: Positive = 4.0

    peer: str = NO_PEER  # another self-distillation method, instead of DRG and DSR
    label_noise: Share = 0.0  # of the training labels, replaced by another class
    # Both are for classes with few images, and one of them is enough.
    class_weights: ClassWeights = "none"  # of a class in the cross-entropies: 1 / n, or 1 / √n
    balanced_sampling: bool = False  # each class is drawn equally often in an epoch
    class_imbalance: Annotated[float, msgspec.Meta(ge=1)] = 1.0  # thins every second class by this
    label_smoothing: Share = 0.0
    mixup: Weight = 0.0  # parameter of the Beta distribution; 0 is off
    cutmix: Weight = 0.0  # the same; with both on, each image takes one of them
    mix_share: Fraction = 1.0  # the share of the images that mixup or CutMix takes
    unmixed_epochs: Weight = 0.0  # at the end, in which it takes none
    random_erasing: Fraction = 0.0  # probability
    fit: Fit = "crop"  # of a picture that is no square; letterbox and stretch show all of it
    crop: Crop = "auto"  # pad up to 64 px, resized above
    # Of `resized`: the smallest share of the image's area. 0: what torchvision takes, or 0.8 where
    # `fit` shows the whole picture, so that its edges stay in sight.
    crop_scale: Fraction = 0.0
    padding: Annotated[int, msgspec.Meta(ge=0)] = 4  # of `pad`, in pixels
    flip: bool = True
    # auto: on CUDA where torch.compile can work; not on a CPU, where compiled steps are slower
    # (training/engine/execution.py). true: always, or an error.
    compile: Literal["auto"] | bool = "auto"
    # Left out: bf16 on GPUs that have it, fp32 on a CPU. auto: also on a CPU that has AMX.
    precision: Precision | None = None
    # Several processes normalise their batches together, as one process would; never compiled.
    sync_batch_norm: bool = False
    ema_decay: Share = 0.0  # average of the weights, deployed instead of them; 0 is off

    # The share of the training images that is held out, class by class, to fit the calibration
    # temperature and to choose settings. 0: all images are trained on, and nothing is calibrated.
    validation_fraction: Annotated[float, msgspec.Meta(ge=0, le=0.5)] = 0.0
    # Both are judged on the held out images after each epoch, and never on the test split.
    select: Select = "last"  # which epoch's student is deployed; best: by validation accuracy
    patience: Annotated[int, msgspec.Meta(ge=0)] = 0  # epochs without a gain that end it; 0: off
    validation_fold: Annotated[int, msgspec.Meta(ge=0)] = 0  # which of the shares is held out
    # Half of 90 and more held out images are kept apart for the thresholds of exported files
    # (training/data/splits.py). false: all of them choose, and no file has a threshold.
    thresholds: bool = True
    train_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0  # of the others, class by class

    def __post_init__(self) -> None:
        if self.schedule == "one-cycle" and self.warmup_epochs:
            raise ValueError("warmup_epochs must be 0: one-cycle warms up by itself")
        if self.peer in _HARD_LABELS and (self.label_smoothing or self.mixup or self.cutmix):
            raise ValueError(f"peer {self.peer} needs label_smoothing, mixup and cutmix to be 0")
        if len(set(self.taps)) < len(self.taps):
            raise ValueError(f"taps {list(self.taps)} must be different stages")
        if self.taps and self.tap not in (_TAP, *self.taps):
            raise ValueError(f"tap {self.tap} is not in taps {list(self.taps)}: give one of them")
        if (self.validation_fold + 1) * self.validation_fraction > 1 + _ROUNDING:
            raise ValueError(
                f"validation_fold {self.validation_fold} is not there: validation_fraction "
                f"{self.validation_fraction:g} makes {int(1 / self.validation_fraction)} folds"
            )
        if self.balanced_sampling and self.class_weights != "none":
            raise ValueError(
                f"class_weights {self.class_weights} and balanced_sampling true would both make "
                "rare classes count more; choose one of them"
            )
        if self.sync_batch_norm and self.compile is True:
            raise ValueError("sync_batch_norm exchanges within a step: compile must not be true")
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"milestones {self.milestones} must ascend")


def recipe_names() -> tuple[str, ...]:
    """The recipes that come with SKD Edge."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def default_recipe(data: str) -> str:
    """The recipe for the value of `--data`."""
    return _RECIPE_OF_DATA.get(data, _RECIPE_OF_OTHER_DATA)


def load_recipe(name: str, overrides: Mapping[str, object] | None = None) -> Recipe:
    """The recipe called `name`, or in the YAML file `name`, with `overrides` laid on top.

    Raises:
        UserError: in one line that names file, key, what was received and what was expected.
    """
    from training.config.yaml_file import read_yaml  # so that a command without PyYAML can say so

    path = _recipe_path(name)
    recipe = recipe_from_values(read_yaml(path), source=str(path))
    if not overrides:
        return recipe
    values = laid_on(recipe, overrides)
    if path.parent == FOLDER:
        # A shortened recipe of ours keeps most of the run as it is; a user's file is literal.
        epochs = _converted(values["epochs"], int, "command line: epochs")
        for key in _PHASES - overrides.keys():
            values[key] = min(values[key], epochs * MOST_OF_A_PHASE)
    return recipe_from_values(values, source="command line")


def laid_on(recipe: Recipe, changes: Mapping[str, object]) -> dict[str, Any]:
    """The recipe's values with the changes on top; of `tap` and `taps`, one replaces the other."""
    values: dict[str, Any] = msgspec.to_builtins(recipe) | dict(changes)
    if "tap" in changes and "taps" not in changes:
        values["taps"] = []
    if "taps" in changes and "tap" not in changes:
        values["tap"] = _TAP
    return values


def parsed_settings(settings: Sequence[str]) -> dict[str, object]:
    """The keys and values of settings such as "drg_weight=0.4"; the values are YAML.

    Raises:
        UserError: if one is not of this form, or two have one key.
    """
    from training.config.yaml_file import parse_yaml

    values: dict[str, object] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting!r}: expected KEY=VALUE, e.g. drg_weight=0.4")
        if key in values:
            raise UserError(f"--set gives {key} twice; expected one value, leave the other out")
        values[key] = parse_yaml(value, f"--set {setting!r}")
    return values


def recipe_from_values(values: Mapping[str, Any], *, source: str) -> Recipe:
    """A Recipe of plain values; `source` names them in a UserError."""
    fields = {field.name: field for field in msgspec.structs.fields(Recipe)}
    converted: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            raise UserError(f"{source}: unknown key {key!r}; a recipe has {', '.join(fields)}")
        converted[key] = _converted(value, fields[key].type, f"{source}: {key}")
        if key in _CHOICES and value not in _CHOICES[key]:
            expected = ", ".join(_CHOICES[key])
            raise UserError(f"{source}: {key}: received {value!r}, expected one of {expected}")
    missing = [name for name, field in fields.items() if field.required and name not in converted]
    if missing:
        raise UserError(f"{source}: missing {', '.join(missing)}; add a line such as 'epochs: 50'")
    try:
        return Recipe(**converted)
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error


def _converted(value: object, kind: Any, where: str) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: received {value}, expected a finite number")
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        expected = str(error).replace("`", "")
        if words := _words_of(kind):
            expected = "expected one of " + ", ".join(words)
        raise UserError(f"{where}: received {value!r}, {_lower_first(expected)}") from error


def _words_of(kind: Any) -> list[str]:
    """The words that a YAML file may have for a choice; none if `kind` is not a choice of words."""
    if typing.get_origin(kind) is Literal:
        return list(typing.get_args(kind))
    kinds = [each for each in typing.get_args(kind) if each is not type(None)]
    words = [["true", "false"] if each is bool else _words_of(each) for each in kinds]
    return [word for found in words for word in found] if kinds and all(words) else []


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _recipe_path(name: str) -> Path:
    path = Path(name)
    with contextlib.suppress(RuntimeError):  # no such user: then there is no such file
        path = path.expanduser()  # shells leave `--recipe=~/x.yaml` as it is
    if path.suffix in SUFFIXES:
        return path
    if name in recipe_names():
        return FOLDER / f"{name}.yaml"
    raise UserError(
        f"recipe {name!r} is unknown; choose one of {', '.join(recipe_names())}, or a .yaml file"
    )
