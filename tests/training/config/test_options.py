"""Options and the words of a command line: one is the exact inverse of the other."""

from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.base.command import CommandParser
from runtime.base.errors import UserError
from training import robustness, run, study, tune
from training.config.command_words import command_line, repeatable_command, words_of
from training.config.options import (
    DEVICES,
    Options,
    add_shared_options,
    option_parser,
    recipe_of,
    recipe_overrides,
    shared_options,
)
from training.config.recipe import Recipe

COUNTS = st.integers(1, 10**6)
# What a process can be given: no NUL, no half of a surrogate pair. An empty word is refused.
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
ODD_TEXTS = st.sampled_from(["-", "--x", "-x", "--drg", "--drg=1", "-1", "-a b", "=", "@f"])
# argparse before Python 3.12 drops a value that is `--`, however it is written.
WORDS = (TEXTS | ODD_TEXTS).filter(lambda text: text != "--")
PATHS = WORDS.map(Path)
# A path that begins with `~` cannot come from the parser, which has put a home folder there.
FOLDERS = PATHS.filter(lambda path: not str(path).startswith("~"))


def maybe(strategy: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.none() | strategy


OPTIONS = st.builds(
    Options,
    arch=WORDS,
    drg=st.booleans(),
    dsr=st.booleans(),
    width=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    data=WORDS,
    data_root=maybe(FOLDERS),
    image_size=maybe(COUNTS),
    recipe=maybe(WORDS),
    epochs=maybe(COUNTS),
    batch_size=maybe(COUNTS),
    set=maybe(st.lists(WORDS, min_size=1)),
    seed=st.integers(0, 2**32 - 1),
    out=maybe(FOLDERS),
    resume=st.booleans(),
    device=st.sampled_from(DEVICES),
    pretrained=st.booleans(),
    weights=maybe(PATHS),
    command=maybe(WORDS),
).filter(lambda options: not (options.pretrained and options.weights is not None))


def parsed(words: list[str]) -> Options:
    return Options(**vars(option_parser().parse_args(words)))


@settings(deadline=None)  # on a busy machine any example may take long
@given(OPTIONS)
def test_the_parser_reads_a_command_line_as_the_options_that_it_was_made_of(
    options: Options,
) -> None:
    assert parsed(command_line(options)) == options


def test_defaults_are_those_of_the_parser_and_need_no_word() -> None:
    assert parsed(["--arch", "a"]) == Options(arch="a")
    assert command_line(Options(arch="a")) == ["--arch", "a"]


def test_a_value_that_begins_with_a_dash_is_one_word_with_its_option() -> None:
    options = Options(arch="a", data="-x", data_root=Path("-root"), width=0.5)
    words = ["--arch", "a", "--width", "0.5", "--data=-x", "--data-root=-root"]
    assert command_line(options) == words


def test_a_stated_command_repeats_the_run_and_tells_no_local_path() -> None:
    options = Options(
        arch="mobilenetv2",
        drg=True,
        data="/home/me/my photos",
        data_root=Path("/mnt/data"),
        recipe="/home/me/fast.yaml",
        epochs=3,
        seed=7,
        out=Path("/home/me/out"),
        resume=True,
        weights=Path("/home/me/start.pt"),
    )
    assert repeatable_command(options, data="my-photos") == (
        "python training/run.py --arch mobilenetv2 --drg --data my-photos --recipe fast.yaml "
        "--epochs 3 --seed 7 --weights start.pt"
    )
    named = Options(arch="a", recipe="cifar")
    assert repeatable_command(named, data="digits").endswith("--arch a --recipe cifar")
    of_a_study = Options(arch="a", command="python training/study.py --arch a")
    assert repeatable_command(of_a_study, data="digits") == "python training/study.py --arch a"


def test_settings_reach_the_recipe_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Recipe] = []

    def train(options: Options, recipe: Recipe) -> int:
        trained.append(recipe)
        return 0

    monkeypatch.setattr("training.train.train", train)
    words = ["--arch", "mobilenetv2", "--epochs", "3", "--set", "taps=[1, 4]"]
    assert run.main([*words, "--set", "select=best"]) == 0
    (recipe,) = trained
    assert (recipe.epochs, recipe.taps, recipe.select) == (3, (1, 4), "best")
    with pytest.raises(UserError, match="command line: select: received 'first', expected one of"):
        run.main([*words, "--set", "select=first"])
    assert len(trained) == 1


@pytest.mark.parametrize(
    ("option", "value", "key"),
    [("--epochs", "3", "epochs"), ("--batch-size", "8", "batch_size"), ("--fit", "crop", "fit")],
)
def test_an_option_and_a_setting_of_one_key_are_refused(option: str, value: str, key: str) -> None:
    """One of them would have no effect, and nobody would say so."""
    given = parsed(["--arch", "a", option, value, "--set", f"{key}={value}"])
    with pytest.raises(UserError, match=f"^{option} and --set {key} are one choice"):
        recipe_of(given)


@pytest.mark.parametrize("word", ["../x", "/tmp/x", "a/b", ".", "..", "a\nb"])
@pytest.mark.parametrize(
    ("command", "words"),
    [
        (study, ["--arch", "mobilenetv2", "--study"]),
        (tune, ["--arch", "mobilenetv2", "--name"]),
        (robustness, ["runs/none", "--study"]),
    ],
)
def test_a_word_that_would_lead_to_another_folder_is_refused(
    command: ModuleType, words: list[str], word: str
) -> None:
    with pytest.raises(UserError, match="expected a word to call files by, without /"):
        command.main([*words, word])


def test_every_shared_option_reaches_the_runs_or_their_recipe() -> None:
    """A study that reads an option and does not hand it on trains something else than was asked."""
    asked: dict[str, object] = {
        "arch": "mobilenetv2",
        "width": 0.5,
        "data": "d",
        "data_root": Path("root"),
        "classes": "leaves",
        "columns": "image=a,label=b",
        "cache": "encoded:90",
        "image_size": 16,
        "drop_leaks": "near",
        "recipe": "digits",
        "epochs": 3,
        "batch_size": 8,
        "fit": "letterbox",
        "device": "cpu",
        "log": "mlflow",
    }
    parser = CommandParser(prog="", description=None)
    add_shared_options(parser)
    given = parser.parse_args(words_of(asked, parser))
    untested = {"allow_leaks"}  # it excludes --drop-leaks
    assert vars(given).keys() - untested == asked.keys()
    handed = vars(shared_options(given, command="study"))
    kept = {name: value for name, value in handed.items() if value != Options.__dict__.get(name)}
    changed = recipe_overrides(given)
    assert kept | changed | {"recipe": given.recipe} == asked | {"command": "study"}
    assert not kept.keys() & changed.keys()
    allowed = parser.parse_args(["--arch", "a", "--allow-leaks"])
    assert shared_options(allowed, command="study").allow_leaks
