"""Lines, rows, tables and plots of a study."""

import json
import shlex
from pathlib import Path

import msgspec
import pytest

from runtime.base.errors import UserError
from tests.support.published import published_recipe
from training.config.idle_keys import DISTILLATION_KEYS, idle_keys
from training.config.recipe import load_recipe, parsed_settings
from training.studies.kept_lines import former_line
from training.studies.result_lines import commands_of, merge_lines, read_lines
from training.studies.study_methods import METHODS
from training.studies.study_table import best_validated, plot_name, plot_study, study_table
from training.studies.table_rows import paired_lines, rows_of, shared_settings

PAPER = {"drg_weight": 0.2, "dsr_weight": 1.0, "dsr_fade": False}


def line(method: str, seed: int, top1: float, **others: object) -> dict[str, object]:
    facts = {"study": "main", "data": "d", "arch": "a", "epochs": 2, "seconds": 10.0}
    figures = {"top1": top1, "top5": 1.0, "ece": 0.02, "recipe": {"epochs": 2}}
    costs = {"params": 1000, "auxiliary_params": 0 if method == "ce" else 50}
    return {**facts, **figures, **costs, "method": method, "seed": seed, **others}


def digits_line(method: str, seed: int, top1: float, **changes: object) -> dict[str, object]:
    """A line of the recipe `digits` with the changes of the method, and with `changes`."""
    changes = {**METHODS[method].changes, **changes}
    recipe = json.loads(msgspec.json.encode(load_recipe("digits", changes)))
    return line(method, seed, top1, data="digits", terms=METHODS[method].terms, recipe=recipe)


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()]


def test_the_table_has_means_deviations_and_paired_gains() -> None:
    lines = [
        line("ce", 0, 0.70),
        line("ce", 1, 0.72),
        line("ce", 2, 0.90),  # counts in the mean, but not in the gain: `drg` has no seed 2
        line("drg", 0, 0.73),
        line("drg", 1, 0.73),
    ]
    rows = cells(study_table(lines))
    assert rows[2][:4] == ["ce", "0, 1, 2", "77.33 ± 11.02", ""]
    assert rows[3][:4] == ["drg", "0, 1", "73.00 ± 0.00", "+2.00 ± 1.41"]
    assert rows[2][6:8] == ["1,000", "0"]
    assert rows[3][6:8] == ["1,000 (+0)", "50"]


def test_the_recall_of_thinned_classes_is_shown_where_every_line_has_it() -> None:
    thinned = [line("ce", 0, 0.7, rare_recall=0.2), line("balanced", 0, 0.6, rare_recall=0.45)]
    head, _, ce, balanced = cells(study_table(thinned))
    assert head[4] == "rare recall %"
    assert (ce[4], balanced[4]) == ("20.00", "45.00")
    assert "rare recall %" not in study_table([*thinned, line("ce", 1, 0.7)])


def test_validation_top1_is_shown_where_every_line_has_it() -> None:
    lines = [
        line("ce", 0, 0.7, validation_top1=0.61),
        line("ce", 1, 0.7, validation_top1=0.63),
        line("drg", 0, 0.6, validation_top1=0.65),
    ]
    head, _, ce, drg = cells(study_table(lines))
    column = head.index("validation %")
    assert (ce[column], drg[column]) == ("62.00 ± 1.41", "65.00")
    chosen = "Highest validation top-1: drg (65.00 %)"
    assert best_validated(lines) == f"{chosen}; over the next, ce: +4.00."
    lines.append(line("drg", 1, 0.6, validation_top1=0.65))
    assert best_validated(lines) == f"{chosen}; over the next, ce: +3.00 ± 1.41."
    lines.append(line("ls", 7, 0.6, validation_top1=0.64))
    assert best_validated(lines) == f"{chosen}; over the next, ls: no seed in common."
    assert best_validated(lines[2:3]) == f"{chosen}."
    lines[1]["validation_top1"] = None
    assert "validation" not in study_table(lines)


def test_a_row_is_named_by_what_differs_from_the_recipe_of_its_data() -> None:
    """It does not matter which was measured first, and a default is not mentioned."""
    lines = [
        digits_line("drg", 0, 0.6, distillation_warmup_epochs=0.0),
        digits_line("drg+dsr", 0, 0.6, dsr_teacher="ema", distillation_warmup_epochs=0.0),
        digits_line("drg", 0, 0.7),
        digits_line("ls", 0, 0.5),  # its smoothing is what its name says
        digits_line("byot", 0, 0.5),
    ]
    assert [row.name for row in rows_of(lines)] == [
        "drg",
        "drg (distillation_warmup_epochs=0.0)",
        "drg+dsr (dsr_teacher=ema, distillation_warmup_epochs=0.0)",
        "ls",
        "byot",
    ]


