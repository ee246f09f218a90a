"""Files of weights as other tools write them, and what their names become."""

import os
import pickle
import subprocess
import sys
import zipfile
from argparse import Namespace
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from runtime.base.errors import UserError
from training.networks.students import build_student
from training.networks.tensor_pickle import Stub, load_tensors
from training.networks.weights import start_from
from training.networks.weights_file import weights_from_file

ARCH = "shufflenetv2"
State = dict[str, Tensor]


def student(*, classes: int = 4, arch: str = ARCH, width: float | None = None) -> nn.Module:
    width = width or (0.5 if arch == ARCH else 1.0)
    return build_student(arch, num_classes=classes, image_size=32, width=width)


@pytest.fixture
def state() -> State:
    """Weights of a student, none of which is what a fresh student has."""
    torch.manual_seed(5)
    trained = student()
    images = torch.rand(8, 3, 32, 32)
    trained(images)  # moves running statistics and counters
    return trained.state_dict()


def prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def loaded(path: Path, *, arch: str = ARCH, classes: int = 4) -> tuple[State, str | None]:
    fresh = student(classes=classes, arch=arch)
    said = start_from(fresh, weights_from_file(path), arch=arch)
    return fresh.state_dict(), said


@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "student.", "_orig_mod.", "module._orig_mod.model.", "net."]
)
@pytest.mark.parametrize("key", [None, "student", "state_dict", "model", "model_state_dict"])
def test_prefixes_and_keys_of_other_tools_in_any_combination(
    tmp_path: Path,
    state: State,
    prefix: str,
    key: str | None,
    assert_equal_trees: Callable[[object, object], None],
) -> None:
    content: dict[str, Any] = dict(prefixed(state, prefix))
    torch.save({key: content, "epoch": 3} if key else content, tmp_path / "w.pt")
    found, said = loaded(tmp_path / "w.pt")
    assert_equal_trees(dict(found), dict(state))
    assert said is None


def test_a_lightning_checkpoint_with_classes_that_are_not_installed(
    tmp_path: Path, state: State, assert_equal_trees: Callable[[object, object], None]
) -> None:
    """As Trainer.save_checkpoint writes it: hyperparameters, callbacks, a loss with weights."""
    kept = {**prefixed(state, "model."), "criterion.weight": torch.ones(4)}
    path = tmp_path / "last.ckpt"
    torch.save(
        {
            "pytorch-lightning_version": "2.5.0",
            "state_dict": kept,
            "hyper_parameters": Namespace(learning_rate=0.1, path=Path("data")),
            "optimizer_states": [{"state": {0: {"momentum_buffer": torch.zeros(2)}}}],
        },
        path,
    )
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    found, said = loaded(path)
    assert_equal_trees(dict(found), dict(state))
    assert said == "left out 1 key of the weights' file: criterion.weight"


def test_a_torchvision_checkpoint_says_that_averaged_weights_lie_beside(
    tmp_path: Path, state: State
) -> None:
    averaged = prefixed({name: value * 0 for name, value in state.items()}, "module.")
    content = {"model": state, "model_ema": averaged, "args": Namespace(lr=0.5), "epoch": 9}
    torch.save(content, tmp_path / "model_9.pth")
    found, said = loaded(tmp_path / "model_9.pth", classes=6)
    assert torch.equal(found["conv1.0.weight"], state["conv1.0.weight"])
    assert said == (
        "the weights' classifier is for 4 classes: it was left out and starts afresh; "
        "left out 1 key of the weights' file: model_ema"
    )


def test_what_was_left_out_is_counted(tmp_path: Path, state: State) -> None:
    others = {f"teacher.layer{i}.weight": torch.ones(1) for i in range(5)}
    torch.save({**prefixed(state, "student."), **others, "epoch": 3}, tmp_path / "w.pt")
    assert loaded(tmp_path / "w.pt")[1] == (
        "left out 6 keys of the weights' file: "
        "teacher.layer0.weight, teacher.layer1.weight, teacher.layer2.weight and 3 more"
    )


def test_the_student_is_taken_where_a_teacher_of_its_kind_is_beside(
    tmp_path: Path, state: State
) -> None:
    other = prefixed({name: torch.zeros_like(value) for name, value in state.items()}, "teacher.")
    torch.save({**other, **prefixed(state, "student.")}, tmp_path / "w.pt")
    found, said = loaded(tmp_path / "w.pt")
    assert torch.equal(found["conv1.0.weight"], state["conv1.0.weight"])
    assert said is not None
    assert said.startswith(f"left out {len(state)} keys")
    torch.save({**prefixed(state, "model."), **prefixed(state, "student.")}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"several networks that fit, below model\. and student\."):
        loaded(tmp_path / "w.pt")


