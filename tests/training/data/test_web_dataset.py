"""WebDataset shards: where classes and splits come from, and what is refused."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.base.errors import UserError
from training.data import Dataset, load_dataset
from training.data.brace_patterns import is_pattern, names_of

Sample = tuple[str, dict[str, bytes]]


def load(path: Path, **options: Any) -> Dataset:
    return load_dataset(str(path), image_size=16, progress=True, **options)


@pytest.fixture
def shard(tmp_path: Path, write_image: Any) -> Callable[..., Path]:
    """`shard(name, ending, contents)` writes a shard of samples 000, 001...; None: no label."""

    def write(name: str, ending: str, contents: list[str | None], seed: int = 0) -> Path:
        path = tmp_path / "shards" / name
        path.parent.mkdir(exist_ok=True)
        with tarfile.open(path, "w") as archive:
            for number, text in enumerate(contents):
                picture = write_image(tmp_path / "one.png", seed=seed + number).read_bytes()
                files = {f"{number:03}.png": picture}
                if text is not None:
                    files[f"{number:03}.{ending}"] = text.encode()
                for member, content in files.items():
                    info = tarfile.TarInfo(member)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        return path

    return write


@pytest.mark.parametrize(
    ("ending", "texts", "classes"),
    [
        ("cls", ["10\n", "2", "10", "2"], ("10", "2")),
        ("txt", ["cat", " dog ", "cat", "dog"], ("cat", "dog")),
        (
            "json",
            ['"cat"', '"dog"', '{"label": "cat"}', '{"cls": "dog"}'],
            ("cat", "dog"),
        ),
        ("json", ['{"class": 1, "a": []}', '{"class": 2}'] * 2, ("1", "2")),
        ("meta.json", ['{"class_name": "x"}', '{"label": "y"}'] * 2, ("x", "y")),
    ],
)
def test_classes(
    shard: Callable[..., Path], ending: str, texts: list[str], classes: tuple[str, ...]
) -> None:
    assert load(shard("a.tar", ending, texts)).class_names == classes


def test_keys_of_json_are_named_and_groups_kept(shard: Callable[..., Path]) -> None:
    texts = [f'{{"label": "x", "kind": "{"ab"[n % 2]}", "who": {n // 4}}}' for n in range(16)]
    data = load(shard("a.tar", "json", texts), columns="label=kind,group=who")
    assert data.class_names == ("a", "b")
    test = {int(path[:3]) // 4 for path in data.test_paths}
    assert not test & {int(path[:3]) // 4 for path in data.train_paths}


def beside(path: Path, ending: str, texts: list[str | None]) -> Path:
    """The shard with a second file beside each picture that has a text here."""
    with tarfile.open(path, "a") as archive:
        for number, text in enumerate(texts):
            if text is not None:
                info = tarfile.TarInfo(f"{number:03}.{ending}")
                info.size = len(text.encode())
                archive.addfile(info, io.BytesIO(text.encode()))
    return path


def test_json_beside_cls_says_group_and_split_and_a_named_class(
    shard: Callable[..., Path],
) -> None:
    says = [
        json.dumps({"patient": n // 4, "kind": "ab"[n % 2], "split": "test" if n >= 8 else "train"})
        for n in range(16)
    ]
    path = beside(shard("a.tar", "cls", ["x", "y"] * 8), "json", [*says])
    data = load(path)
    assert data.class_names == ("x", "y")
    assert sorted(int(name[:3]) for name in data.test_paths) == [*range(8, 16)]
    data = load(path, columns="label=kind,split=")
    assert data.class_names == ("a", "b")
    test = {int(name[:3]) // 4 for name in data.test_paths}
    assert test
    assert not test & {int(name[:3]) // 4 for name in data.train_paths}
    with pytest.raises(UserError, match=r"000.json has no column 'who'; found"):
        load(path, columns="group=who")


@pytest.mark.parametrize(
    ("plain", "texts", "other", "said"),
    [
        ("cls", ["cat", "dog"], "noisy.cls", ["web1", "web2"]),
        ("json", ['{"label": "cat"}', '{"label": "dog"}'], "aug.json", ['{"type": "flip"}'] * 2),
        ("json", ['{"label": "cat"}', '{"label": "dog"}'], "old.cls", ["x", "y"]),
        ("txt", ["cat", "dog"], "en.txt", ["a cat", "a dog"]),
        ("txt", ["cat", "dog"], "aug.json", ['{"type": "flip"}'] * 2),
    ],
)
def test_a_plain_ending_states_the_class(
    shard: Callable[..., Path], plain: str, texts: list[str], other: str, said: list[str | None]
) -> None:
    assert load(beside(shard("a.tar", plain, texts * 4), other, said * 4)).class_names == (
        "cat",
        "dog",
    )
    first = shard("b.tar", other, [*said * 4])
    assert load(beside(first, plain, [*texts * 4])).class_names == ("cat", "dog")


def test_of_several_endings_in_two_parts_none_states_the_class(shard: Callable[..., Path]) -> None:
    path = beside(shard("a.tar", "fine.cls", ["x", "y"] * 4), "coarse.cls", ["p"] * 8)
    with pytest.raises(UserError, match=r"000: 000.fine.cls or 000.coarse.cls may state the class"):
        load(path)
    path = beside(shard("b.tar", "meta.json", ['{"label": "x"}'] * 8), "caption.txt", ["p"] * 8)
    with pytest.raises(UserError, match=r"expected one file that does, such as 000\.json"):
        load(path)
    path = beside(path, "json", ['{"kind": "x"}', '{"kind": "y"}'] * 4)
    assert load(path, columns="label=kind").class_names == ("x", "y")
    both = beside(shard("c.tar", "a.json", ['{"label": "x"}'] * 8), "b.json", ["{}"] * 8)
    with pytest.raises(UserError, match=r"has several .json files, and --columns names 'label'"):
        load(both, columns="label=label")


def test_columns_that_no_json_file_has_are_refused(shard: Callable[..., Path]) -> None:
    path = shard("a.tar", "cls", ["x", "y"] * 8)
    with pytest.raises(UserError, match=r"000: has no .json file with keys, and --columns na"):
        load(path, columns="group=who")
    lists = beside(path, "json", ["[1, 2]"] * 16)
    assert load(lists).class_names == ("x", "y")
    with pytest.raises(UserError, match=r"has no .json file with keys"):
        load(lists, columns="label=kind")


def test_splits_by_the_names_of_shards(shard: Callable[..., Path]) -> None:
    shard("pets-train-000.tar", "cls", ["a", "b"] * 3)
    shard("pets-train-001.tar", "cls", ["a", "b"] * 2, seed=10)
    folder = shard("pets-val-000.tar", "cls", ["a", "b", "b"], seed=20).parent
    data = load(folder)
    assert (data.name, len(data.train_labels), len(data.test_labels)) == ("shards", 10, 3)
    # Shards number their samples alike: the paths begin with the shard where they must.
    assert data.train_paths[:2] == ("pets-train-000.tar/000.png", "pets-train-001.tar/000.png")
    shard("other.tar", "cls", ["a", "b"])
    with pytest.raises(UserError, match=r"the names of other.tar say no split, and others do"):
        load(folder)


def test_shards_are_read_beside_a_folder_of_tables(shard: Callable[..., Path]) -> None:
    folder = shard("pets.tar", "cls", ["a", "b"] * 4).parent
    for name in ("facts", "notes"):
        (folder / name).mkdir()
        (folder / name / "all.parquet").touch()
    assert load(folder).class_names == ("a", "b")


def test_patterns(shard: Callable[..., Path]) -> None:
    folder = shard("p-08.tar", "cls", ["a", "b"] * 2).parent
    shard("p-09.tar", "cls", ["a", "b"] * 2, seed=10)
    shard("p-10.tar", "cls", ["a", "b"] * 2, seed=20)
    assert len(load(folder / "p-{08..10}.tar").train_labels) == 10
    assert len(load(folder / "p-{08,10}.tar").train_labels) == 6
    with pytest.raises(UserError, match=r"stands for 3 files, and 1 of them are not there, first"):
        load(folder / "p-{09..11}.tar")
    assert [*names_of("{a,b}-{8..10}{x}")] == [
        f"{letter}-{number}{{x}}" for letter in "ab" for number in (8, 9, 10)
    ]
    assert [*names_of("{008..010}")] == ["008", "009", "010"]
    assert not is_pattern("{x}.tar")
    assert not is_pattern("{0..99999999999}.tar")


@pytest.mark.parametrize(
    ("ending", "texts", "message"),
    [
        ("json", ['{"label": ["a", "b"]}', '{"label": "a"}'], r"the class is \['a', 'b'\]"),
        ("json", ['{"no": 1}', '{"label": "a"}'], "000.json has no column whose name says"),
        ("json", ["{", '{"label": "a"}'], "a.tar/000.json: no JSON"),
        ("txt", ["a|b", "a"], r"the class 'a\|b' looks like several"),
        ("png.cls", ["a", "b"], "class 'a' has one image"),
    ],
)
def test_mistakes(shard: Callable[..., Path], ending: str, texts: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(shard("a.tar", ending, texts))


def test_what_is_left_out(shard: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = shard("a.tar", "cls", ["a", "b", "a", "b", None, "", "a"])
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("100.cls")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"a"))
    data = load(path)
    assert data.left_out == {"not an image": 1, "unlabelled": 2}
    said = capsys.readouterr().out
    assert "1 samples without a picture left out" in said
    assert "2 images without a class left out" in said


def test_two_pictures_in_a_sample(shard: Callable[..., Path]) -> None:
    path = shard("a.tar", "cls", ["a", "b"] * 2)
    with tarfile.open(path) as archive:
        content = archive.extractfile("000.png").read()  # type: ignore[union-attr]
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("000.mask.png")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    with pytest.raises(UserError, match=r"has the pictures 000.png and 000.mask.png; expected one"):
        load(path)


def test_several_tar_files_of_no_samples(shard: Callable[..., Path]) -> None:
    shard("a.tar", "cls", [None, None])
    with pytest.raises(UserError, match="none of its 2 tar files has a picture with its class"):
        load(shard("b.tar", "cls", [None, None]).parent)


@pytest.mark.parametrize("wrapper", ["", "pets/"])
def test_captions_in_class_folders_are_no_classes(
    tmp_path: Path, write_image: Any, capsys: pytest.CaptureFixture[str], wrapper: str
) -> None:
    for ending, classes in (("txt", ("cat", "dog")), ("cls", ("x", "y"))):
        path = tmp_path / f"{ending}.tar"
        with tarfile.open(path, "w") as archive:
            for number in range(16):
                name = f"{wrapper}{('cat', 'dog')[number % 2]}/{number}"
                archive.add(write_image(tmp_path / "one.png", seed=number), f"{name}.png")
                (tmp_path / "label").write_text("xy"[number % 2] if ending == "cls" else "outdoors")
                archive.add(tmp_path / "label", f"{name}.{ending}")
        assert load(path).class_names == classes
    said = capsys.readouterr().out
    assert "its class folders are read, and not the 16 .txt files beside pictures" in said


@pytest.mark.parametrize(
    ("folders", "texts", "classes", "warned"),
    [
        (("cat", "dog"), ("{}",), ("cat", "dog"), False),  # the picture's own number
        (("cat", "dog"), ("it is {}, d\xe9j\xe0 vu",), ("cat", "dog"), False),  # in Latin-1
        (("00000", "00001"), ("cat", "dog"), ("cat", "dog"), False),  # parts of the data
        (("cat", "dog"), ("cat", "dog"), ("cat", "dog"), False),
        (("0", "1"), ("it is {}",), ("0", "1"), False),  # each picture has a caption of its own
        (("cat", "dog"), ("indoors", "outdoors"), ("cat", "dog"), True),
    ],
)
def test_texts_in_folders_mean_the_same_in_one_shard_and_in_two(
    tmp_path: Path,
    write_image: Any,
    folders: tuple[str, ...],
    texts: tuple[str, ...],
    classes: tuple[str, ...],
    warned: bool,
) -> None:
    (tmp_path / "two").mkdir()
    names = [tmp_path / "two" / f"{number}.tar" for number in range(2)]
    with (
        tarfile.open(tmp_path / "one.tar", "w") as whole,
        tarfile.open(names[0], "w") as first,
        tarfile.open(names[1], "w") as second,
    ):
        for number in range(16):
            name = f"{folders[number % 2]}/{number}"
            text = texts[(number // 2 if warned else number) % len(texts)].format(number)
            (tmp_path / "label").write_bytes(text.encode("latin-1"))
            picture = write_image(tmp_path / "one.png", seed=number)
            for archive in (whole, first if number < 8 else second):
                archive.add(picture, f"{name}.png")
                archive.add(tmp_path / "label", f"{name}.txt")
    data = load(tmp_path / "one.tar")
    assert data.class_names == classes
    said = [warning for warning in data.warnings if "and not the 16 .txt files" in warning]
    assert len(said) == warned
    if classes == folders != texts:
        with pytest.raises(UserError, match="expected one tar file of folders instead of 2, or"):
            load(tmp_path / "two")
    else:
        assert load(tmp_path / "two").class_names == classes
