"""What a run is: everything that decides its result, as plain data."""

from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from runtime.base.errors import UserError
from runtime.model.card import InputSpec
from training.config.cache_form import ARRAYS, jpeg_quality
from training.config.idle_keys import idle_keys, one_form
from training.config.method_registry import terms_word
from training.config.recipe import Recipe


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run's choices; two runs with equal plans give equal students.

    Equal bit for bit on one CPU with the same number of threads, elsewhere up to rounding.
    """

    arch: str
    width: float
    methods: tuple[str, ...]  # their names, in the order in which their terms are added
    data: str  # the data set's name, never a path
    data_argument: str  # what --data was: a name, or a local path
    data_root: str | None
    classes: str = "folders"  # what --classes was
    columns: str = ""  # what --columns was
    cache: str = ARRAYS  # what --cache was
    drop_leaks: str = "none"  # which copies of held-out images were left out of train
    class_names: tuple[str, ...]
    input: InputSpec
    seed: int
    weights: str  # what the student started from: "random", "pretrained" or a digest
    teacher: str = ""  # "sha256:" and the digest of its checkpoint; "" without one
    processes: int = 1
    # Processes, and images of a step in each, of the beginning of a run that others go on with.
    begun_with: tuple[int, ...] = ()
    train_images: int = 0  # with those held out; 0 in a checkpoint that does not state it
    data_digest: str = ""  # Dataset.digest(); "" in a checkpoint that does not state it
    content_digest: str = ""  # Dataset.content_digest(); the same
    recipe: Recipe

    @property
    def terms(self) -> str:
        """The word that results and folders have for the methods."""
        return terms_word(self.methods)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


class MovedData(NamedTuple):
    """Where a run's data lie now, as `--data` and `--data-root` say. None: where they lay then."""

    data: str | None = None
    data_root: Path | None = None


IN_PLACE = MovedData()
# Where the data lies may change between a run and its continuation.
_MAY_DIFFER = {"data_argument", "data_root"}


def check_same_run(former: Plan, wanted: Plan, *, where: str) -> None:
    """Checks that `wanted` goes on with the run `former`.

    Raises:
        UserError: with the differences, if it does not.
    """
    found = differences(former, wanted)
    if found:
        raise UserError(
            f"{where} holds another run ({'; '.join(found)}); "
            "repeat its options, or train without --resume"
        )


def same_images(former: Plan, wanted: Plan) -> bool | None:
    """Whether the data of both plans hold the same images and labels; None: it is not known.

    Plans of older versions state a digest of some of the images only, or none.
    """
    if "" in (former.data_digest, wanted.data_digest):
        return None
    if former.data_digest != wanted.data_digest:
        return False
    digests = (former.content_digest, wanted.content_digest)
    return "" in digests or digests[0] == digests[1]


def moved_words(former: Plan, wanted: Plan) -> str | None:
    """A line that says where the data of `wanted` were for `former`; None if they were there."""
    if former.data_argument == wanted.data_argument and former.data == wanted.data:
        return None
    named = "" if former.data == wanted.data else f", and the run still calls them {former.data}"
    same = ": they hold the same images and labels" if same_images(former, wanted) else ""
    return f"the data are in {wanted.data_argument} and were in {former.data_argument}{same}{named}"


def differences(former: Plan, wanted: Plan) -> list[str]:
    """What sets two plans apart, as "arch: resnet18, now mobilenetv2"; empty for equal ones.

    Data may have another name if they hold the same images and labels. Keys of the recipe that no
    term of either plan reads may differ: their defaults may have changed since.
    """
    found = []
    apart = {"recipe", "class_names", "data_digest", "content_digest", "methods", "input"}
    apart |= _same_pixels(former, wanted)
    same = same_images(former, wanted)
    if same:
        apart.add("data")
    if former.train_images == 0:
        apart.add("train_images")
    for name, old, new in _compared(former, wanted, _MAY_DIFFER | apart):
        found.append(f"{name}: {old}, now {new}")
    found += _input_differences(former, wanted)
    if former.terms != wanted.terms:  # other methods differ in the recipe, too
        found.append(f"terms: {former.terms}, now {wanted.terms}")
    found += _recipe_differences(former, wanted)
    if former.class_names != wanted.class_names:
        old, new = former.class_names, wanted.class_names
        if len(old) != len(new):
            found.append(f"classes: {len(old)}, now {len(new)}")
        else:
            index = next(i for i, pair in enumerate(zip(old, new, strict=True)) if len({*pair}) > 1)
            found.append(f"class {index}: {old[index]!r}, now {new[index]!r}")
    if not found and same is False:
        found.append(f"data: {former.data} now has other images or labels")
    return found


def _recipe_differences(former: Plan, wanted: Plan) -> list[str]:
    """What sets the recipes apart, of what a term of either plan reads."""
    old, new = (one_form(msgspec.to_builtins(plan.recipe)) for plan in (former, wanted))
    if old["compile"] and new["compile"]:
        # Both leave it to the decision that the run's checkpoints hold. Before there was "auto",
        # true meant what it means.
        old["compile"] = new["compile"]
    idle = idle_keys(former.terms, old) & idle_keys(wanted.terms, new)
    if "dsr" in former.methods:
        idle.discard("dsr_teacher")  # DSR's memory in the checkpoint has the form of its teacher
    return [
        f"recipe {key}: {value}, now {new[key]}"
        for key, value in old.items()
        if key not in idle and value != new[key]
    ]


def _same_pixels(former: Plan, wanted: Plan) -> set[str]:
    """The keys that may differ because the cache gives the same pixels in both forms."""
    same = jpeg_quality(former.cache) == jpeg_quality(wanted.cache)
    return {"cache"} if same else set()


def _input_differences(former: Plan, wanted: Plan) -> list[str]:
    """What sets the inputs apart. What the recipe's `fit` decides is told with the recipe."""
    told = {"fit"} | ({"resize", "crop"} if former.recipe.fit != wanted.recipe.fit else set())
    compared = _compared(former.input, wanted.input, told)
    return [f"input {name}: {old}, now {new}" for name, old, new in compared]


def _compared(
    former: msgspec.Struct, wanted: msgspec.Struct, ignored: set[str]
) -> list[tuple[str, Any, Any]]:
    names = [name for name in former.__struct_fields__ if name not in ignored]
    pairs = [(name, getattr(former, name), getattr(wanted, name)) for name in names]
    return [(name, old, new) for name, old, new in pairs if old != new]
