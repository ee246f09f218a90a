"""Every published data set, read from a small tree in its publisher's own layout."""

import gzip
import hashlib
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from scipy.io import savemat

from runtime.base.errors import UserError
from runtime.model.preprocess import preprocess
from training.data import Dataset, load_dataset, published_arrays, small_images
from training.data import load as load_module

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def load(name: str, root: Path, **options: Any) -> Dataset:
    return load_dataset(name, data_root=root, progress=False, **options)


def assert_split(dataset: Dataset, split: str, expected: list[tuple[Path, str]]) -> None:
    """The split holds exactly these files, each under the name of its class."""
    images, labels = getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_labels")
    stored = dataset.input
    if split == "train" and images.shape[1] != stored.size:
        side = images.shape[1]
        stored = type(stored)(size=side, resize=side, crop=side, mean=stored.mean, std=stored.std)
    found = [
        (image.tobytes(), dataset.class_names[label])
        for image, label in zip(images, labels, strict=True)
    ]
    assert sorted(found) == sorted(
        (preprocess(file, stored).tobytes(), name) for file, name in expected
    )


# Fashion-MNIST


def write_idx(file: Path, array: np.ndarray) -> None:
    content = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    content += array.tobytes()
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)


def write_fashion(folder: Path, suffix: str) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 20), ("t10k", 10)):
        arrays[split] = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        write_idx(folder / f"{split}-images-idx3-ubyte{suffix}", arrays[split])
        labels = (np.arange(count) % 10).astype(np.uint8)
        write_idx(folder / f"{split}-labels-idx1-ubyte{suffix}", labels)
    return arrays


@pytest.mark.parametrize(
    ("folder", "suffix"), [(".", ".gz"), ("FashionMNIST/raw", ""), ("fashion-mnist", ".gz")]
)
def test_fashion_mnist(tmp_path: Path, folder: str, suffix: str) -> None:
    root = tmp_path / "root"
    arrays = write_fashion(root / folder, suffix)
    dataset = load("fashion-mnist", root)
    assert dataset.input.size == 28
    assert dataset.class_names[9] == "Ankle boot"
    assert np.array_equal(dataset.train_images, np.repeat(arrays["train"][..., None], 3, axis=3))
    assert np.array_equal(dataset.test_images[..., 1], arrays["t10k"])
    assert dataset.test_labels.tolist() == list(range(10))


@pytest.mark.parametrize("content", [b"", b"text", b"\0\0\x0d\x01\0\0\0\x0a" + bytes(40)])
def test_a_damaged_idx_file_is_one_clear_line(tmp_path: Path, content: bytes) -> None:
    root = tmp_path / "root"
    write_fashion(root, ".gz")
    (root / "t10k-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte\.gz is not a") as error:
        load("fashion-mnist", root)
    assert "\n" not in str(error.value)


