"""`python -m runtime classify [MODEL] IMAGE...`: the labels of images and folders of images."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from runtime.classifier import DEFAULT_TOP_K, Answer
from runtime.command import EXIT_USER, CommandParser, fail
from runtime.errors import ImageError, UserError
from runtime.locate import is_model, latest_run, looks_like_model
from runtime.onnx_session import Threads
from runtime.opening import open_classifier
from runtime.pipeline import usable_cores
from runtime.preprocess import SUFFIXES
from runtime.session import BACKENDS


def main(arguments: Sequence[str]) -> int:
    """Returns 0, or 2 at the end if an image was broken; the others are answered."""
    options = _parser().parse_intermixed_args(arguments)  # options between images, too
    model, given = _model_and_images(options.arguments)
    images = [path for path in given for path in _expand(path)]
    # What is said about the model must not get into the JSON lines.
    note = sys.stderr if options.json else sys.stdout
    if model is None:
        model = latest_run()
        print(f"model: {model} (runs/latest)", file=note)
    # Many images keep all cores busy by themselves: each then runs on one thread.
    many = len(images) > usable_cores()
    threads = Threads(intra_op=1, spinning=False) if many else Threads()
    with open_classifier(
        model, backend=options.backend, precision=options.precision, threads=threads
    ) as classifier:
        print(classifier.describe(), file=note)
        answers = classifier.classify_stream(images, top_k=options.top_k)
        return report(zip(map(str, images), answers, strict=True), json=options.json)


def report(answers: Iterable[tuple[str, Answer]], *, json: bool) -> int:
    """Prints each answer as it comes; returns the exit code."""
    code = 0
    for name, answer in answers:
        if isinstance(answer, ImageError):
            code = fail(str(answer), EXIT_USER)
            if json:
                _print_json({"path": name, "error": str(answer)})
        elif json:
            _print_json({"path": name, "predictions": answer})
        else:
            labels = "  ".join(f"{p.label} {p.probability:.1%}" for p in answer)
            print(f"{name}: {labels}")
    return code


def _print_json(record: dict[str, object]) -> None:
    print(msgspec.json.encode(record).decode())


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m runtime classify", description=__doc__)
    parser.add_argument(
        "arguments",
        nargs="+",
        metavar="[MODEL] IMAGE",
        type=Path,
        help="MODEL is a bundle, a run or an .onnx file (default: runs/latest); "
        "IMAGE is an image file or a folder",
    )
    parser.add_argument("--top-k", type=int, default=DEFAULT_TOP_K, help="default %(default)s")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--backend", metavar="B", help=f"one of {', '.join(BACKENDS)}")
    parser.add_argument("--precision", metavar="P", help="fp32, fp16, int8 or int8-cpu")
    return parser


def _model_and_images(arguments: list[Path]) -> tuple[Path | None, list[Path]]:
    first, *rest = arguments
    if not (is_model(first) or looks_like_model(first)):
        return None, arguments
    if not rest:
        raise UserError(f"no image was named after the model {first}; name files or folders")
    return first, rest


def _expand(path: Path) -> Iterator[Path]:
    """The image files below a folder, sorted; any other path as it is."""
    if not path.is_dir():
        yield path
        return
    found = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    )
    if not found:
        raise UserError(
            f"{path} is neither a model (bundle, run) nor a folder with images "
            f"({', '.join(SUFFIXES)})"
        )
    yield from found
