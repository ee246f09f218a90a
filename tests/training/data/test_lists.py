"""Lists of images as people and programs write them, and what is wrong with some of them."""

import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.base.errors import UserError
from training.data import Dataset, load_dataset
from training.data.data_check import checked_data
from training.data.splits import held_out

NAMES = ("ant", "bee")


def load(path: Path, **options: Any) -> Dataset:
    return load_dataset(str(path), image_size=16, progress=True, **options)


@pytest.fixture
def photos(tmp_path: Path, write_image: Any) -> Path:
    """Ten images in one folder: `0.png` to `9.png`; those of odd numbers show bees."""
    folder = tmp_path / "zoo" / "photos"
    for number in range(10):
        write_image(folder / f"{number}.png", seed=number)
    return folder


def row(number: int, form: str = "photos/{}.png,{}") -> str:
    return form.format(number, NAMES[number % 2])


def write(photos: Path, header: str, rows: list[str], name: str = "list.csv") -> Path:
    file = photos.parent / name
    file.write_text("\n".join([header, *rows]), encoding="utf-8")
    return file


def classes_by_path(dataset: Dataset) -> dict[str, str]:
    labels = [*dataset.train_labels, *dataset.test_labels]
    paths = dataset.train_paths + dataset.test_paths
    return {path: dataset.class_names[label] for path, label in zip(paths, labels, strict=True)}


WANTED = {f"photos/{number}.png": NAMES[number % 2] for number in range(10)}


@pytest.mark.parametrize(
    "text",
    [
        "image,label\n" + "\n".join(row(n) for n in range(10)),
        "\ufeffImage Path;Class\r\n" + "\r\n".join(row(n, "photos/{}.png;{}") for n in range(10)),
        '"FILE_NAME","Category"\n' + "\n".join(row(n, '"photos/{}.png","{}"') for n in range(10)),
        "n,fileName, species \n" + "\n".join(row(n, "7, ./photos/{}.png , {} ") for n in range(10)),
        "path\tTarget\n\n" + "\n\n".join(row(n, "photos/{}.png\t{}") for n in range(10)) + "\n\n",
        "sep=;\r\nimage;label\r\n" + "\r\n".join(row(n, "photos/{}.png;{}") for n in range(10)),
        "\ufeffSEP=:\nimage:label\n" + "\n".join(row(n, "photos/{}.png:{}") for n in range(10)),
        "img|y\r" + "\r".join(row(n, "photos\\{}.png|{}") for n in range(10)),
        "id,label\n" + "\n".join(row(n, "{},{}") for n in range(10)),
        "id,label\n" + "\n".join(row(n, "photos/{},{}") for n in range(10)),
        "filename,label\n" + "\n".join(row(n, "{}.png,{}") for n in range(10)),
        "image,label,note\n"
        + "\n".join(row(n, 'photos/{}.png,{},"a, ""b""\nc"') for n in range(10)),
        "image,label,\n" + "\n".join(row(n, "photos/{}.png,{},") for n in range(10)),
        "image,label,weight\n" + "\n".join(row(n, "photos/{}.png,{}") for n in range(10)),
    ],
)
def test_lists_as_people_write_them(photos: Path, text: str) -> None:
    file = photos.parent / "list.csv"
    file.write_bytes(text.encode())
    assert classes_by_path(load(file)) == WANTED