def test_a_truncated_idx_file_is_one_clear_line(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_fashion(root, ".gz")
    file = root / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(UserError, match="not a whole IDX file"):
        load("fashion-mnist", root)


@pytest.mark.parametrize(
    ("former", "name", "expected"),
    [
        ("train-labels-idx1", "train-images-idx3", "has 1 dimensions, expected 3"),
        ("t10k-labels-idx1", "train-labels-idx1", "20 training images and 10 labels of them"),
    ],
)
def test_idx_files_under_wrong_names_are_one_clear_line(
    tmp_path: Path, former: str, name: str, expected: str
) -> None:
    root = tmp_path / "root"
    write_fashion(root, "")
    (root / f"{name}-ubyte").write_bytes((root / f"{former}-ubyte").read_bytes())
    with pytest.raises(UserError, match=expected):
        load("fashion-mnist", root)


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_debians_files_are_found_and_whole() -> None:
    dataset = load_dataset("fashion-mnist", progress=False)
    assert dataset.train_images.shape == (60_000, 28, 28, 3)
    assert np.bincount(dataset.train_labels).tolist() == [6000] * 10
    assert np.bincount(dataset.test_labels).tolist() == [1000] * 10
    # Well-known figures of the data set.
    counts = np.bincount(dataset.train_images[..., 0].ravel(), minlength=256)
    values = np.arange(256) / 255
    mean = np.average(values, weights=counts)
    std = np.average((values - mean) ** 2, weights=counts) ** 0.5
    assert (mean, std) == pytest.approx((0.2860, 0.3530), abs=1e-4)
    assert dataset.input.mean == pytest.approx((mean,) * 3, abs=1e-4)
    assert dataset.input.std == pytest.approx((std,) * 3, abs=1e-4)


# CIFAR


def write_cifar(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Pickled batches as the publisher has them; torchvision is told their checksums."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    names = small_images._CIFAR_FILES[name]
    key = "labels" if name == "cifar10" else "fine_labels"
    num_classes = 10 if name == "cifar10" else 100
    wanted: dict[str, Any] = {"train": ([], []), "test": ([], [])}
    for file in names[:-1]:
        images = generator.integers(0, 256, (num_classes, 3, 32, 32), dtype=np.uint8)
        labels = generator.permutation(num_classes).tolist()
        batch = {"data": images.reshape(num_classes, -1), key: labels}
        (folder / file).write_bytes(pickle.dumps(batch))
        split = wanted["test" if "test" in file else "train"]
        split[0].append(images.transpose(0, 2, 3, 1))
        split[1].extend(labels)
    classes = [f"kind_{number}" for number in range(num_classes)]
    meta_key = "label_names" if name == "cifar10" else "fine_label_names"
    (folder / names[-1]).write_bytes(pickle.dumps({meta_key: classes}))

    def listed(file: str) -> list[str]:
        return [file, hashlib.md5((folder / file).read_bytes()).hexdigest()]

    torchvision_class = getattr(torchvision.datasets, name.upper())
    monkeypatch.setattr(
        torchvision_class, "train_list", [listed(f) for f in names[:-1] if "test" not in f]
    )
    monkeypatch.setattr(torchvision_class, "test_list", [listed(names[-2])])
    monkeypatch.setattr(
        torchvision_class,
        "meta",
        {"filename": names[-1], "key": meta_key, "md5": listed(names[-1])[1]},
    )
    return wanted


@pytest.mark.parametrize(
    ("name", "folder"),
    [("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python"), ("cifar100", ".")],
)
def test_cifar(tmp_path: Path, name: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    wanted = write_cifar(root / folder, name, monkeypatch)
    dataset = load(name, root)
    assert dataset.class_names[3] == "kind 3"
    for split in ("train", "test"):
        assert np.array_equal(getattr(dataset, f"{split}_images"), np.concatenate(wanted[split][0]))
        assert getattr(dataset, f"{split}_labels").tolist() == wanted[split][1]


def test_a_damaged_cifar_file_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    write_cifar(root, "cifar100", monkeypatch)
    (root / "train").write_bytes(b"other")
    with pytest.raises(UserError, match="corrupted") as error:
        load("cifar100", root)
    assert "\n" not in str(error.value)


def write_cifar_arrays(folder: Path, wanted: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    for split, (images, labels) in wanted.items():
        np.save(folder / f"{split}_images.npy", np.concatenate(images))
        np.save(folder / f"{split}_labels.npy", np.array(labels))
    (folder / "classes.txt").write_text("".join(f"kind_{number}\n" for number in range(100)))


def sums_of(images: np.ndarray) -> published_arrays.Sums:
    red, green, blue = (int(images[..., channel].sum(dtype=np.uint64)) for channel in range(3))
    return red, green, blue


@pytest.fixture
def both_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Data roots with one CIFAR-100 of noise, in the publisher's files and as arrays."""
    files, arrays = tmp_path / "files", tmp_path / "arrays"
    wanted = write_cifar(files / "cifar-100-python", "cifar100", monkeypatch)
    write_cifar_arrays(arrays / "cifar100-arrays", wanted)
    splits = {
        split: published_arrays.SplitFacts(
            1, sums_of(images[0]), sums_of(images[0].astype(np.uint64) ** 2)
        )
        for split, (images, _) in wanted.items()
    }
    names = tuple(f"kind {number}" for number in range(100))
    facts = published_arrays.ArrayFacts(names, splits)
    monkeypatch.setitem(published_arrays.ARRAY_FACTS, "cifar100", facts)
    return files, arrays


def test_published_pictures_are_the_same_data_set_as_arrays(both_forms: tuple[Path, Path]) -> None:
    files, arrays = (load("cifar100", root) for root in both_forms)
    assert arrays.name == files.name == "cifar100"
    assert arrays.content_digest() == files.content_digest()
    assert arrays.input == files.input


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("pixel", "the test pictures are others, by their sums"),
        ("label", "the test arrays: classes have 0 to 2 images"),
        ("class", "classes.txt names other classes"),
        ("broken", "the test arrays: "),
        ("head", "the test arrays: "),
    ],
)
def test_other_arrays_are_not_taken_for_the_published_ones(
    both_forms: tuple[Path, Path], change: str, why: str
) -> None:
    folder = both_forms[1] / "cifar100-arrays"
    images, labels = (np.load(folder / f"test_{what}.npy") for what in ("images", "labels"))
    if change == "pixel":
        images[-1, -1, -1, -1] ^= 1
        np.save(folder / "test_images.npy", images)
    elif change == "label":
        labels[0] = (labels[0] + 1) % 100
        np.save(folder / "test_labels.npy", labels)
    elif change == "class":
        text = (folder / "classes.txt").read_text()
        (folder / "classes.txt").write_text(text.replace("kind_99", "kind_100"))
    else:
        head = b"\x93NUMPY\x01\x00\x0d\x00{'descr': (((\n"
        damaged = b"no array" if change == "broken" else head
        (folder / "test_images.npy").write_bytes(damaged)
    with pytest.raises(UserError, match=f"not cifar100 as it was published.*{why}") as error:
        load("cifar100", both_forms[1])
    assert "\n" not in str(error.value)


def test_the_sums_of_cifar100_are_those_of_its_quoted_means_and_deviations() -> None:
    """As quoted to four digits by all who normalise with them; the sums give them to 16."""
    train = published_arrays.ARRAY_FACTS["cifar100"].splits["train"]
    pixels = 50_000 * 32 * 32
    means = np.array(train.sums) / 255 / pixels
    deviations = np.sqrt(np.array(train.sums_of_squares) / 255**2 / pixels - means**2)
    spec = load_module.PUBLISHED["cifar100"].geometry(32).input
    np.testing.assert_allclose(means, spec.mean, atol=5e-5)
    np.testing.assert_allclose(deviations, spec.std, atol=5e-5)
    assert len(set(published_arrays.ARRAY_FACTS["cifar100"].class_names)) == 100


# Photographs


def write_tiny_imagenet(root: Path, write_image: Any) -> None:
    base = root / "tiny-imagenet-200"
    numbers = ("n02124075", "n01443537", "n09999999")
    for position, number in enumerate(numbers):
        for n in range(3):
            seed = 10 * position + n
            write_image(
                base / "train" / number / "images" / f"{number}_{n}.JPEG",
                width=64,
                height=64,
                seed=seed,
            )
    (base / "wnids.txt").write_text("\n".join(numbers) + "\n")
    (base / "words.txt").write_text(
        "n00001740\tentity\nn01443537\tgoldfish, Carassius auratus\n"
        "n02124075\tcrane\nn09999999\tcrane, lifting device\n"
    )
    rows = []
    for n in range(4):
        write_image(base / "val" / "images" / f"val_{n}.JPEG", width=64, height=64, seed=50 + n)
        rows.append(f"val_{n}.JPEG\t{numbers[n % 3]}\t0\t32\t44\t62\n")
    (base / "val" / "val_annotations.txt").write_text("".join(rows))
    write_image(base / "test" / "images" / "test_0.JPEG", width=64, height=64, seed=60)


def test_tiny_imagenet(tmp_path: Path, write_image: Any) -> None:
    write_tiny_imagenet(tmp_path / "root", write_image)
    dataset = load("tiny-imagenet", tmp_path / "root")
    base = tmp_path / "root" / "tiny-imagenet-200"
    names = {
        "n01443537": "goldfish",
        "n02124075": "crane (n02124075)",
        "n09999999": "crane (n09999999)",
    }
    assert dataset.input.size == 64
    assert dataset.class_names == tuple(names[number] for number in sorted(names))
    assert_split(
        dataset, "train", [(f, names[f.name[:9]]) for f in (base / "train").rglob("*.JPEG")]
    )
    order = ("n02124075", "n01443537", "n09999999", "n02124075")
    assert_split(
        dataset,
        "test",
        [(base / "val" / "images" / f"val_{n}.JPEG", names[order[n]]) for n in range(4)],
    )


def write_dogs(root: Path, write_image: Any, lists: str) -> dict[str, list[tuple[str, int]]]:
    """Files and labels of both lists, which are not in any order."""
    breeds = ("n02085620-Chihuahua", "n02085782-Japanese_spaniel")
    rows: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
    for label, breed in enumerate(breeds, start=1):
        for n in range(5):
            file = f"{breed}/{breed[:9]}_{n}.jpg"
            write_image(root / "Images" / file, seed=10 * label + n)
            rows["test" if n in (1, 4) else "train"].append((file, label))
    for word, listed in rows.items():
        listed.reverse()
        columns = {
            "file_list": np.array([[file] for file, _ in listed], dtype=object),
            "annotation_list": np.array([[file[:-4]] for file, _ in listed], dtype=object),
            "labels": np.array([[label] for _, label in listed], dtype=np.uint8),
        }
        target = root / lists / f"{word}_list.mat"
        target.parent.mkdir(exist_ok=True)
        savemat(target, columns)
    return rows


@pytest.mark.parametrize(("folder", "lists"), [(".", "."), ("stanford-dogs", "lists")])
def test_stanford_dogs(tmp_path: Path, write_image: Any, folder: str, lists: str) -> None:
    base = tmp_path / "root" / folder
    rows = write_dogs(base, write_image, lists)
    dataset = load("stanford-dogs", tmp_path / "root", image_size=72)
    assert dataset.class_names == ("Chihuahua", "Japanese spaniel")
    for split in ("train", "test"):
        assert_split(
            dataset,
            split,
            [(base / "Images" / f, dataset.class_names[label - 1]) for f, label in rows[split]],
        )


def write_cub(base: Path, write_image: Any) -> list[tuple[Path, str, bool]]:
    folders = ("001.Black_footed_Albatross", "002.Laysan_Albatross")
    rows = []
    for label, folder in enumerate(folders):
        for n in range(4):
            file = write_image(base / "images" / folder / f"bird_{n}.jpg", seed=10 * label + n)
            rows.append((file, folder, n % 2 == 0))
    numbered = list(enumerate(rows, start=1))
    (base / "classes.txt").write_text("".join(f"{i} {f}\n" for i, f in enumerate(folders, 1)))
    (base / "images.txt").write_text(
        "".join(f"{i} {folder}/{file.name}\n" for i, (file, folder, _) in numbered)
    )
    (base / "image_class_labels.txt").write_text(
        "".join(f"{i} {int(folder[:3])}\n" for i, (_, folder, _) in numbered)
    )
    (base / "train_test_split.txt").write_text(
        "".join(f"{i} {int(training)}\n" for i, (_, _, training) in numbered)
    )
    return [(file, folder[4:].replace("_", " "), training) for file, folder, training in rows]


def test_cub200_uses_the_official_split(tmp_path: Path, write_image: Any) -> None:
    rows = write_cub(tmp_path / "root" / "CUB_200_2011", write_image)
    dataset = load("cub200", tmp_path / "root", image_size=72)
    assert dataset.class_names == ("Black footed Albatross", "Laysan Albatross")
    assert_split(dataset, "train", [(f, name) for f, name, training in rows if training])
    assert_split(dataset, "test", [(f, name) for f, name, training in rows if not training])
    assert set(dataset.train_labels) == set(dataset.test_labels) == {0, 1}


def test_caltech101_trains_on_thirty_images_a_class(tmp_path: Path, write_image: Any) -> None:
    base = tmp_path / "root" / "caltech101" / "101_ObjectCategories"
    counts = {"accordion": 33, "brain": 31, "BACKGROUND_Google": 5}
    for position, (name, count) in enumerate(counts.items()):
        for n in range(1, count + 1):
            write_image(
                base / name / f"image_{n:04d}.jpg", width=20, height=20, seed=100 * position + n
            )
    dataset = load("caltech101", tmp_path / "root", image_size=24)
    assert dataset.class_names == ("accordion", "brain")
    assert np.bincount(dataset.train_labels).tolist() == [30, 30]
    assert np.bincount(dataset.test_labels).tolist() == [3, 1]
    train = {image.tobytes() for image in dataset.train_images}
    assert not train & {image.tobytes() for image in dataset.test_images}
    again = load("caltech101", tmp_path / "root", image_size=24, split_seed=0)
    other = load("caltech101", tmp_path / "root", image_size=24, split_seed=1)
    assert np.array_equal(again.test_images, dataset.test_images)
    assert not np.array_equal(other.test_images, dataset.test_images)
    for file in sorted((base / "brain").iterdir())[:1]:
        file.unlink()
    with pytest.raises(UserError, match="brain has 30 images, expected more than 30"):
        load("caltech101", tmp_path / "root", image_size=24)


def test_imagenette(tmp_path: Path, write_image: Any) -> None:
    base = tmp_path / "root" / "imagenette2-320"
    names = {"n01440764": "tench", "n03888257": "parachute", "n03394916": "French horn"}
    rows: dict[str, list[tuple[Path, str]]] = {"train": [], "val": []}
    from training.data.photo_sets import IMAGENETTE_CLASSES

    for position, number in enumerate(IMAGENETTE_CLASSES):
        for n, split in enumerate(("train", "train", "val")):
            file = base / split / number / f"{number}_{n}.JPEG"
            write_image(file, seed=10 * position + n)
            rows[split].append((file, IMAGENETTE_CLASSES[number]))
    dataset = load("imagenette", tmp_path / "root", image_size=72)
    assert all(IMAGENETTE_CLASSES[number] == name for number, name in names.items())
    assert_split(dataset, "train", rows["train"])
    assert_split(dataset, "test", rows["val"])


def spoil_cub(root: Path) -> None:
    file = root / "CUB_200_2011" / "image_class_labels.txt"
    file.write_text(file.read_text().replace("3 1\n", "3 7\n"))


def shorten_cub(root: Path) -> None:
    file = root / "CUB_200_2011" / "train_test_split.txt"
    file.write_text("1 1\n2 0\n")


def garble_cub(root: Path) -> None:
    (root / "CUB_200_2011" / "classes.txt").write_text("one two three\n")


@pytest.mark.parametrize("spoil", [spoil_cub, shorten_cub, garble_cub])
def test_lists_that_do_not_fit_are_one_clear_line(
    tmp_path: Path, write_image: Any, spoil: Callable[[Path], None]
) -> None:
    write_cub(tmp_path / "root" / "CUB_200_2011", write_image)
    spoil(tmp_path / "root")
    with pytest.raises(UserError, match="not laid out as cub200 is published") as error:
        load("cub200", tmp_path / "root")
    assert "\n" not in str(error.value)


def test_a_listed_image_that_is_missing_counts_as_broken(
    tmp_path: Path, write_image: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_cub(tmp_path / "root" / "CUB_200_2011", write_image)
    rows[0][0].unlink()
    dataset = load("cub200", tmp_path / "root", image_size=72)
    assert len(dataset.train_labels) == 3
    assert f"skipped {rows[0][0]}" in capsys.readouterr().out