def test_counters_of_batches_may_be_absent(tmp_path: Path, state: State) -> None:
    """The ResNets that torchvision publishes are from before batch norm counted."""
    old = {name: value for name, value in state.items() if "num_batches" not in name}
    assert len(old) < len(state)
    torch.save(old, tmp_path / "w.pt")
    found, said = loaded(tmp_path / "w.pt")
    assert said is None
    assert all(torch.equal(found[name], value) for name, value in old.items())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_weights_that_are_not_finite_are_refused_as_such(
    tmp_path: Path, state: State, value: float
) -> None:
    before = student().state_dict()
    name = "conv5.0.weight"
    state[name] = state[name].double().index_fill(0, torch.tensor([3]), value)
    torch.save({"state_dict": state, "arguments": Namespace()}, tmp_path / "w.pt")
    with pytest.raises(
        UserError, match=r"not finite: NaN or infinity in conv5.0.weight and 0 more"
    ):
        loaded(tmp_path / "w.pt")
    assert before.keys() == state.keys()


def test_more_layers_are_another_network(tmp_path: Path, state: State) -> None:
    state["stage3.9.branch2.0.weight"] = torch.ones(3)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"has unknown stage3.9.branch2.0.weight and 0 more"):
        loaded(tmp_path / "w.pt")


def test_tensors_that_are_no_weights_misfit(tmp_path: Path, state: State) -> None:
    state["conv5.0.weight"] = state["conv5.0.weight"].to(torch.complex64)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"misfits conv5.0.weight and 0 more"):
        loaded(tmp_path / "w.pt")


class _Evil:
    """A pickle of it calls a function with arguments."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


_READ = """
import json, sys
from pathlib import Path
from training.networks.weights_file import weights_from_file
print(json.dumps([[*weights_from_file(Path(path))] for path in sys.argv[1:]]))
print("trap" in sys.modules)
"""


def test_of_a_pickle_nothing_is_imported_and_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    write = f"open({str(ran)!r}, 'w').close()"
    (tmp_path / "trap.py").write_text(f"{write}\nclass Callback: pass\ndef hook(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    trap = import_module("trap")
    content = {
        "state_dict": {"fc.weight": torch.ones(2, 2)},
        "callbacks": [trap.Callback(), trap.hook],
        "code": _Evil(exec, write),
        "system": _Evil(os.system, f"touch {ran}"),
    }
    paths = [tmp_path / "zip.ckpt", tmp_path / "legacy.ckpt"]
    for path, zipped in zip(paths, (True, False), strict=True):
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        ran.unlink()
        torch.load(path, weights_only=False)  # the file would do harm
    ran.unlink()
    process = subprocess.run(
        [sys.executable, "-c", _READ, *paths],
        env={"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.splitlines() == ['[["fc.weight"], ["fc.weight"]]', "False"]
    assert not ran.exists()


@pytest.mark.parametrize(
    "attack",
    [
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\x00\x00\x00__defaults__K\x01s\x86b.",
        b"ctorch._utils\n_rebuild_tensor_v2\n(lp0\ntR.",
        b"\x80\x02ccollections\nOrderedDict\n}X\x05\x00\x00\x00clearK\x01sb.",
        b"\x80\x02)\x81.",
    ],
    ids=["change a function", "call with nothing", "change a class", "no class"],
)
def test_a_pickle_that_attacks_its_reader_is_one_line(tmp_path: Path, attack: bytes) -> None:
    path = tmp_path / "w.pt"
    template = tmp_path / "template.pt"
    torch.save({"a": torch.ones(1)}, template)
    with zipfile.ZipFile(template) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, attack if name.endswith("data.pkl") else source.read(name))
    before = torch._utils._rebuild_tensor_v2.__defaults__
    with pytest.raises(UserError, match=r"w.pt (is no whole file|holds no state dict) of tensors"):
        weights_from_file(path)
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before


def test_a_whole_pickled_network_is_a_stub(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
    assert isinstance(load_tensors(tmp_path / "w.pt"), Stub)
    with pytest.raises(UserError, match="holds no state dict of tensors; expected one, or a check"):
        weights_from_file(tmp_path / "w.pt")


def test_parameters_and_views_are_built_as_torch_builds_them(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    content = {"view": whole[1:, ::2], "parameter": nn.Parameter(whole.half()), "x": Namespace()}
    torch.save(content, tmp_path / "w.pt")
    found = load_tensors(tmp_path / "w.pt")
    assert isinstance(found, dict)
    assert torch.equal(found["view"], whole[1:, ::2])
    assert torch.equal(found["parameter"], whole.half())
    assert isinstance(found["x"], Stub)


def test_safetensors(
    tmp_path: Path, state: State, assert_equal_trees: Callable[[object, object], None]
) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    path = tmp_path / "model.safetensors"
    save_file(prefixed(state, "model."), path, metadata={"format": "pt"})
    found, said = loaded(path)
    assert_equal_trees(dict(found), dict(state))
    assert said is None
    renamed = path.rename(tmp_path / "weights")  # known by its content, too
    assert_equal_trees(dict(loaded(renamed)[0]), dict(state))
    path.write_bytes(renamed.read_bytes()[:-99])
    with pytest.raises(UserError, match=r"model.safetensors is no whole safetensors file \("):
        weights_from_file(path)
    with pytest.raises(
        UserError, match=r"none.safetensors cannot be read .*or a .safetensors file"
    ):
        weights_from_file(tmp_path / "none.safetensors")


def test_without_the_library_a_safetensors_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(UserError, match="needs the package safetensors: pip install safetensors"):
        weights_from_file(tmp_path / "model.safetensors")