def test_other_encodings_and_formats(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "image\tlabel\n" + "\n".join(row(n, "photos/{}.png\t{}") for n in range(10))
    for name, content in (("list.tsv", text.encode()), ("excel.csv", text.encode("utf-16"))):
        file = photos.parent / name
        file.write_bytes(content)
        assert classes_by_path(load(file)) == WANTED
    lines = [f'{{"img": "photos/{n}.png", "label": {n % 2}, "more": [1]}}' for n in range(10)]
    file = photos.parent / "list.JSONL"
    file.write_text("\r\n".join(lines))
    assert load(file).class_names == ("0", "1")
    assert "list.JSONL: images by 'img', classes by 'label'" in capsys.readouterr().out
    file.write_bytes("image,label\nphotos/0.png,Käfer".encode("latin-1"))
    with pytest.raises(UserError, match=r"is not UTF-8 text \(byte 26\)"):
        load(file.rename(file.with_name("latin.csv")))


def test_a_file_with_a_name_in_another_unicode_form(photos: Path) -> None:
    name = unicodedata.normalize("NFD", "käfer.png")
    (photos / "0.png").rename(photos / name)
    file = write(photos, "image,label", ["photos/käfer.png,ant", *(row(n) for n in range(1, 10))])
    assert classes_by_path(load(file))[f"photos/{name}"] == "ant"


def test_numbers_are_names_in_the_order_of_text(photos: Path) -> None:
    rows = [f"photos/{number}.png,{(2, 10)[number % 2]}" for number in range(10)]
    assert load(write(photos, "image,label", rows)).class_names == ("10", "2")


def test_a_missing_value_that_was_made_text_is_a_warning(photos: Path) -> None:
    rows = [
        f"photos/{n}.png,{'nan' if n < 2 else NAMES[n % 2]},{'None' if n > 7 else n}"
        for n in range(10)
    ]
    file = write(photos, "image,label,patient", rows)
    data = load(file)
    assert data.class_names == ("ant", "bee", "nan")
    assert [warning.partition(",")[0] for warning in data.warnings] == [
        "2 images in the class 'nan'",
        "2 images in the group 'None'",
    ]


def test_columns_are_named(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(photos, "label,where,What", [f"x,{row(number)}" for number in range(10)])
    assert classes_by_path(load(file, columns="image=where,label=what")) == WANTED
    rows = [f"{row(n)},x{n % 3}" for n in range(10)]
    both = write(photos, "image,label,class", rows, "both.csv")
    load(both)
    assert "not by 'class', which --columns label=... would choose" in capsys.readouterr().out
    for columns, message in (
        ("label=what", "holds the image; found 'label', 'where', 'What'; name them with --columns"),
        ("image=there,label=what", "has no column 'there'; found 'label', 'where', 'What'"),
        ("picture=where", "received 'picture=where', expected each of image, label, split, group"),
        ("image=where,image=what", "at most once"),
        ("image=", "image needs the name of a column"),
    ):
        with pytest.raises(UserError, match=message):
            load(file, columns=columns)


def test_a_list_without_a_header_shows_what_to_do(photos: Path) -> None:
    file = write(photos, row(0), [row(number) for number in range(1, 10)])
    with pytest.raises(UserError) as caught:
        load(file)
    assert str(caught.value) == (
        f"{file} has no column whose name says that it holds the image or the label; found "
        "'photos/0.png', 'ant'; name them with --columns image=COLUMN,label=COLUMN"
    )


def rows_with(*others: str) -> list[str]:
    return [*(row(number) for number in range(10)), *others]


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("image,label", rows_with("photos/0.png,bee"), "two classes, 'ant' in line 2 and 'bee' in"),
        ("image,label", rows_with("photos/a.png,ant", "b.png,ant"), "2 of 12 images are missing"),
        ("image,label", rows_with('"a\nb",x', '"c\n",x'), r"to the list: 'a\\nb' in line 12; 'c'"),
        ("image,label", rows_with("https://a.b/c.png,ant"), "an address; download the images"),
        ("image,label", rows_with("S3://a/c.png,ant"), "an address; download the images"),
        ("image,label", rows_with("photos/0.png,ant|bee"), "line 12: the class 'ant|bee' looks"),
        ("image,label", rows_with('photos/0.png,"a;b"'), "looks like several"),
        ("image,label", rows_with('photos/x.png,"bee, ant"', "y,c"), "2 of 12 images are missing"),
        ("image,label", rows_with("photos/0.png,a,b"), "line 12: 3 cells, and the header has 2"),
        ("image,label", rows_with('photos/0.png,"a"b'), "line 12: not readable as a table"),
        ("image,label", rows_with('photos/0.png,"a'), "line 12: not readable as a table"),
        ("sep=,\nimage,label", ["photos/0.png,a,b"], "line 3: 3 cells, and the header has 2"),
        ("image,label", [], "has no rows"),
        ("image,label,label", [], "has two columns 'label'"),
        ("image,label", ["photos/0.png,", "photos/1.png,"], "has no image with a class"),
        ("image,label", rows_with()[:2], "class 'ant' has one image"),
        (
            "image,label",
            [f"photos/{n}.png,a" for n in range(9)],
            "class names a; expected at least",
        ),
        ("image,label", [f"photos/{n}.png,{'aA'[n % 2]}" for n in range(9)], "differ only in case"),
        (
            "image,label,split",
            [f"{row(n)},{('train', 'later')[n // 8]}" for n in range(10)],
            "line 10: the split is 'later'; expected train, val or test in column 'split'",
        ),
        (
            "image,label,split",
            [f"{row(n)},test" for n in range(10)],
            "has images for test, and none to train on",
        ),
        (
            "image,label,split",
            [f"photos/{n}.png,{n // 9},{('train', 'test')[n // 9]}" for n in range(10)],
            "class '1' has images for test and none for training",
        ),
        (
            "image,label,split",
            [*(f"{row(n)},train" for n in range(10)), f"{row(0)},test"],
            "has two splits, 'train' in line 2 and 'test' in line 12",
        ),
        (
            "image,label,split,patient",
            [f"{row(n)},{('train', 'test')[n // 8]},p{n // 3}" for n in range(10)],
            r"1 groups have images in several splits \(p2\)",
        ),
        (
            "image,label,patient",
            [f"{row(n)},{(n, 'p')[n % 2]}" for n in range(10)],
            "class 'bee' cannot be split: its 5 images are in one group",
        ),
    ],
)
def test_a_mistake_is_one_line(photos: Path, header: str, rows: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("|", r"\|")) as caught:
        load(write(photos, header, rows))
    assert "\n" not in str(caught.value)


