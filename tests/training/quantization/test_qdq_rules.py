"""Which tensors int8 rounds: the rules alone, on operators that are written by hand."""

import pytest

from training.quantization.operators import INPUT, OperatorList
from training.quantization.qdq_rules import placement


def residual() -> OperatorList:
    """A stem with an activation, a convolution, its sum with the stem, a pooled classifier."""
    network = OperatorList()
    stem = network.add("Conv", [INPUT], module="stem", weights=(16, 3, 3, 3))
    clip = network.add("Clip", stem.outputs)
    branch = network.add("Conv", clip.outputs, module="branch", weights=(16, 16, 3, 3))
    total = network.add("Add", [clip.name, branch.name])
    pooled = network.add("ReduceMean", total.outputs)
    network.add("Gemm", pooled.outputs, module="classifier", weights=(5, 16))
    return network


def test_tensorrt_rounds_what_convolutions_read_and_the_skip_branch() -> None:
    found = placement("int8", residual().operators)
    assert found.tensors == (INPUT, "stem.clip")
    assert found.reads == {("stem", 0), ("branch", 0), ("stem.clip.add", 0)}
    assert found.weights == {"stem", "branch"}


def test_the_cpu_rounds_behind_an_activation_and_not_the_logits() -> None:
    found = placement("int8-cpu", residual().operators)
    # "stem" itself is missing: only the clip reads it.
    pooled = "stem.clip.add.reducemean"
    assert set(found.tensors) == {INPUT, "stem.clip", "branch", "stem.clip.add", pooled}
    assert found.weights == {"stem", "branch", "classifier"}
    assert ("stem.clip", 0) not in found.reads


def test_moved_values_keep_the_range_of_what_was_moved() -> None:
    network = OperatorList()
    joined = network.add("Concat", ["a", "b"])
    first = network.add("Reshape", joined.outputs)
    halves = network.add("Split", first.outputs, outputs=2)
    network.add("Conv", halves.outputs[1:], module="next", weights=(8, 8, 1, 1))
    found = placement("int8-cpu", network.operators)
    assert set(found.tensors) == {"a", "b", joined.name, "next"}
    assert found.moved == dict.fromkeys((first.name, *halves.outputs), joined.name)


@pytest.mark.parametrize("kind", ["int8", "int8-cpu"])
def test_a_layer_that_is_left_out_keeps_its_precision(kind: str) -> None:
    found = placement(kind, residual().operators, left_out={"branch"})
    assert "branch" not in found.weights
    assert "stem" in found.weights
    assert kind == "int8-cpu" or ("branch", 0) not in found.reads


@pytest.mark.parametrize(
    ("weights", "groups", "tensorrt_rounds"),
    [
        ((16, 16, 1, 1), 1, True),
        ((20, 20, 1, 1), 1, True),  # 16 channels or more on both sides
        ((12, 12, 1, 1), 1, False),
        ((12, 8, 1, 1), 1, True),  # a multiple of 8 on one side
        ((24, 1, 3, 3), 24, True),
        ((20, 1, 3, 3), 20, False),  # depthwise, no multiple of 8
    ],
)
def test_only_convolutions_with_an_int8_kernel_are_rounded(
    weights: tuple[int, ...], groups: int, tensorrt_rounds: bool
) -> None:
    network = OperatorList()
    network.add("Conv", [INPUT], module="only", weights=weights, groups=groups)
    assert bool(placement("int8", network.operators).weights) is tensorrt_rounds
    assert placement("int8-cpu", network.operators).weights == {"only"}


def test_equal_names_get_numbers() -> None:
    network = OperatorList()
    names = [network.add("Relu", ["x"]).name for _ in range(3)]
    assert names == ["x.relu", "x.relu-2", "x.relu-3"]