def test_what_all_rows_share_is_said_once() -> None:
    lines = [
        digits_line("ce", 0, 0.5, learning_rate=0.01, tap=3, label_smoothing=0.3),
        digits_line("ls", 0, 0.5, learning_rate=0.01),  # has a smoothing of its own
        digits_line("dsr", 0, 0.5, learning_rate=0.01, dsr_weight=0.7, tap=3, label_smoothing=0.3),
    ]
    assert shared_settings(lines) == {"learning_rate": 0.01, "label_smoothing": 0.3}
    assert [row.name for row in rows_of(lines)] == ["ce", "ls", "dsr (dsr_weight=0.7)"]
    # A setting of the head does not separate rows of methods without a head.
    assert shared_settings(lines[:1]) == {"learning_rate": 0.01, "label_smoothing": 0.3}
    planned = digits_line("drg", 0, 0.5, taps=[3]) | {"method": "drg-tap3"}
    assert [row.name for row in rows_of([digits_line("ce", 0, 0.5), planned])] == [
        "ce",
        "drg-tap3",
    ]


def test_settings_that_a_method_does_not_read_part_no_rows() -> None:
    lines = [
        digits_line("ce", 1, 0.5, distillation_warmup_epochs=0.0, dsr_teacher="ema"),
        digits_line("ce", 0, 0.4),
        digits_line("dsr", 0, 0.5),
        digits_line("dsr", 1, 0.6, tap=1, dsr_momentum=0.5),  # the momentum is of `ema`
        digits_line("dsr", 0, 0.7, dsr_teacher="ema"),
        digits_line("dsr", 0, 0.7, dsr_teacher="ema", dsr_momentum=0.5),
    ]
    rows = cells(study_table(lines))[2:]
    assert [(row[0], row[1], row[3]) for row in rows] == [
        ("ce", "0, 1", ""),
        ("dsr", "0, 1", "+10.00 ± 0.00"),
        ("dsr (dsr_teacher=ema)", "0", "+30.00"),
        ("dsr (dsr_teacher=ema, dsr_momentum=0.5)", "0", "+30.00"),
    ]


def test_idle_keys_are_those_that_the_terms_do_not_read() -> None:
    recipe = msgspec.to_builtins(published_recipe("digits", {"tap": 2}))
    teacher_keys = {"teacher_weight", "teacher_temperature"}
    assert idle_keys("drg+dsr+teacher", recipe) == {"dsr_momentum", "dsr_tau"}
    shared = {"temperature", "distillation_warmup_epochs"}
    assert idle_keys("teacher", recipe) == DISTILLATION_KEYS - teacher_keys
    assert idle_keys("teacher", {**recipe, "peer": "dlb"}) == idle_keys("teacher", recipe)
    assert idle_keys("drg+dsr", recipe) == {"dsr_momentum", "dsr_tau"} | teacher_keys
    assert idle_keys("drg+dsr", {**recipe, "dsr_teacher": "ema"}) == {"dsr_tau"} | teacher_keys
    standardised = {**recipe, "dsr_shape": "standardised", "taps": [2, 3]}
    assert idle_keys("drg+dsr", standardised) == {"dsr_momentum", "tap"} | teacher_keys
    variance = {**recipe, "dsr_shape": "norm-variance"}
    assert (
        idle_keys("drg+dsr", variance) == {"dsr_momentum", "dsr_tau", "dsr_teacher"} | teacher_keys
    )
    head_keys = {"drg_weight", "tap", "taps", "head_width"}
    assert idle_keys("dsr", recipe) == {"dsr_momentum", "dsr_tau"} | head_keys | teacher_keys
    # `ds` trains the head, but nothing is distilled.
    ds = {**recipe, **METHODS["ds"].changes}
    dsr_keys = {"dsr_weight", "dsr_teacher", "dsr_momentum"}
    dsr_keys |= {"dsr_shape", "dsr_tau", "dsr_on", "dsr_fade"}
    assert idle_keys("drg", ds) == dsr_keys | shared | teacher_keys
    assert idle_keys("ce", recipe) == DISTILLATION_KEYS
    dks = {**recipe, "peer": "dks-like"}
    assert idle_keys("ce", dks) == dsr_keys | teacher_keys