def test_classes_of_json_lines_that_are_several(photos: Path) -> None:
    file = photos.parent / "list.jsonl"
    good = [f'{{"image": "photos/{n}.png", "label": ["{NAMES[n % 2]}"]}}' for n in range(10)]
    file.write_text("\n".join(good))
    assert classes_by_path(load(file)) == WANTED
    for line, message in (
        ('{"image": "photos/0.png", "label": ["a", "b"]}', r"line 11: the class is \['a', 'b'\]"),
        ('{"image": {"path": 1}, "label": "a"}', "line 11: the image is {'path': 1}; expected"),
        ('["photos/0.png"]', "line 11: not a JSON object"),
        ('{"image": ', "line 11: not a JSON object"),
    ):
        file.write_text("\n".join([*good, line]))
        with pytest.raises(UserError, match=message):
            load(file)


def test_whole_numbers_are_one_class_and_one_group_however_they_are_written(photos: Path) -> None:
    file = photos.parent / "list.jsonl"
    labels = ("1", "2", "1.0", "[2.0]")
    lines = [f'{{"image": "photos/{n}.png", "label": {labels[n % 4]}}}' for n in range(10)]
    file.write_text("\n".join(lines))
    assert load(file).class_names == ("1", "2")
    for labels, names in ((("0.0", "1.0"), ("0", "1")), (("1.0", "1.5"), ("1.0", "1.5"))):
        rows = [f"photos/{n}.png,{labels[n % 2]}" for n in range(10)]
        assert load(write(photos, "image,label", rows)).class_names == names
    rows = [*(f"photos/{n}.png,{n % 2}" for n in range(10)), "photos/9.png,1.0"]
    assert load(write(photos, "image,label", rows)).left_out == {"duplicate": 1}
    rows = [f"{row(n)},{('train,7', 'test,7.0')[n // 8]}" for n in range(10)]
    with pytest.raises(UserError, match=r"1 groups have images in several splits \(7\)"):
        load(write(photos, "image,label,split,patient", rows))


def test_commas_between_classes(photos: Path) -> None:
    """A name with a comma is one class, as in ImageNet, unless its parts are classes."""
    rows = [
        f'photos/{n}.png,"{("tench, Tinca", "maillot, suit", "maillot")[n % 3]}"' for n in range(9)
    ]
    assert load(write(photos, "image,label", rows)).class_names == (
        "maillot",
        "maillot, suit",
        "tench, Tinca",
    )
    rows = [f'photos/{n}.png,"{("ant", "bee", "ant, bee")[n % 3]}"' for n in range(9)]
    with pytest.raises(UserError, match="the class 'ant, bee' lists other classes"):
        load(write(photos, "image,label", rows))


