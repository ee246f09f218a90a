"""The images in the folders of one data set: which class each lies in, and what is left out."""

from collections.abc import Iterable
from pathlib import Path

from runtime.base.errors import UserError
from runtime.base.shown_text import some
from runtime.images.image_folders import Entry as Entry
from runtime.images.image_folders import Identity, ImageFolders, in_words, is_of_the_system
from runtime.images.image_formats import READABLE
from training.data.loading_progress import report

_MAX_NAMED = 5


class FolderReader(ImageFolders):
    """Reads the folders of one data set."""

    def files(self, folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
        """The files directly in `folder` whose names have one of the endings, sorted.

        Raises:
            UserError: if the folder cannot be listed.
        """
        self.listing(folder)
        return sorted(
            Path(entry.path)
            for entry in self._entries(folder)
            if entry.name.lower().endswith(suffixes)
            and not is_of_the_system(entry.name)
            and not entry.is_dir()
        )

    def folders_in(self, folder: Path) -> list[Path]:
        """The folders in `folder`, where images may be looked for; none if it cannot be listed.

        Nothing is counted as left out: the folders need not belong to the data.
        """
        try:
            entries = [entry for entry in self._entries(folder) if entry.is_dir()]
        except OSError:
            return []
        return sorted(Path(entry.path) for entry in entries if not is_of_the_system(entry.name))

    def count_below(self, folder: Path) -> int:
        """How many images lie in a folder that is left out; of what cannot be listed, none."""
        return self._count_below(folder, frozenset(self._above))

    def _count_below(self, folder: Path, above: frozenset[Identity]) -> int:
        try:
            identity = self._identity(folder)
            listing = self.listing(folder)
        except (OSError, UserError):
            return 0
        if identity in above:
            return 0  # a link that leads back
        within = above | {identity}
        return len(listing.images) + sum(self._count_below(one, within) for one in listing.folders)

    def report(self) -> None:
        """Says what was left out, in a line for each reason."""
        if self.others:
            report(
                f"{self._root}: {self.others.total()} files ignored, they are no {READABLE} "
                f"({in_words(self.others)})"
            )
        for paths, words in (
            (self.dead_links, "links that lead nowhere"),
            (self.repeated, "linked folders that were read already, or would lead to themselves"),
        ):
            if paths:
                named = some(_below(self._root, paths), most=_MAX_NAMED)
                report(f"{self._root}: left out {len(paths)} {words} ({named})")
        if self.run_folders:
            named = some(_below(self._root, self.run_folders), most=_MAX_NAMED)
            report(f"{self._root}: left out what training has written there ({named})")
        if self.system_folders:
            names = some(sorted(self.system_folders), most=_MAX_NAMED)
            count = self.system_folders.total()
            report(f"{self._root}: left out {count} folders of the system ({names})")


def _below(root: Path, paths: Iterable[Path]) -> list[str]:
    return [str(path.relative_to(root)) for path in sorted(paths)]
