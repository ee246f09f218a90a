"""The gallery of example pictures, without a browser."""

from pathlib import Path
from types import SimpleNamespace

from demo.tabs.examples import find_examples
from runtime.model.card import example_names


def test_examples_have_the_label_they_were_written_for(tmp_path: Path) -> None:
    """This holds for labels, too, that differ only in characters which no file name can have."""
    names = ("C", "C++", "C#", "c", "a b", "a_b", "C-1")
    (tmp_path / "examples").mkdir()
    for name in example_names(names):
        (tmp_path / "examples" / f"{name}.png").touch()
    models = SimpleNamespace(
        paths=[tmp_path], entries=[SimpleNamespace(card=SimpleNamespace(class_names=names))]
    )
    found = {example.path.stem: example.label for example in find_examples(models)}
    assert found == dict(zip(example_names(names), names, strict=True))
    assert len(found) == len(names)