def test_what_is_left_out_is_counted_and_said(
    photos: Path, write_image: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(photos / "more.png", seed=20)
    write_image(photos / "odd.png", seed=21)
    write_image(photos.parent / "elsewhere" / "other.png", seed=22)
    rows = rows_with(
        "photos/0.png,ant", "./photos/1.png,bee", "photos/gone.png,bee", "photos/odd.png,"
    )
    data = load(write(photos, "image,label", rows))
    assert classes_by_path(data) == WANTED
    assert data.left_out == {
        "duplicate": 2,
        "missing": 1,
        "not in the list": 1,
        "unlabelled": 1,
    }
    said = capsys.readouterr().out
    assert "1 image missing and left out: 'photos/gone.png' in line 14" in said
    assert "2 rows left out that name an image again, with the same class" in said
    assert "1 images beside the listed ones in no row, left out" in said
    assert "1 image without a class left out" in said


def test_leaks_that_are_dropped_are_counted_beside_doubled_rows(
    photos: Path, write_image: Any
) -> None:
    write_image(photos / "copy.png", seed=0)
    rows = [f"{row(n)},train" for n in range(10)]
    rows += ["photos/3.png,bee,train", "photos/4.png,ant,train", "photos/copy.png,ant,test"]
    data = load(write(photos, "image,label,split", rows))
    assert data.left_out == {"duplicate": 2}
    kept = checked_data(data, "list.csv", drop="exact", allow=False, progress=False)
    assert kept.report.left_out == {"duplicate": 3}


def test_one_per_cent_may_be_missing(tmp_path: Path, write_image: Any) -> None:
    for number in range(300):
        write_image(tmp_path / f"{number}.png", width=16, height=16, seed=number)
    for missing in (3, 4):
        rows = [f"{n}.png,{NAMES[n % 2]}" for n in range(300 - missing)]
        rows += [f"gone{n}.png,ant" for n in range(missing)]
        file = tmp_path / "list.csv"
        file.write_text("\n".join(["image,label", *rows]))
        if missing == 3:
            assert load(file).left_out["missing"] == 3
        else:
            with pytest.raises(UserError, match="4 of 300 images are missing, at most 3 are left"):
                load(file)


@pytest.mark.parametrize(
    ("words", "sizes"),
    [
        (("train", "train", "train", "test"), (6, 0, 4)),
        (("Training", "TRAIN", "valid", "Test"), (6, 2, 2)),
        (("train", "train", "val", "val"), (6, 0, 4)),
        (("train", "train", "pred", "dev"), (6, 0, 2)),
    ],
)
def test_a_split_column(photos: Path, words: tuple[str, ...], sizes: tuple[int, ...]) -> None:
    split = [words[min(number // 2, 3) if number > 5 else 0] for number in range(10)]
    split = [*[words[0]] * 3, *[words[1]] * 3, *[words[2]] * 2, *[words[3]] * 2]
    if words[2] == "train":
        sizes = (8, 0, 2)
    rows = [f"{row(number)},{split[number]}" for number in range(10)]
    data = load(write(photos, "image,label,Subset", rows))
    validation = data.validation_images
    counts = (len(data.train_labels) - validation, validation, len(data.test_labels))
    assert counts == sizes
    assert data.test_paths == tuple(sorted(data.test_paths, key=lambda p: (WANTED[p], p)))


def test_groups_are_on_one_side_and_held_out_together(tmp_path: Path, write_image: Any) -> None:
    rows = []
    for number in range(60):
        write_image(tmp_path / f"{number:02}.png", seed=number)
        rows.append(f"{number:02}.png,{NAMES[number % 2]},{'' if number > 50 else number // 5}")
    (tmp_path / "list.csv").write_text("\n".join(["image,label,patient_id", *rows]))
    data = load(tmp_path / "list.csv")
    patient = {line.split(",")[0]: line.split(",")[2] for line in rows}
    test = {patient[path] for path in data.test_paths} - {""}
    assert test
    assert not test & {patient[path] for path in data.train_paths}
    assert all(count in (5, 6, 7) for count in Counter(data.test_labels.tolist()).values())
    trained, validated = held_out(data, 0.2)
    names = np.array([patient[path] for path in data.train_paths])
    assert len(validated)
    assert not ({*names[validated]} - {""}) & {*names[trained]}
    ungrouped = load(tmp_path / "list.csv", columns="group=")
    assert ungrouped.train_groups is None
    assert data.content_digest() != ungrouped.content_digest()


def test_copies_of_a_picture_join_their_groups(tmp_path: Path, write_image: Any) -> None:
    """The same picture of two patients: the pictures of both go to one side."""
    rows = []
    for number in range(40):
        seed = 7 if number in (8, 20) else number
        write_image(tmp_path / f"{number:02}.png", seed=seed)
        rows.append(f"{number:02}.png,{NAMES[number % 2]},{number // 4}")
    (tmp_path / "list.csv").write_text("\n".join(["image,label,patient", *rows]))
    for seed in range(4):
        data = load(tmp_path / "list.csv", split_seed=seed)
        test = {int(path[:2]) // 4 for path in data.test_paths}
        assert not test & {int(path[:2]) // 4 for path in data.train_paths}
        assert len(test & {2, 5, 1}) in (0, 3)


def test_groups_on_both_sides_may_be_allowed(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{row(n)},{('train', 'test')[n // 8]},p{n // 3}" for n in range(10)]
    file = write(photos, "image,label,split,group", rows)
    with pytest.raises(UserError, match="or --allow-leaks trains all the same"):
        load(file)
    data = load(file, allow_leaks=True)
    assert (len(data.train_labels), len(data.test_labels)) == (8, 2)
    assert "1 groups have images in several splits (p2)" in capsys.readouterr().out
    report = checked_data(data, str(file), drop="none", allow=True, progress=False).report
    assert report.warnings[0] == "1 groups have images in several splits (p2)"


def test_a_folder_with_a_list_beside_its_images(
    photos: Path, write_image: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(photos, "image,label", [row(number) for number in range(10)], "labels.csv")
    assert classes_by_path(load(photos.parent)) == WANTED
    assert f"the classes are those that {file} names" in capsys.readouterr().out
    (photos.parent / "notes.csv").write_text("date,who\n1,me\n")
    assert classes_by_path(load(photos.parent)) == WANTED
    second = write(photos, "image,label", [row(number) for number in range(10)], "other.csv")
    with pytest.raises(UserError, match=r"has the lists labels.csv, other.csv; expected one"):
        load(photos.parent)
    second.unlink()
    for number, name in enumerate(("x", "x", "y", "y")):
        write_image(photos.parent / name / f"{number}.png", seed=30 + number)
    capsys.readouterr()
    assert load(photos.parent).class_names == ("photos", "x", "y")
    said = capsys.readouterr().out
    assert "its class folders are read, and not labels.csv" in said
    chosen = load(photos.parent, columns="image=image,label=label")
    assert classes_by_path(chosen) == WANTED


def test_a_folder_with_one_list_for_each_split(photos: Path, write_image: Any) -> None:
    """As competitions give it: images in folders for splits, without folders for classes."""
    root = photos.parent
    photos.rename(root / "train")
    for number in range(4):
        write_image(root / "test" / f"t{number}.png", seed=40 + number)
    write(photos, "id,species", [row(n, "{},{}") for n in range(10)], "train.csv")
    write(photos, "id,species", [f"t{n},{NAMES[n % 2]}" for n in range(4)], "test.csv")
    write(photos, "id,species", [f"t{n},ant" for n in range(4)], "sample_submission.csv")
    data = load(root)
    assert (len(data.train_labels), len(data.test_labels)) == (10, 4)
    assert data.test_paths == ("test/t0.png", "test/t2.png", "test/t1.png", "test/t3.png")


def test_a_list_in_the_folder_of_each_split(photos: Path, write_image: Any) -> None:
    """As Hugging Face's folders of images have it."""
    root = photos.parent
    photos.rename(root / "train")
    for number in range(4):
        write_image(root / "test" / f"{number}.png", seed=40 + number)
    for split, count in (("train", 10), ("test", 4)):
        rows = [f"{number}.png,{NAMES[number % 2]}" for number in range(count)]
        write(photos, "file_name,label", rows, f"{split}/metadata.csv")
    data = load(root)
    assert (data.name, len(data.train_labels)) == ("zoo", 10)
    assert data.test_paths == ("test/0.png", "test/2.png", "test/1.png", "test/3.png")
    assert data.class_names == NAMES


def test_what_is_wrong_with_the_only_list_beside_images_is_said(photos: Path) -> None:
    write(photos, "a,b", [row(number) for number in range(10)])
    with pytest.raises(UserError, match="has no column whose name says that it holds the image"):
        load(photos.parent)


def test_options_that_do_not_fit(photos: Path, class_tree: Path) -> None:
    file = write(photos, "image,label", [row(number) for number in range(10)])
    with pytest.raises(UserError, match="names the classes itself"):
        load(file, classes="leaves")
    with pytest.raises(UserError, match="is for lists and tables"):
        load(class_tree, columns="label=x")
    with pytest.raises(UserError, match="is for lists and tables"):
        load_dataset("digits", columns="label=x")
    other = photos.parent / "list.json"
    other.write_text("[]")
    with pytest.raises(UserError, match="is none of what data may be: a folder, a list"):
        load(other)
