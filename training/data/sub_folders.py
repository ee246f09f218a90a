"""Warns of folders below class folders: one patient's pictures in each, or the classes themselves.

Only the user knows what such a folder stands for, so the warnings say what follows from each.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from runtime.base.shown_text import some
from training.config.data_columns import EXAMPLE
from training.data.layouts import Layout
from training.data.source import Contents, Split


def sub_folder_warnings(layout: Layout, contents: Contents) -> Iterator[str]:
    """Sentences about the folders that lie in class folders, if something may be wrong with them.

    Args:
        layout: of the folders.
        contents: of the folders, each of which is a class with all images below it.
    """
    drawn = contents.redraw is not None
    train = _folders_of(contents.train, layout.train)
    test = _folders_of(contents.test, layout.train) if drawn else set()
    below: defaultdict[str, set[str]] = defaultdict(set)
    for folder in train | test:
        below[folder.parts[0]].add("/".join(folder.parts[1:]))
    both = [
        folder for folder in train & test if folder.parts[1:] and len(below[folder.parts[0]]) > 1
    ]
    if both:
        yield (
            "the test images are drawn one by one, and images of one sub-folder are trained on and "
            f"tested on ({some(sorted(folder.as_posix() for folder in both))}); if a sub-folder is "
            "one patient, clip or place, the accuracy comes out too high: list the images with a "
            f"column for it, {EXAMPLE},group=COLUMN "
            '(docs/training.md, "Lists, tables and archives")'
        )
    names, *others = below.values()
    if others and "" not in names and len(names) > 1 and all(other == names for other in others):
        yield (
            f"the classes are {some(sorted(below))}, and each has the same sub-folders "
            f"({some(sorted(names))}), which look like the classes; if they are, move the images "
            "into one folder for each of them, or list the images with their classes"
        )


def _folders_of(split: Split, root: Path) -> set[Path]:
    """The folders that its images lie in, relative to `root`."""
    images = cast("Sequence[Path]", split.images)
    return {folder.relative_to(root) for folder in {image.parent for image in images}}
