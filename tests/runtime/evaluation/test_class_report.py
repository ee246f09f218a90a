"""What fails: CSV files and figures equal scikit-learn's, and the surest mistakes come first."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics

from runtime.evaluation.class_report import Answered, write_class_report
from runtime.model.figures import softmax

NAMES = ("cat", "dog", 'e"el', "fox, red", "never seen")
COUNT = 300


@pytest.fixture(scope="module")
def answered() -> Answered:
    """300 images of four of five classes, two thirds of them answered rightly."""
    generator = np.random.default_rng(0)
    labels = generator.choice(4, COUNT, p=(0.6, 0.25, 0.1, 0.05))
    logits = generator.normal(size=(COUNT, 5))
    logits[np.arange(COUNT), labels] += 1.5
    paths = [f"{NAMES[label]}/{row}.png" for row, label in enumerate(labels)]
    return Answered(NAMES, labels, softmax(logits), paths)


@pytest.fixture(scope="module")
def folder(answered: Answered, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_class_report(
        folder, answered, train=np.array([9, 8, 7, 6, 5]), validation=np.array([1, 2, 3, 4, 0])
    )
    return folder


def rows_of(file: Path) -> list[list[str]]:
    return list(csv.reader(io.StringIO(file.read_text(encoding="utf-8"))))


def test_classes_equal_scikit_learns(folder: Path, answered: Answered) -> None:
    head, *rows = rows_of(folder / "classes.csv")
    assert ",".join(head) == "class,train,validation,test,precision,recall,f1"
    predicted = answered.probabilities.argmax(axis=1)
    expected = metrics.precision_recall_fscore_support(
        answered.labels, predicted, labels=range(5), zero_division=0
    )
    assert [row[0] for row in rows] == list(NAMES)
    assert [int(row[1]) for row in rows] == [9, 8, 7, 6, 5]
    assert [int(row[2]) for row in rows] == [1, 2, 3, 4, 0]
    assert [int(row[3]) for row in rows] == expected[3].tolist()
    for column, values in zip((4, 5, 6), expected[:3], strict=True):
        assert [float(row[column]) for row in rows] == pytest.approx(values, abs=1e-12)


def test_confusion_equals_scikit_learns(folder: Path, answered: Answered) -> None:
    head, *rows = rows_of(folder / "confusion.csv")
    assert head == ["true", *NAMES]
    assert [row[0] for row in rows] == list(NAMES)
    predicted = answered.probabilities.argmax(axis=1)
    expected = metrics.confusion_matrix(answered.labels, predicted, labels=range(5))
    assert [[int(cell) for cell in row[1:]] for row in rows] == expected.tolist()


def test_means_equal_scikit_learns(answered: Answered) -> None:
    predicted = answered.probabilities.argmax(axis=1)
    found = answered.summary()
    assert found["images"] == COUNT
    assert found["top1"] == metrics.accuracy_score(answered.labels, predicted)
    expected = metrics.recall_score(answered.labels, predicted, labels=range(4), average="macro")
    assert found["balanced_accuracy"] == pytest.approx(expected)
    expected = metrics.f1_score(answered.labels, predicted, average="macro", zero_division=0)
    assert found["macro_f1"] == pytest.approx(expected)
    recall = metrics.recall_score(answered.labels, predicted, labels=range(4), average=None)
    assert found["worst_class"] == {
        "name": NAMES[int(recall.argmin())],
        "recall": pytest.approx(recall.min()),
    }


def test_every_mistake_is_a_row_and_the_surest_is_the_first(
    folder: Path, answered: Answered
) -> None:
    head, *rows = rows_of(folder / "errors.csv")
    assert ",".join(head) == "path,true,predicted,probability,true_probability"
    predicted = answered.probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != answered.labels)
    order = wrong[np.argsort(-answered.probabilities[wrong, predicted[wrong]])]
    assert [row[0] for row in rows] == [answered.paths[n] for n in order]
    assert [row[1] for row in rows] == [NAMES[answered.labels[n]] for n in order]
    assert [row[2] for row in rows] == [NAMES[predicted[n]] for n in order]
    own = answered.probabilities[order, answered.labels[order]]
    sure = answered.probabilities[order, predicted[order]]
    assert [float(row[3]) for row in rows] == pytest.approx(sure, abs=1e-6)
    assert [float(row[4]) for row in rows] == pytest.approx(own, abs=1e-6)


def test_of_equally_sure_mistakes_the_less_probable_label_is_first() -> None:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.7, 0.1, 0.2], [0.7, 0.1, 0.2], [0.2, 0.7, 0.1]])
    found = Answered(("a", "b", "c"), np.array([1, 1, 1, 1]), probabilities, list("wxyz"))
    assert [mistake.row for mistake in found.mistakes()] == [1, 2, 0]


def test_pairs_that_are_confused_are_told_in_words() -> None:
    labels = np.array([0] * 10 + [1] * 4 + [2])
    predicted = np.array([0] * 6 + [1] * 3 + [2] + [1, 1, 0, 0] + [0])
    found = Answered(("cat", "dog", "eel"), labels, np.eye(3)[predicted], [""] * 15)
    assert [pair.words for pair in found.most_confused(9)] == [
        "3 of the 10 images of 'cat' are taken for 'dog'",
        "2 of the 4 images of 'dog' are taken for 'cat'",
        "1 of the 10 images of 'cat' is taken for 'eel'",
        "the only image of 'eel' is taken for 'cat'",
    ]
    assert len(found.most_confused(2)) == 2


def test_without_mistakes_the_list_is_empty(tmp_path: Path) -> None:
    found = Answered(("a", "b"), np.array([0, 1]), np.eye(2), ["x", "y"])
    write_class_report(tmp_path, found)
    assert len(rows_of(tmp_path / "errors.csv")) == 1
    assert found.most_confused(5) == []
    assert rows_of(tmp_path / "classes.csv")[1] == ["a", "0", "0", "1", "1.0", "1.0", "1.0"]


@pytest.mark.parametrize(
    ("path", "written"),
    [
        ("caf\udce9.png", "caf\\xe9.png"),
        ("two\nlines.png", "two\nlines.png"),
        ("日本.png", "日本.png"),
        ('a "b", c.png', 'a "b", c.png'),
    ],
)
def test_odd_names_are_written_so_that_they_are_read(
    tmp_path: Path, path: str, written: str
) -> None:
    found = Answered(("a", "b"), np.array([0]), np.array([[0.1, 0.9]]), [path])
    write_class_report(tmp_path, found)
    assert rows_of(tmp_path / "errors.csv")[1][0] == written
