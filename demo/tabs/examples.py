"""The gallery of example pictures in the tab Classify: test images that lie in the bundle."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from demo.look.markup import picture_uri, text
from demo.service.models import Models
from runtime.base.errors import BundleError
from runtime.images.image_formats import SUFFIXES
from runtime.model.card import EXAMPLE_FOLDER, example_names

_THUMBNAIL = 96  # pixels of the long edge
_COLUMNS = (4, 5, 6)  # the number that leaves the last row fullest is taken

# One listener for all buttons. The browser sends back nothing but the index.
CLICK_SCRIPT = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-index]");
  if (button) trigger("click", { index: Number(button.dataset.index) });
});
"""


@dataclass(frozen=True)
class Example:
    """A held-out test image with its true label."""

    path: Path
    label: str


def find_examples(models: Models) -> list[Example]:
    """The examples of the first bundle; a lone ONNX file has none."""
    folder = models.paths[0] / EXAMPLE_FOLDER
    if not folder.is_dir():
        return []
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    class_names = models.entries[0].card.class_names
    labels = dict(zip(example_names(class_names), class_names, strict=True))
    return [Example(path, labels.get(path.stem, path.stem)) for path in files]


def examples_html(examples: Sequence[Example]) -> str:
    """A button for each example.

    Raises:
        BundleError: a file is no readable picture.
    """
    if not examples:
        return ""
    items = "".join(
        f'<li><button type="button" data-index="{number}" title="{text(example.label)}" '
        f'aria-label="Example: {text(example.label)}">'
        f"{_thumbnail(example.path)}<span>{text(example.label)}</span></button></li>"
        for number, example in enumerate(examples)
    )
    columns = min(_COLUMNS, key=lambda columns: (-len(examples) % columns, -columns))
    return (
        '<div class="examples"><p>Or try one of these</p>'
        f'<ul style="--columns:{columns}">{items}</ul></div>'
    )


def _thumbnail(path: Path) -> str:
    try:
        with Image.open(path) as image:
            small = image.convert("RGB")
    except OSError as error:
        raise BundleError(
            f"{path} is no readable picture: the bundle is damaged; remove the file or export the "
            "bundle again"
        ) from error
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    kind = "tiny" if max(small.size) < _THUMBNAIL else ""
    return f'<img class="{kind}" src="{picture_uri(small)}" alt="">'