def test_a_gain_is_over_cross_entropy_of_the_same_recipe() -> None:
    lines = [
        digits_line("ce", 0, 0.5),
        digits_line("ce", 0, 0.4, learning_rate=0.4),
        digits_line("drg", 0, 0.6, distillation_warmup_epochs=0.0),
        digits_line("drg", 0, 0.6, learning_rate=0.4),
        digits_line("ls", 0, 0.7, learning_rate=0.4),
        digits_line("drg", 0, 0.9, learning_rate=0.8),
    ]
    rows = cells(study_table(lines))[2:]
    assert [(row[0], row[3]) for row in rows] == [
        ("ce", ""),
        ("ce (learning_rate=0.4)", ""),
        ("drg (distillation_warmup_epochs=0.0)", "+10.00"),
        ("drg (learning_rate=0.4)", "+20.00"),
        ("drg (learning_rate=0.8)", ""),  # without a partner
        ("ls (learning_rate=0.4)", "+30.00"),
    ]


def test_lines_are_replaced_by_those_of_the_same_run(tmp_path: Path) -> None:
    path = tmp_path / "results" / "main.jsonl"
    merge_lines(path, [line("ce", 0, 0.5), line("ce", 1, 0.6)])
    # A line of an older version lacks the key `label_noise`; this is still the same run.
    merge_lines(path, [line("ce", 1, 0.7, recipe={"epochs": 2, "label_noise": 0.0})])
    merge_lines(path, [line("ce", 1, 0.7), line("ce", 0, 0.9, recipe={"epochs": 9})])
    found = [
        (found["seed"], found["recipe"]["epochs"], found["top1"]) for found in read_lines(path)
    ]
    assert found == [(0, 2, 0.5), (1, 2, 0.7), (0, 9, 0.9)]
    for broken in (b"{", b'{"arch": "\xff"}', 100_000 * b"["):
        path.write_bytes(broken)
        with pytest.raises(UserError, match="holds a line that is not a JSON object"):
            read_lines(path)


@pytest.mark.parametrize(
    ("method", "former", "replaced"),
    [
        ("ce", {"taps": [], "drg_weight": 0.2, "dsr_weight": 1.0, "dsr_fade": False}, True),
        ("ce", {"learning_rate": 0.1}, False),
        ("ce", {"thresholds": False}, True),  # a table would count the seed twice
        ("drg", {"dsr_weight": 1.0, "dsr_fade": False}, True),
        ("drg", {"drg_weight": 0.2}, False),
        ("dsr", {"taps": [], "drg_weight": 0.2}, True),
        ("dsr", {"dsr_weight": 1.0}, False),
        ("dks-like", {"dsr_weight": 1.0}, True),
        ("dks-like", {"taps": [2]}, False),
    ],
)
def test_a_line_is_replaced_where_its_run_does_not_read_what_differs(
    tmp_path: Path, method: str, former: dict[str, object], replaced: bool
) -> None:
    """A recipe's defaults may have changed between two runs of one method."""
    path, now = tmp_path / "main.jsonl", digits_line(method, 0, 0.6)
    old = digits_line(method, 0, 0.5, **former)
    merge_lines(path, [old, digits_line(method, 1, 0.5, **former)])
    assert (former_line(read_lines(path), now) is not None) is replaced
    merge_lines(path, [now])
    assert len(lines := read_lines(path)) == (2 if replaced else 3)
    assert len(rows_of(lines)) == (1 if replaced else 2)


def test_one_head_is_the_same_by_tap_and_by_taps(tmp_path: Path) -> None:
    for method, count in (("drg", 1), ("dks-like", 2)):  # which reads `taps` alone
        path = tmp_path / f"{method}.jsonl"
        merge_lines(path, [digits_line(method, 0, 0.5, tap=3)])
        merge_lines(path, [digits_line(method, 0, 0.5, taps=[3])])
        assert len(read_lines(path)) == count


def test_lines_that_state_no_method_are_told_apart_by_their_terms(tmp_path: Path) -> None:
    lines = [digits_line(method, 0, 0.5) for method in ("ce", "drg", "drg+dsr")]
    for each in lines:
        del each["method"]
    for each in lines:
        merge_lines(tmp_path / "runs.jsonl", [each])
    assert [each["terms"] for each in read_lines(tmp_path / "runs.jsonl")] == [
        "ce",
        "drg",
        "drg+dsr",
    ]


