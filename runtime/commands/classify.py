"""`python -m runtime classify [MODEL] IMAGE...`: the labels of images, folders, videos, cameras."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from runtime.backends.session import Threads
from runtime.base.command import EXIT_USER, CommandParser, fail, positive_int, print_json
from runtime.base.errors import ImageError, UserError
from runtime.base.resources import usable_cores
from runtime.base.shown_text import on_terminal
from runtime.commands.model_options import add_backend, model_or_latest
from runtime.images.image_folders import ImageFolders, in_order, in_words, is_run
from runtime.images.image_formats import READABLE
from runtime.inference.classifier import DEFAULT_TOP_K, Classifier
from runtime.inference.open_classifier import open_classifier
from runtime.inference.predictions import Answer
from runtime.inference.video import Frame, Video
from runtime.model.locate import is_model, looks_like_model


def main(arguments: Sequence[str]) -> int:
    """Prints the answers; returns 0, or 2 if an image was broken and the others are answered.

    Raises:
        UserError: no image was named, or a file or the model cannot be used.
    """
    options = _parse(arguments)
    # On stdout, a note about the model would come between the JSON lines.
    note = sys.stderr if options.json else sys.stdout
    if options.video is not None:
        return _classify_video(options, note)
    model, given = _model_and_images(options.model, options.arguments)
    images = [path for path in given for path in _expand(path)]
    # Many images keep all cores busy, each with one thread. A single one gets all threads.
    many = len(images) > usable_cores()
    threads = Threads(intra_op=1, spinning=False) if many else Threads()
    with _open_model(model, options, threads, note) as classifier:
        answers = classifier.classify_stream(images, top_k=options.top_k)
        named = (
            ({"path": str(path)}, answer) for path, answer in zip(images, answers, strict=True)
        )
        return _report(named, json=options.json)


def _classify_video(options: argparse.Namespace, note: TextIO) -> int:
    named = options.arguments if options.model is None else [options.model, *options.arguments]
    model, rest = (named or [None])[0], named[1:]
    if rest:
        raise UserError(f"--video {options.video} stands alone; leave out {rest[0]}")
    with (
        Video(
            options.video, every=options.every, reconnect=options.reconnect, note=_print_note
        ) as video,
        _open_model(model, options, Threads(), note) as classifier,
    ):
        answers = _answers_of_frames(classifier, video, options.top_k)
        named = (
            (
                {"path": options.video, "frame": frame.index, "seconds": frame.seconds}
                | ({"dropped": video.dropped} if options.reconnect else {}),
                answer,
            )
            for frame, answer in answers
        )
        try:
            return _report(named, json=options.json)
        except KeyboardInterrupt:
            if video.is_live:  # Ctrl-C is the only way to end it
                return 0
            raise


def _print_note(line: str) -> None:
    print(on_terminal(f"note: {line}"), file=sys.stderr, flush=True)


def _answers_of_frames(
    classifier: Classifier, video: Video, top_k: int
) -> Iterator[tuple[Frame, Answer]]:
    """Answers each frame by itself, because a camera must not wait until a batch is full."""
    for frame in video:
        yield frame, classifier.classify(frame.image, top_k=top_k)


def _open_model(
    model: Path | None, options: argparse.Namespace, threads: Threads, note: TextIO
) -> Classifier:
    classifier = open_classifier(
        model_or_latest(model, note),
        backend=options.backend,
        precision=options.precision,
        threads=threads,
    )
    print(on_terminal(classifier.describe()), file=note)
    if classifier.threshold is not None:
        print(on_terminal(f"it {classifier.threshold.words}"), file=note)
    elif classifier.no_threshold is not None:
        print(on_terminal(f"every answer counts: {classifier.no_threshold}"), file=note)
    return classifier


def _report(answers: Iterable[tuple[dict[str, Any], Answer]], *, json: bool) -> int:
    """Prints each answer as soon as it is there; returns the exit code."""
    code = 0
    for place, answer in answers:
        if isinstance(answer, ImageError):
            code = fail(str(answer), EXIT_USER)
            if json:
                _print_json({**place, "error": _valid(str(answer))})
        elif json:
            warnings = {"warnings": answer.warnings} if answer.warnings else {}
            accepted = {} if answer.accepted is None else {"accepted": answer.accepted}
            _print_json({**place, "predictions": answer, **accepted, **warnings})
        else:
            for words in answer.warnings:
                print(on_terminal(f"warning: {place['path']}: {words}"), file=sys.stderr)
            labels = "  ".join(f"{p.label} {p.probability:.1%}" for p in answer)
            where = f" {place['seconds']:.2f} s" if "seconds" in place else ""
            unsure = "  (not sure enough)" if answer.accepted is False else ""
            print(on_terminal(f"{place['path']}{where}: {labels}{unsure}"), flush=bool(where))
    return code


def _print_json(record: dict[str, Any]) -> None:
    print_json({**record, "path": _valid(record["path"])}, flush="frame" in record)


def _valid(text: str) -> str:
    """The text as valid Unicode, as JSON needs it.

    Python reads the bytes of a file's name that are no UTF-8 as lone surrogates. Each becomes "�".
    """
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
        "--model", type=Path, metavar="MODEL", help="the model; then every argument is an image"
    )
    parser.add_argument(
        "--video",
        metavar="V",
        help="instead of images: a video file, a stream's address, or a camera's number",
    )
    parser.add_argument(
        "--reconnect",
        action="store_true",
        help="with --video: open a stream or camera again when it breaks, and answer its newest "
        "frame; the others are dropped and counted",
    )
    parser.add_argument(
        "--every", type=positive_int, default=1, metavar="N", help="with --video: every N-th frame"
    )
    parser.add_argument(
        "--top-k", type=positive_int, default=DEFAULT_TOP_K, help="default %(default)s"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    add_backend(parser)
    return parser


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, which may stand between images. Behind `--`, every word is an image."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    parser = _parser()
    options = parser.parse_intermixed_args(arguments[:end])
    parser.without_empty(arguments[end + 1 :])
    if options.video is None:
        parser.refuse_unused(options, ("reconnect", "every"), "without --video")
    options.arguments += [Path(word) for word in arguments[end + 1 :]]
    return options


def _model_and_images(model: Path | None, arguments: list[Path]) -> tuple[Path | None, list[Path]]:
    """The model, or None for the newest run's, and the images.

    Raises:
        UserError: no image was named, or it is not clear whether an argument is a model.
    """
    if not arguments:
        raise UserError("no image was named; `python -m runtime classify --help` lists the ways")
    if model is not None:
        return model, _no_model_among(arguments)
    first, *rest = arguments
    if is_model(first) or looks_like_model(first):
        if not rest:
            raise UserError(f"no image was named after the model {first}; name files or folders")
        return first, _no_model_among(rest)
    # Without this, a misspelt model would be one broken image, and another model would answer.
    if not first.exists():
        raise UserError(
            f"{first} does not exist; expected a model or an image; if it is an image, name the "
            "model with --model MODEL"
        )
    return None, _no_model_among(arguments)


def _no_model_among(images: list[Path]) -> list[Path]:
    """The images; UserError if a model is among them, which was not meant as a folder of pictures.

    A bundle and a run hold pictures, too: examples, curves, a sheet of errors.
    """
    for path in images:
        if is_model(path) or is_run(path):
            raise UserError(
                f"{path} is a model; one model answers, which stands before the images, or behind "
                "--model"
            )
    return images


def _expand(path: Path) -> Sequence[Path]:
    """The images below a folder, sorted, by the rules of training; any other path as it is.

    Raises:
        UserError: a folder cannot be listed, or has no images.
    """
    if not path.is_dir():
        return [path]
    folders = ImageFolders(path)
    found = in_order(folders.images_below(path))
    left_out = in_words(folders.left_out)
    if not found:
        raise UserError(
            f"{path} is neither a model (bundle, run) nor a folder with images ({READABLE})"
            + (f"; left out: {left_out}" if left_out else "")
        )
    if left_out:
        _print_note(f"{path}: left out: {left_out}")
    return found
