"""`python -m runtime doctor`: what this machine has, and what is missing for each backend."""

from collections.abc import Iterator, Sequence

from runtime.backends.diagnosis import Diagnosis, diagnose
from runtime.base.command import CommandParser, print_json


def main(arguments: Sequence[str]) -> int:
    """Prints the diagnosis for people or, with --json, for programs; returns 0."""
    parser = CommandParser(prog="python -m runtime doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    options = parser.parse_args(arguments)
    diagnosis = diagnose()
    if options.json:
        print_json(diagnosis)
    else:
        print("\n".join(_diagnosis_lines(diagnosis)))
    return 0


def _diagnosis_lines(found: Diagnosis) -> Iterator[str]:
    yield f"Python         {found.python} on {found.platform}"
    if found.jetson:
        yield f"Jetson         {found.jetson}"
    yield f"CPU            {found.cores} cores, {found.memory_gib:g} GiB memory"
    if found.gpu is None:
        yield "GPU            none that the NVIDIA driver shows"
    else:
        gpu = found.gpu
        yield (
            f"GPU            {gpu.name}, compute capability {gpu.compute_capability}, "
            f"{gpu.memory_bytes / (1 << 30):.1f} GiB; driver for CUDA {gpu.cuda_version}"
        )
    yield f"onnxruntime    {found.onnxruntime} with {', '.join(found.providers) or 'no provider'}"
    for flavor, version in found.tensorrt.items():
        yield f"{flavor:<14} {version or 'not installed'}"
    yield f"cuda-bindings  {found.cuda_bindings or 'not installed'}"
    yield ""
    for state in found.backends:
        if state.runs:
            yield f"{state.backend:<14} runs"
        else:
            yield f"{state.backend:<14} does not run: {state.reason}"
            yield f"{'':<14} to mend it: {state.remedy}"
        for note in state.notes or ():
            yield f"{'':<14} note: {note}"
