"""Recipes: a mistake is told in one line, with the file, the key and what was expected."""

from pathlib import Path

import pytest

from runtime.base.errors import UserError
from training.config.recipe import (
    Recipe,
    default_recipe,
    load_recipe,
    parsed_settings,
    recipe_names,
)
from training.data import data_names
from training.engine.optimizers import distillation_scale, learning_rate, mix_share
from training.studies.variants import VARIANTS

GOOD = {"epochs": 3, "batch_size": 4, "optimizer": "sgd", "learning_rate": 0.1}


def write(path: Path, **changes: object) -> Path:
    lines = [f"{key}: {value}" for key, value in {**GOOD, **changes}.items()]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid_and_distils_as_the_confirmed_variant(name: str) -> None:
    confirmed = VARIANTS["drg-multi-a1+dsr-fade"].changes
    own = {"drg_weight": 0.5} if name == "cifar-strong" else {}
    recipe = load_recipe(name)
    assert recipe == load_recipe(name, {**confirmed, **own})
    assert recipe.temperature == 4.0


def test_of_tap_and_taps_the_one_that_is_laid_on_counts(tmp_path: Path) -> None:
    several, one = (
        str(write(tmp_path / f"{name}.yaml", **{name: taps}))
        for name, taps in (("taps", "[2, 3]"), ("tap", 4))
    )
    recipe = load_recipe(several, {"tap": 4})
    assert (recipe.tap, recipe.taps) == (4, ())
    assert load_recipe(several, {"epochs": 2}).taps == (2, 3)
    assert load_recipe(one, {"taps": [1, 3]}).taps == (1, 3)
    with pytest.raises(UserError, match=r"tap 4 is not in taps \[1, 3\]: give one"):
        load_recipe(several, {"tap": 4, "taps": [1, 3]})


def test_every_data_set_has_a_recipe() -> None:
    for data in (*data_names(), "/some/folder"):
        assert default_recipe(data) in recipe_names()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"epoch": 3}, r"unknown key 'epoch'; a recipe has epochs, batch_size"),
        ({"epochs": 0}, r"epochs: received 0, expected int >= 1"),
        ({"epochs": "many"}, r"epochs: received 'many', expected int, got str"),
        ({"epochs": 2.5}, r"epochs: received 2.5, expected int"),
        ({"optimizer": "lion"}, r"optimizer: received 'lion', expected one of sgd, adamw"),
        ({"learning_rate": -1}, r"learning_rate: received -1, expected float > 0"),
        ({"learning_rate": ".nan"}, r"learning_rate: received nan, expected a finite number"),
        ({"label_smoothing": 1}, r"label_smoothing: received 1, expected float < 1"),
        ({"flip": 1}, r"flip: received 1, expected bool"),
        ({"batch_size": 1}, r"batch_size: received 1, expected int >= 2"),
        ({"tap": 5}, r"tap: received 5, expected int <= 4"),
        ({"milestones": "[0.6, 0.3]"}, r"milestones \(0.6, 0.3\) must ascend"),
        ({"schedule": "one-cycle", "warmup_epochs": 1}, r"warmup_epochs must be 0"),
    ],
)
def test_a_wrong_value_is_named_with_its_file(
    tmp_path: Path, changes: dict[str, object], expected: str
) -> None:
    path = write(tmp_path / "mine.yaml", **changes)
    with pytest.raises(UserError, match=expected) as info:
        load_recipe(str(path))
    assert str(info.value).startswith(str(path))
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epochs: 3", "missing batch_size, optimizer, learning_rate"),
        ("- 1\n- 2", "must hold `key: value` lines"),
        ("epochs: [", "is not valid YAML"),
        ("", "must hold `key: value` lines"),
        ("epochs: 3\nepochs: 30", "is not valid YAML: the key 'epochs' is there twice"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=expected):
        load_recipe(str(path))


@pytest.mark.parametrize("value", ["", "abc", "[3]", "{a: 1}", "true", "0", "2.5"])
def test_epochs_that_are_no_number_are_one_line(value: str) -> None:
    with pytest.raises(UserError, match=r"^command line: epochs: received ") as told:
        load_recipe("digits", parsed_settings([f"epochs={value}"]))
    assert "\n" not in str(told.value)


def test_two_settings_of_one_key_are_refused() -> None:
    with pytest.raises(UserError, match=r"^--set gives dsr_weight twice"):
        parsed_settings(["dsr_weight=1", "drg_weight=1", "dsr_weight=0.5"])


@pytest.mark.parametrize(
    "value",
    [
        *("2020-13-45", '!!int "a"', '!!int ""', '!!float ""', '!!bool "x"', '!!timestamp "x"'),
        *("!!map [1]", "!!set 3", "!!omap 3", "!!binary é", 10_000 * "[", "1" * 5000),
        *("{[1]: 2}", "\x00", "&a [*a]", "!!python/name:os.system", "2020-10-10", "'"),
    ],
)
def test_a_value_that_is_none_is_one_line(value: str, tmp_path: Path) -> None:
    settings = [f"temperature={value}"]
    with pytest.raises(UserError) as told:
        load_recipe("digits", parsed_settings(settings))
    assert "\n" not in str(told.value)
    path = tmp_path / "mine.yaml"
    path.write_text(f"temperature: {value}")
    with pytest.raises(UserError) as told:
        load_recipe(str(path))
    assert "\n" not in str(told.value)