def test_lines_of_other_weights_or_other_noise_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "main.jsonl"
    old, pretrained = line("ce", 0, 0.5), {**line("ce", 0, 0.6), "weights": "torchvision"}
    merge_lines(path, [old, pretrained, {**old, "noise_seed": 1}])
    assert len(read_lines(path)) == 3
    # A line that does not state these has their defaults.
    merge_lines(path, [{**old, "weights": "random", "noise_seed": 0, "top1": 0.9}])
    assert [found["top1"] for found in read_lines(path)] == [0.6, 0.5, 0.9]


def test_a_line_from_before_thresholds_is_of_a_run_without_them(tmp_path: Path) -> None:
    path = tmp_path / "main.jsonl"
    old = digits_line("ce", 0, 0.5) | {"validation_images": 90}
    del old["recipe"]["thresholds"]  # type: ignore[attr-defined]
    now = digits_line("ce", 0, 0.5, thresholds=False) | {"validation_images": 90}
    merge_lines(path, [old])
    assert former_line(read_lines(path), now) == old
    assert (
        "--set thresholds=false" in commands_of("main", [{**old, "width": 1, "image_size": 8}])[0]
    )
    # Of a version that kept images apart and had no key, and of too few images for the key.
    with_them = digits_line("ce", 0, 0.5) | {"validation_images": 90}
    assert former_line([{**old, "threshold_images": 45}], with_them)
    assert former_line([{**old, "validation_images": 89}], with_them)


def test_a_seed_counts_once() -> None:
    first = digits_line("ce", 0, 0.5, thresholds=False)
    with pytest.raises(UserError, match=r"^ce of a on digits has several lines of seed 0;"):
        rows_of([first, digits_line("ce", 1, 0.5), digits_line("ce", 0, 0.5)])


def test_a_run_that_is_tested_with_two_noises_is_paired_with_the_same_noise() -> None:
    lines = [
        digits_line(method, 0, 0.5 + noise / 10) | {"noise_seed": noise}
        for method in ("ce", "dsr")
        for noise in (0, 1)
    ]
    ce, dsr = rows_of(lines)
    pairs = paired_lines(dsr, ce)
    assert [(one["top1"], other["top1"]) for one, other in pairs] == [(0.5, 0.5), (0.6, 0.6)]


def test_the_plot_is_drawn(tmp_path: Path) -> None:
    plot_study(tmp_path / "plot.png", [line("ce", 0, 0.7), line("drg", 0, 0.8)])
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_every_student_has_a_plot_of_its_own() -> None:
    students = [{"width": width, "image_size": size} for width in (0.5, 1.0) for size in (16, 32)]
    assert len({plot_name("main", line("ce", 0, 0.7, **student)) for student in students}) == 4


def test_figures_of_the_probabilities_are_shown_where_all_lines_have_them() -> None:
    lines = [digits_line("ce", seed, 0.5) for seed in (0, 1)]
    assert "AUROC" not in study_table(lines)
    for line, nll in zip(lines, (1.25, 1.75), strict=True):
        line |= {"nll": nll, "auroc": 0.8, "validation_nll": 1.5}
    names, _, row = cells(study_table(lines))
    found = dict(zip(names, row, strict=True))
    assert found["NLL"] == "1.500 ± 0.354"
    assert (found["validation NLL"], found["AUROC"]) == ("1.500 ± 0.000", "0.800 ± 0.000")
    lines[0]["auroc"] = None  # every answer was right
    assert "AUROC" not in study_table(lines)


def test_a_stated_command_says_the_defaults_of_its_time() -> None:
    """Recipes have two heads and a DSR that fades since; the command alone would train that."""
    command = "python training/run.py --arch mobilenetv2 --drg --dsr"
    both = digits_line("drg+dsr", 0, 0.9)
    assert commands_of("main", [{**both, "command": command}]) == [command]
    former = digits_line("drg+dsr", 0, 0.9, tap=2, taps=[], **PAPER)
    (found,) = commands_of("main", [{**former, "command": command}])
    words = shlex.split(found.removeprefix(command))
    settings = parsed_settings([word for word in words if word != "--set"])
    assert settings == {"tap": 2, **PAPER}
    assert load_recipe("digits", settings) == load_recipe("digits", {**PAPER, "taps": []})
    alone = digits_line("drg", 0, 0.9, tap=2, taps=[], **PAPER)  # DSR's keys have no effect there
    stated = f"{command} --set drg_weight=0.2"
    assert commands_of("main", [{**alone, "command": stated}]) == [f"{stated} --set tap=2"]
