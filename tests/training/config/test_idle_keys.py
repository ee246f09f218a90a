"""Keys of a recipe that change nothing in a run are told, if the user has set them."""

from pathlib import Path

import pytest

from training import run
from training.config.idle_keys import idle_words
from training.config.recipe import load_recipe


@pytest.mark.parametrize(
    ("settings", "terms", "said"),
    [
        ({"drg_weight": 0.5}, "dsr", "no term of this run"),
        ({"drg_weight": 0.5}, "drg", None),
        ({"temperature": 2.0}, "ce", "no term of this run"),
        ({"dsr_tau": 0.3}, "dsr", "no term of this run"),
        ({"dsr_tau": 0.3, "dsr_shape": "standardised"}, "dsr", None),
        ({"teacher_weight": 2.0}, "drg+dsr", "no term of this run"),
        ({"distillation_warmup_epochs": 2, "dsr_fade": True}, "dsr", "dsr_fade takes its place"),
        ({"distillation_warmup_epochs": 2, "dsr_fade": True}, "drg+dsr", None),
        ({"momentum": 0.8}, "ce", "optimizer is not sgd"),
        ({"momentum": 0.8, "optimizer": "sgd"}, "ce", None),
        ({"milestones": [0.5]}, "ce", "schedule is not step"),
        ({"milestones": [0.5], "schedule": "step"}, "ce", None),
        ({"decay_norms_and_biases": True, "weight_decay": 0.0}, "ce", "weight_decay is 0"),
        ({"mix_share": 0.5}, "ce", "mixup and cutmix are 0"),
        ({"mix_share": 0.5, "cutmix": 1.0}, "ce", None),
        ({"unmixed_epochs": 5, "cutmix": 1.0}, "ce", "leaves no image to mix"),
        ({"cutmix": 1.0, "mix_share": 0.0}, "ce", "leaves no image to mix"),
        ({"crop_scale": 0.5}, "ce", "crop is pad here, not resized"),
        ({"padding": 1}, "ce", None),
        ({"validation_fold": 2, "validation_fraction": 0}, "ce", "validation_fraction is 0"),
        ({"validation_fold": 2}, "ce", None),
    ],
)
def test_a_setting_without_effect_has_a_line(
    settings: dict[str, object], terms: str, said: str | None
) -> None:
    recipe = load_recipe("digits", settings)
    lines = idle_words(settings, recipe, terms, crop="pad", own_validation=False)
    assert bool(lines) == (said is not None)
    assert said is None or any(said in line for line in lines)
    assert all(line.startswith("--set ") for line in lines)


def test_validation_images_of_the_users_own_leave_no_share_to_choose() -> None:
    recipe = load_recipe("digits", {"validation_fraction": 0.3})
    words = idle_words(["validation_fraction"], recipe, "ce", crop="pad", own_validation=True)
    assert words == [
        "--set validation_fraction changes nothing here: the data have validation images of their "
        "own"
    ]


def test_a_run_says_so_before_it_trains(
    tiny_options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*tiny_options, "--epochs", "1", "--no-drg", "--out", str(tmp_path / "run")]
    assert run.main([*options, "--set", "drg_weight=0.5", "--set", "padding=2"]) == 0
    out = capsys.readouterr().out
    assert "\n--set drg_weight changes nothing here: no term of this run (dsr, " in out
    assert "--set padding" not in out
    assert out.index("--set drg_weight") < out.index("epoch 1/1")