def test_a_missing_file_and_an_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read \(No such file"):
        load_recipe(str(tmp_path / "none.yaml"))
    with pytest.raises(
        UserError, match="choose one of cifar, cifar-plain, cifar-strong, digits, folder"
    ):
        load_recipe("cifra")


def test_a_file_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write(tmp_path / "mine.yaml")
    assert load_recipe("~/mine.yaml") == load_recipe(str(path))
    with pytest.raises(UserError, match=r"recipe ~no-such-user/mine\.yaml cannot be read"):
        load_recipe("~no-such-user/mine.yaml")


def test_the_command_line_lies_on_top(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.yaml")
    assert load_recipe(str(path), {"epochs": 7}).epochs == 7
    with pytest.raises(UserError, match="command line: batch_size: received 0"):
        load_recipe(str(path), {"batch_size": 0})


@pytest.mark.parametrize("text", ["5e-4", "5.0e-4", "5E-4", "0.0005"])
def test_exponents_are_numbers(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "mine.yaml", weight_decay=text)
    assert load_recipe(str(path)).weight_decay == 0.0005


def rates(steps_per_epoch: int = 10, **changes: object) -> list[float]:
    recipe = Recipe(**{**GOOD, "epochs": 10, **changes})  # type: ignore[arg-type]
    return [
        learning_rate(recipe, step=step, steps_per_epoch=steps_per_epoch)
        for step in range(10 * steps_per_epoch)
    ]


def test_step_schedule_drops_at_whole_epochs() -> None:
    curve = rates(schedule="step", milestones=(0.3, 0.6), milestone_factor=0.2)
    assert curve[29] == pytest.approx(0.1)
    assert curve[30] == pytest.approx(0.02)
    assert curve[59] == pytest.approx(0.02)
    assert curve[60] == pytest.approx(0.004)
    # 0.3 of one epoch rounds to its start. A short run must begin with the full rate nevertheless.
    assert rates(epochs=1, schedule="step", milestones=(0.3, 0.6))[0] == pytest.approx(0.1)


def test_cosine_schedule_warms_up_and_ends_near_zero() -> None:
    curve = rates(schedule="cosine", warmup_epochs=2)
    assert curve[:20] == sorted(curve[:20])
    assert curve[20:] == sorted(curve[20:], reverse=True)
    assert max(curve) == pytest.approx(0.1)
    assert curve[60] == pytest.approx(0.05)
    assert 0 < curve[-1] < 1e-4


def test_one_cycle_rises_then_falls() -> None:
    curve = rates(schedule="one-cycle")
    assert curve[0] == pytest.approx(0.1 / 25)
    assert curve[30] == pytest.approx(0.1)
    assert curve[-1] == pytest.approx(0.1 / 250_000)
    assert max(curve) == curve[30]


def test_distillation_warms_up() -> None:
    recipe = Recipe(**GOOD, distillation_warmup_epochs=1)  # type: ignore[arg-type]
    scales = [distillation_scale(recipe, step=step, steps_per_epoch=9) for step in range(12)]
    assert scales[0] == pytest.approx(0.1)
    assert scales[8] == pytest.approx(0.9)
    assert scales[9:] == [1, 1, 1]
    at_once = Recipe(**GOOD, distillation_warmup_epochs=0)  # type: ignore[arg-type]
    assert distillation_scale(at_once, step=0, steps_per_epoch=9) == 1


def test_mixing_ends_before_the_run_does() -> None:
    recipe = Recipe(**{**GOOD, "epochs": 10, "cutmix": 1.0, "mix_share": 0.5, "unmixed_epochs": 3})  # type: ignore[arg-type]
    shares = [mix_share(recipe, step=step, steps_per_epoch=4) for step in range(40)]
    assert shares == 28 * [0.5] + 12 * [0.0]
    assert mix_share(Recipe(**GOOD), step=0, steps_per_epoch=4) == 1.0  # type: ignore[arg-type]


def test_the_strong_recipe_is_the_published_one() -> None:
    strong, plain = load_recipe("cifar-strong"), load_recipe("cifar-plain")
    assert (strong.epochs, strong.cutmix, strong.mix_share, strong.unmixed_epochs) == (
        200,
        1,
        0.5,
        15,
    )
    assert (strong.ema_decay, strong.drg_weight, strong.warmup_epochs) == (0.999, 0.5, 5)
    short = load_recipe("cifar-strong", {"epochs": 12})
    assert (short.warmup_epochs, short.unmixed_epochs, short.distillation_warmup_epochs) == (
        2,
        2,
        10,
    )
    assert (plain.cutmix, plain.warmup_epochs, plain.distillation_warmup_epochs) == (0, 5, 10)
