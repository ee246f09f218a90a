"""`python -m runtime classify [MODEL] IMAGE...`: the labels of images, folders, videos, cameras."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from runtime.backends.registry import backend_names
from runtime.backends.session import Threads
from runtime.base.command import EXIT_USER, CommandParser, fail, positive_int, print_json
from runtime.base.errors import ImageError, UserError
from runtime.base.parallel import usable_cores
from runtime.commands.model_options import model_or_latest
from runtime.inference.classifier import DEFAULT_TOP_K, Answer, Classifier
from runtime.inference.open_classifier import open_classifier
from runtime.inference.video import Frame, Video
from runtime.model.locate import is_model, looks_like_model
from runtime.model.preprocess import SUFFIXES


def main(arguments: Sequence[str]) -> int:
    """Returns 0, or 2 at the end if an image was broken; the others are answered."""
    options = _parse(arguments)
    # What is said about the model must not get into the JSON lines.
    note = sys.stderr if options.json else sys.stdout
    if options.video is not None:
        return _classify_video(options, note)
    model, given = _model_and_images(options.arguments)
    images = [path for path in given for path in _expand(path)]
    # Many images keep all cores busy by themselves: each then runs on one thread.
    many = len(images) > usable_cores()
    threads = Threads(intra_op=1, spinning=False) if many else Threads()
    with _open(model, options, threads, note) as classifier:
        answers = classifier.classify_stream(images, top_k=options.top_k)
        named = (
            ({"path": str(path)}, answer) for path, answer in zip(images, answers, strict=True)
        )
        return _report(named, json=options.json)


def _classify_video(options: argparse.Namespace, note: TextIO) -> int:
    model, rest = (options.arguments or [None])[0], options.arguments[1:]
    if rest:
        raise UserError(f"--video {options.video} stands alone; leave out {rest[0]}")
    with (
        Video(options.video, every=options.every) as video,
        _open(model, options, Threads(), note) as classifier,
    ):
        answers = _answers_of_frames(classifier, video, options.top_k)
        named = (
            ({"path": options.video, "frame": frame.index, "seconds": frame.seconds}, answer)
            for frame, answer in answers
        )
        try:
            return _report(named, json=options.json)
        except KeyboardInterrupt:
            if video.is_camera:  # there is no other way to end it
                return 0
            raise


def _answers_of_frames(
    classifier: Classifier, video: Video, top_k: int
) -> Iterator[tuple[Frame, Answer]]:
    """Each frame at once: a camera must not wait until a batch is full."""
    for frame in video:
        yield frame, classifier.classify(frame.image, top_k=top_k)


def _open(
    model: Path | None, options: argparse.Namespace, threads: Threads, note: TextIO
) -> Classifier:
    classifier = open_classifier(
        model_or_latest(model, note),
        backend=options.backend,
        precision=options.precision,
        threads=threads,
    )
    print(classifier.describe(), file=note)
    return classifier


def _report(answers: Iterable[tuple[dict[str, Any], Answer]], *, json: bool) -> int:
    """Prints each answer as it comes; returns the exit code."""
    code = 0
    for place, answer in answers:
        if isinstance(answer, ImageError):
            code = fail(str(answer), EXIT_USER)
            if json:
                _print_json({**place, "error": _valid(str(answer))})
        elif json:
            _print_json({**place, "predictions": answer})
        else:
            labels = "  ".join(f"{p.label} {p.probability:.1%}" for p in answer)
            where = f" {place['seconds']:.2f} s" if "seconds" in place else ""
            print(f"{place['path']}{where}: {labels}", flush=bool(where))
    return code


def _print_json(record: dict[str, Any]) -> None:
    print_json({**record, "path": _valid(record["path"])}, flush="frame" in record)


def _valid(text: str) -> str:
    """Text without what Python makes of a file name's bytes that are no UTF-8: JSON has no such."""
    return text.encode(errors="surrogateescape").decode(errors="replace")


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m runtime classify", description=__doc__)
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="[MODEL] IMAGE",
        type=Path,
        help="MODEL is a bundle, a run or an .onnx file (default: runs/latest); "
        "IMAGE is an image file or a folder",
    )
    parser.add_argument(
        "--video", metavar="V", help="instead of images: a video file, or a camera's number"
    )
    parser.add_argument(
        "--every", type=positive_int, default=1, metavar="N", help="with --video: every N-th frame"
    )
    parser.add_argument(
        "--top-k", type=positive_int, default=DEFAULT_TOP_K, help="default %(default)s"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--backend", metavar="B", help=f"one of {', '.join(backend_names())}")
    parser.add_argument("--precision", metavar="P", help="fp32, fp16, int8 or int8-cpu")
    return parser


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Options may stand between images; after `--` all are images, whatever they begin with."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = _parser().parse_intermixed_args(arguments[:end])
    options.arguments += [Path(word) for word in arguments[end + 1 :]]
    return options


def _model_and_images(arguments: list[Path]) -> tuple[Path | None, list[Path]]:
    if not arguments:
        raise UserError("no image was named; `python -m runtime classify --help` lists the ways")
    first, *rest = arguments
    if not (is_model(first) or looks_like_model(first)):
        return None, arguments
    if not rest:
        raise UserError(f"no image was named after the model {first}; name files or folders")
    return first, rest


def _expand(path: Path) -> Iterator[Path]:
    """The image files below a folder, sorted, without hidden ones; any other path as it is."""
    if not path.is_dir():
        yield path
        return
    found = sorted(
        file
        for file in path.rglob("*")
        # As in training, nothing hidden: desktops keep thumbnails in hidden folders.
        if file.suffix.lower() in SUFFIXES
        and not file.is_dir()  # but a link that leads nowhere is a broken image
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not found:
        raise UserError(
            f"{path} is neither a model (bundle, run) nor a folder with images "
            f"({', '.join(SUFFIXES)})"
        )
    yield from found
