"""The names and widths of the students. Imports no torch, so that a wrong name fails at once."""

from runtime.base.errors import UserError

MOBILENET = "mobilenetv2"
SHUFFLENET = "shufflenetv2"
ARCHS = (
    MOBILENET,
    SHUFFLENET,
    "resnet18",
    "resnet50",
    "resnet101",
    "resnext50_32x4d",
    "densenet121",
)
MOBILENET_WIDTHS = (0.25, 1.4)  # and all between them
SHUFFLENET_WIDTHS = (0.5, 1.0, 1.5, 2.0)


def check_arch(arch: str, width: float) -> None:
    """Checks the name of a student and its width, the factor of its channels.

    Raises:
        UserError: if there is no such student, or if it does not have that width.
    """
    if arch not in ARCHS:
        raise UserError(f"arch {arch!r} is unknown; choose one of {', '.join(ARCHS)}")
    low, high = MOBILENET_WIDTHS
    if arch == MOBILENET and not low <= width <= high:
        raise UserError(f"width {width:g} is out of range; {arch} takes {low} to {high}")
    if arch == SHUFFLENET and width not in SHUFFLENET_WIDTHS:
        expected = ", ".join(map(str, SHUFFLENET_WIDTHS))
        raise UserError(f"width {width:g} does not exist; {arch} has {expected}")
    if arch not in (MOBILENET, SHUFFLENET) and width != 1:
        raise UserError(f"width {width:g} does not exist; {arch} has only 1.0")
