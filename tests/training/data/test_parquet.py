"""Parquet files as `datasets` and others write them: splits, classes, cells, and memory."""

import hashlib
import importlib.util
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from runtime.base.errors import UserError
from training.config.data_columns import Columns
from training.data import Dataset, load_dataset
from training.data.packed_image import PackedImage
from training.data.parquet_tables import columns_of_parquet, open_parquet, rows_of_parquet

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet  # noqa: E402

Write = Callable[..., Path]


def load(path: Path, **options: Any) -> Dataset:
    return load_dataset(str(path), image_size=16, progress=True, **options)


@pytest.fixture
def pictures(tmp_path: Path, write_image: Any) -> Callable[[int, int], list[bytes]]:
    def of(first: int, count: int) -> list[bytes]:
        return [
            write_image(tmp_path / "one.png", seed=seed).read_bytes()
            for seed in range(first, first + count)
        ]

    return of


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write("data/train.parquet", {"image": ..., "label": ...}, names=[...])`."""

    def to_file(name: str, columns: dict[str, Any], names: list[str] | None = None) -> Path:
        path = tmp_path / "repo" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pa.table(columns)
        if names:
            features = {
                "label": {"_type": "ClassLabel", "names": names},
                "image": {"_type": "Image"},
            }
            info = json.dumps({"info": {"features": features}})
            table = table.replace_schema_metadata({"huggingface": info})
        pyarrow.parquet.write_table(table, path)
        return path

    return to_file


def cells(pictures: list[bytes], paths: list[str | None] | None = None) -> Any:
    paths = paths or [f"{number}.png" for number in range(len(pictures))]
    return pa.array(
        [{"bytes": content, "path": path} for content, path in zip(pictures, paths, strict=True)],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )


def test_splits_by_file_name_and_classes_by_metadata(
    pictures: Any, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["dog", "cat"]
    for number in range(2):
        write(
            f"data/train-{number:05}-of-00002.parquet",
            {"image": cells(pictures(10 * number, 6)), "label": [0, 1] * 3},
            names,
        )
    write(
        "data/validation-00000-of-00001.parquet",
        {"image": cells(pictures(20, 4)), "label": [1, 0, 0, 1]},
        names,
    )
    unlabelled = {"image": cells(pictures(30, 3)), "label": [-1, -1, -1]}
    test = write("data/test-00000-of-00001.parquet", unlabelled, names)
    (test.parents[1] / "README.md").write_text("# a data set")
    data = load(test.parents[1])
    assert (data.name, data.class_names) == ("repo", ("cat", "dog"))
    assert (len(data.train_labels), data.test_labels.tolist()) == (12, [0, 0, 1, 1])
    assert data.left_out == {"unlabelled": 3}
    # Both files store `0.png`: the paths begin with the file where that is needed.
    assert data.train_paths[0] == "data/train-00000-of-00002.parquet/1.png"
    said = capsys.readouterr().out
    assert "images by 'image', classes by 'label'" in said
    assert "classes are in order of their names, not of their numbers in the file" in said
    assert "3 images without a class left out" in said
    (test.parent / "train-00001-of-00002.parquet").unlink()
    load(test.parents[1])
    assert "only 1 of the 2 files of train are there" in capsys.readouterr().out


def test_a_configuration_folder_and_a_single_file(pictures: Any, write: Write) -> None:
    columns = {"img": cells(pictures(0, 8)), "fine_label": ["a", "b"] * 4}
    file = write("plain_text/train/0000.parquet", columns)
    write("plain_text/test/0000.parquet", {"img": cells(pictures(10, 2)), "fine_label": ["a", "b"]})
    data = load(file.parents[2])
    assert (len(data.train_labels), len(data.test_labels)) == (8, 2)
    assert len(load(file).train_labels) == 6  # drawn from the file alone


def test_several_configurations_are_refused_by_their_names(pictures: Any, write: Write) -> None:
    columns = {"image": cells(pictures(0, 8)), "label": ["a", "b"] * 4}
    for name in ("default", "small"):
        file = write(f"{name}/train-00000-of-00001.parquet", columns)
    repository = file.parents[1]
    words = rf"parquet files in default, small; expected one .* --data {repository}/default$"
    with pytest.raises(UserError, match=words):
        load(repository)
    assert load(repository / "default").class_names == ("a", "b")


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([10, 2] * 4, ("10", "2")),
        ([True, False] * 4, ("false", "true")),
        ([0.0, 1.5] * 4, ("0", "1.5")),
        ([Decimal("2.00"), Decimal("10.50")] * 4, ("10.50", "2")),
        ([b"a", "\u00e9".encode()] * 4, ("a", "\u00e9")),
        (pa.array(["x", "y"] * 4).dictionary_encode(), ("x", "y")),
        ([["x"], ["y"]] * 4, ("x", "y")),
    ],
)
def test_classes_of_other_types(
    pictures: Any, write: Write, labels: Any, classes: tuple[str, ...]
) -> None:
    columns = {"image": pictures(0, 8), "label": labels}  # bytes without a struct
    assert load(write("a.parquet", columns)).class_names == classes


def test_pictures_without_paths_keep_the_order_of_the_file(pictures: Any, write: Write) -> None:
    content = pictures(0, 24)
    file = write("a.parquet", {"photo": cells(content, [None] * 24), "label": ["a", "b"] * 12})
    data = load(file)
    numbers = [int(path.removeprefix("#")) for path in data.train_paths]
    assert numbers == [
        *sorted(n for n in numbers if n % 2 == 0),
        *sorted(n for n in numbers if n % 2),
    ]
    in_struct = {f"{n}.png": n for n in range(24)}
    stored = write("b.parquet", {"photo": cells(content, [*in_struct]), "label": ["a", "b"] * 12})
    assert load(stored).test_paths != data.test_paths


def test_groups_and_splits_in_columns(pictures: Any, write: Write) -> None:
    columns = {
        "image": cells(pictures(0, 20)),
        "label": ["a", "b"] * 10,
        "patient": [number // 4 for number in range(20)],
        "fold": ["train"] * 16 + ["test"] * 4,
    }
    data = load(write("a.parquet", columns), columns="split=fold")
    assert (len(data.train_labels), len(data.test_labels)) == (16, 4)
    assert len({*data.train_groups}) == 4
    columns["fold"] = ["train"] * 15 + ["test"] * 5
    with pytest.raises(UserError, match=r"1 groups have images in several splits \(3\)"):
        load(write("b.parquet", columns), columns="split=fold")


@pytest.mark.parametrize("kinds", [(float, int), (str, float)])
def test_a_group_that_one_file_writes_as_a_float_is_the_same_group(
    pictures: Any, write: Write, kinds: tuple[type, type]
) -> None:
    for split, kind, count in (("train", kinds[0], 12), ("test", kinds[1], 6)):
        columns = {
            "image": pictures(20 * len(split), count),
            "label": ["a", "b"] * (count // 2),
            "patient_id": [kind(number // 3) for number in range(count)],
        }
        file = write(f"{split}.parquet", columns)
    with pytest.raises(UserError, match=r"2 groups have images in several splits \(0, 1\)"):
        load(file.parent)


def test_missing_values_of_pandas_are_no_class_and_no_group(pictures: Any, write: Write) -> None:
    columns = {
        "image": cells(pictures(0, 20)),
        "label": [1.0, 2.0] * 9 + [float("nan"), None],
        "group": [float("nan")] * 10 + [float(number // 4) for number in range(10)],
    }
    data = load(write("a.parquet", columns))
    assert data.class_names == ("1", "2")
    assert data.left_out == {"unlabelled": 2}
    assert len({*data.train_groups}) > 5  # the images without a group are not one group


def test_paths_of_files_and_cells_without_bytes(
    pictures: Any, write: Write, write_image: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = {"image": [f"{n}.png" for n in range(8)], "label": ["a", "b"] * 4}
    listed = write("images/list.parquet", columns)
    for number in range(8):
        write_image(listed.parent / f"{number}.png", seed=number)
    data = load(listed)
    struct = cells([None] * 7 + pictures(7, 1), [f"{n}.png" for n in range(8)])  # type: ignore[list-item]
    found = load(write("images/b.parquet", {"image": struct, "label": ["a", "b"] * 4}))
    assert found.content_digest() == data.content_digest()
    (listed.parent / "0.png").unlink()
    missing = write("images/c.parquet", {"image": struct, "label": ["a", "b"] * 4})
    assert load(missing).left_out == {"broken": 1}
    assert (
        f"skipped {missing}/0.png: the cell 'image.bytes' holds no bytes" in capsys.readouterr().out
    )


def test_a_replaced_file_that_a_table_names_is_decoded_again(
    pictures: Any, write: Write, write_image: Any
) -> None:
    names = [f"{n}.png" for n in range(8)]
    table = {"image": cells([None] * 8, names), "label": ["a", "b"] * 4}  # type: ignore[list-item]
    file = write("a.parquet", table)
    for number in range(1, 8):
        write_image(file.parent / f"{number}.png", seed=number)
    first = load(file)
    assert first.left_out == {"broken": 1}
    write_image(file.parent / "0.png", seed=0)
    second = load(file)
    assert second.left_out == {}
    write_image(file.parent / "5.png", seed=50)
    assert load(file).content_digest() != second.content_digest()
    inside = write("b.parquet", {"image": cells(pictures(0, 8)), "label": ["a", "b"] * 4})
    write_image(inside.parent / "5.png", seed=51)  # of a table with its own bytes it is no part
    assert all(image.outside is None for image in pictures_of(inside))


def pictures_of(file: Path) -> list[PackedImage]:
    table = open_parquet(file)
    columns = columns_of_parquet(table, Columns())
    rows = rows_of_parquet(table, columns, root=file.parent, split=None)
    return [row.picture for row in rows if isinstance(row.picture, PackedImage)]


@pytest.mark.parametrize(
    ("columns", "names", "message"),
    [
        ({"text": ["a"], "label": ["b"]}, None, "holds the image; found 'text', 'label'"),
        ({"image": [b"a"], "other": ["b"]}, None, "holds the label; found 'image', 'other'"),
        ({"image": [b"a"], "label": [5]}, ["x", "y"], "row 0: the class is 5; expected 0 to 1"),
        ({"image": [b"a"], "label": [b"\xff"]}, None, r"'label', row 0: .* are no UTF-8 text"),
        ({"image": [b"a"], "label": [["a", "b"]]}, None, "row 0: the class is \\['a', 'b'\\]"),
        (
            {"image": [{"path": "a"}], "label": ["a"]},
            None,
            "has the fields path; expected the bytes",
        ),
    ],
)
def test_mistakes(
    write: Write, columns: dict[str, Any], names: list[str] | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load(write("a.parquet", columns, names))


@pytest.mark.parametrize("as_paths", [False, True])
def test_a_split_that_is_a_number_stands_for_its_name(
    pictures: Any, tmp_path: Path, as_paths: bool
) -> None:
    (tmp_path / "repo").mkdir()
    images: Any = pictures(0, 8)
    if as_paths:
        for number, content in enumerate(images):
            (tmp_path / "repo" / f"{number}.png").write_bytes(content)
        images = [f"{number}.png" for number in range(8)]

    def written(*splits: int) -> Path:
        table = pa.table({"image": images, "label": ["x", "y"] * 4, "split": splits})
        feature = {"_type": "ClassLabel", "names": ["train", "test"]}
        info = json.dumps({"info": {"features": {"split": feature}}})
        pyarrow.parquet.write_table(
            table.replace_schema_metadata({"huggingface": info}), tmp_path / "repo" / "a.parquet"
        )
        return tmp_path / "repo" / "a.parquet"

    data = load(written(0, 0, 0, 0, 0, 0, 1, 1))
    assert (len(data.train_labels), len(data.test_labels)) == (6, 2)
    with pytest.raises(UserError, match="the split is ''; expected train, val or test"):
        load(written(0, 0, 0, 0, 1, 1, -1, -1))
    with pytest.raises(UserError, match="row 7: the split is 7; expected 0 to 1 for the 2 names"):
        load(written(0, 0, 0, 0, 1, 1, 1, 7))


@pytest.mark.parametrize("form", ["arrays", "encoded"])
@pytest.mark.parametrize("first", ["pictures", "paths"])
def test_a_file_of_pictures_beside_one_of_paths(
    pictures: Any, write: Write, form: str, first: str
) -> None:
    contents: list[bytes] = pictures(0, 16)
    names = {"pictures": "a.parquet", "paths": "b.parquet"}
    if first == "paths":
        names = {"pictures": "b.parquet", "paths": "a.parquet"}
    labels = ["x", "y"] * 4
    stored: list[str | None] = [f"s{number}.png" for number in range(8)]
    file = write(names["pictures"], {"image": cells(contents[:8], stored), "label": labels})
    for number in range(8):
        (file.parent / f"t{number}.png").write_bytes(contents[8 + number])
    write(names["paths"], {"image": [f"t{number}.png" for number in range(8)], "label": labels})
    data = load(file.parent, cache=form)
    found = [hashlib.sha256(content).digest() for content in contents]
    expected = dict(zip(stored, found[:8], strict=True))
    expected |= {f"t{number}.png": digest for number, digest in enumerate(found[8:])}
    assert data.train_sha256 is not None
    assert data.test_sha256 is not None
    paths = (*data.train_paths, *data.test_paths)
    digests = [row.tobytes() for row in (*data.train_sha256, *data.test_sha256)]
    assert dict(zip(paths, digests, strict=True)) == expected


def test_damage_and_pyarrow_that_is_not_installed(
    pictures: Any, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write("a.parquet", {"image": pictures(0, 8), "label": ["a", "b"] * 4})
    content = file.read_bytes()
    file.write_bytes(content[:-10])
    with pytest.raises(UserError, match="is no whole parquet file"):
        load(file)
    damaged = bytearray(content)
    damaged[4:400] = bytes(396)
    file.write_bytes(bytes(damaged))
    with pytest.raises(UserError, match="images are broken"):
        load(file)
    monkeypatch.setattr(
        "training.data.parquet_tables.find_spec",
        lambda name: None if name == "pyarrow" else importlib.util.find_spec(name),
    )
    with pytest.raises(UserError, match=r"package pyarrow, .*`pip install '.\[parquet\]'`"):
        load(file)


def test_processes_read_shuffled_rows_of_several_groups(
    pictures: Any, write: Write, tmp_path: Path
) -> None:
    """More images than one process decodes, in an order that is not that of their paths."""
    content = pictures(0, 530)
    order = sorted(range(530), key=lambda number: hash((number, 1)) % 1009)
    folder = tmp_path / "folder"
    for number in range(530):
        path = folder / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content[number])
    paths: list[str | None] = [f"{number}.png" for number in order]
    image = cells([content[number] for number in order], paths)
    file = write("a.parquet", {"image": image, "label": ["ab"[number % 2] for number in order]})
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(file), file, row_group_size=90)
    assert pyarrow.parquet.ParquetFile(file).num_row_groups == 6
    assert load(file).content_digest() == load(folder).content_digest()
