"""What all processes of a run must agree on before they train."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from runtime.base.errors import UserError
from training import run, train
from training.config.plan import Plan
from training.engine.joint_start import check_same_plan
from training.engine.process_group import ProcessGroup, open_group


class WithAnother(ProcessGroup):
    """The main process, beside one whose command has another seed."""

    def gather(self, value: Any) -> list[Any]:
        _, told = value
        if isinstance(told, Plan):
            told = msgspec.structs.replace(told, seed=told.seed + 1)
        return [value, ("elsewhere", told)]


def use_group(monkeypatch: pytest.MonkeyPatch, group: ProcessGroup) -> None:
    @contextmanager
    def opened(_device: torch.device) -> Iterator[ProcessGroup]:
        yield group

    monkeypatch.setattr(train, "open_group", opened)


def test_a_host_with_another_recipe_or_other_weights_is_named(
    make_plan: Callable[..., Plan],
) -> None:
    plan = make_plan()
    other = make_plan(learning_rate=0.5)

    class Other(ProcessGroup):
        def gather(self, value: Any) -> list[Any]:
            return [value, value, ("third", other)]

    with pytest.raises(UserError, match=r"process 2 on third .* learning_rate: .*, now 0\.5"):
        check_same_plan(plan, Other())
    other = msgspec.structs.replace(plan, weights="sha256:1")
    with pytest.raises(UserError, match=r"weights: random, now sha256:1"):
        check_same_plan(plan, Other())
    # The data may lie elsewhere.
    other = msgspec.structs.replace(plan, data_argument="/elsewhere", data_root="/root")
    check_same_plan(plan, Other())


def test_processes_that_would_train_something_else_do_not_begin(
    tiny_options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    use_group(monkeypatch, WithAnother())
    with pytest.raises(UserError, match=re.escape("(seed: 0, now 1)")):
        run.main(tiny_options)
    assert not list(tmp_path.iterdir())


def test_the_link_to_the_newest_run_is_the_main_processes_alone(
    tiny_options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another host may have other things in its working folder, or none that it may write to."""

    def load(*_: object) -> None:
        raise UserError("so far it came")

    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "latest").mkdir(parents=True)
    monkeypatch.setattr(train, "load_data", load)
    use_group(monkeypatch, ProcessGroup(rank=1))
    with pytest.raises(UserError, match="so far it came"):
        run.main(tiny_options)
    use_group(monkeypatch, ProcessGroup())
    with pytest.raises(UserError, match="runs/latest is no link"):
        run.main(tiny_options)


def test_processes_that_cannot_be_connected_end_with_a_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with (
        pytest.raises(UserError, match=r"cannot join the 2 of its run \(.*RANK.*with torchrun"),
        open_group(torch.device("cpu")),
    ):
        pass
