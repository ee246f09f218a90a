"""A bundle on disk: its card with its lock, and its files, each checked against the card."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from runtime.base.errors import BundleError
from runtime.base.files import locked, sha256_of_bytes, write_atomic
from runtime.base.shown_text import pasted
from runtime.model.card import CARD_FILE, Card, EngineRecord, ModelFile
from runtime.model.card_json import card_from_json, json_from_card
from runtime.model.locate import CHECKPOINT


@dataclass(frozen=True)
class Bundle:
    """A folder with a card, and the card that was read from it."""

    path: Path
    card: Card

    def read(self, record: ModelFile | EngineRecord) -> bytes:
        """The content of a listed file.

        The content that is returned is the content that was checked: a file that changes
        afterwards does no harm.

        Raises:
            BundleError: the file is missing, or its digest is not the listed one.
        """
        path = self.path / record.path
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BundleError(
                f"{path} is listed in the card and cannot be read ({error.strerror}); "
                f"make it again: {rebuild_command(self, record)}"
            ) from error
        digest = sha256_of_bytes(content)
        if digest != record.sha256:
            raise BundleError(
                f"{path} is not the file that the card lists (sha256 {digest[:12]}..., expected "
                f"{record.sha256[:12]}...): it is damaged or was replaced; make it again: "
                f"{rebuild_command(self, record)}"
            )
        return content


def open_bundle(path: Path) -> Bundle:
    """Opens the bundle in the folder `path`.

    Raises:
        BundleError: the folder has no card, or one that cannot be read.
    """
    return Bundle(path=path, card=read_card(path))


def read_card(bundle: Path) -> Card:
    """Reads `card.json` of the folder `bundle`.

    Raises:
        BundleError: there is no card, or one that cannot be read.
    """
    path = bundle / CARD_FILE
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise BundleError(
            f"{bundle} is not a bundle: it has no {CARD_FILE}; make one with `python export/run.py`"
        ) from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    return card_from_json(text, source=str(path))


def write_card(bundle: Path, card: Card) -> None:
    """Writes `card.json` into the folder `bundle`: completely, or not at all."""
    write_atomic(bundle / CARD_FILE, json_from_card(card))


@contextmanager
def locked_card(bundle: Path) -> Iterator[None]:
    """Holds the lock of the card in the folder `bundle` while the block runs, and waits for it.

    Whoever changes a bundle reads its card, adds to it and writes it. Two processes that did so at
    a time would each write a card without the other's file or engine. The card itself is the lock,
    because a bundle may lie in a folder in which no other file can be made. Nothing is locked if
    there is no card.

    Raises:
        UserError: the card's file system has no locks.
    """
    file = bundle / CARD_FILE
    with locked(file) if file.exists() else nullcontext():
        yield


def rebuild_command(bundle: Bundle, record: ModelFile | EngineRecord) -> str:
    """The command, in backquotes, that makes the file of a record again."""
    if isinstance(record, EngineRecord):
        return (
            f"`python export/build_trt.py {pasted(bundle.path)} --precision {record.precision} "
            f"--flavor {record.flavor}`"
        )
    run = run_word(bundle.path)
    return f"`python export/run.py {run} --precision {record.precision.removesuffix('-cpu')}`"


def run_word(bundle: Path) -> str:
    """The run that a bundle lies in, as an argument of a command; "RUN" if it lies elsewhere."""
    return pasted(bundle.parent) if (bundle.parent / CHECKPOINT).is_file() else "RUN"
