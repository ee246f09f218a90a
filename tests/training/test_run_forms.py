"""Runs on lists, parquet files, shards, tar and zip files: the weights are those of the folder."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from runtime.base.errors import UserError
from training import check_data, run
from training.config.plan import MovedData
from training.records.checkpoint import load_trained
from training.records.run_data import load_run_dataset

Tree = dict[str, bytes]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """Images of two classes by their paths; they also lie in the folder `pets`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    files = {}
    for number in range(24):
        pixels = generator.integers(0, 256, (20, 20, 3), dtype=np.uint8)
        path = Path("pets", ("cat", "dog")[number % 2], f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        files[path.relative_to("pets").as_posix()] = path.read_bytes()
    return files


def trained_on(data: str, options: list[str], *more: str) -> dict[str, torch.Tensor]:
    out = f"run-{len([*Path().glob('run-*')])}"
    command = [*options, "--data", data, "--image-size", "16", "--epochs", "1", "--out", out, *more]
    assert run.main(command) == 0
    return load_trained(Path(out)).student.state_dict()


def as_csv(tree: Tree) -> str:
    rows = [f"{path};{path.partition('/')[0]}" for path in tree]
    Path("pets", "what.csv").write_text("\n".join(["where;what", *rows]))
    return "pets/what.csv"


def as_zip(tree: Tree) -> str:
    with zipfile.ZipFile("pets.zip", "w") as archive:
        for path, content in tree.items():
            archive.writestr(path, content)
    return "pets.zip"


def as_shard(tree: Tree) -> str:
    with tarfile.open("pets.tar", "w") as archive:
        for path, content in tree.items():
            label = path.partition("/")[0].encode()
            for name, some in ((path, content), (path.replace(".png", ".cls"), label)):
                info = tarfile.TarInfo(name)
                info.size = len(some)
                archive.addfile(info, io.BytesIO(some))
    return "pets.tar"


def as_parquet(tree: Tree) -> str:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    images = [{"bytes": content, "path": path} for path, content in tree.items()]
    labels = [path.partition("/")[0] for path in tree]
    pyarrow.parquet.write_table(pa.table({"image": images, "label": labels}), "pets.parquet")
    return "pets.parquet"


@pytest.mark.parametrize("form", [as_csv, as_zip, as_shard, as_parquet])
def test_weights_are_the_same_in_every_form(
    tree: Tree, tiny_options: list[str], form: Callable[[Tree], str]
) -> None:
    wanted = trained_on("pets", tiny_options)
    columns = ["--columns", "image=where,label=what"] if form is as_csv else []
    found = trained_on(form(tree), tiny_options, *columns)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    # Each run is read with the other form of its data, too.
    runs = [load_trained(Path(name)) for name in ("run-0", "run-1")]
    for trained, data in ((runs[1], "pets"), *([] if columns else [(runs[0], form(tree))])):
        dataset = load_run_dataset(trained, MovedData(data))
        assert dataset.content_digest() == runs[0].plan.content_digest


def test_the_columns_of_a_run_go_with_it(
    tree: Tree, tiny_options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    columns = ("--columns", "image=where,label=what")
    trained_on(as_csv(tree), tiny_options, *columns)
    trained = load_trained(Path("run-0"))
    assert trained.plan.columns == "image=where,label=what"
    assert len(load_run_dataset(trained).train_labels) == 20
    result = json.loads(Path("run-0", "result.json").read_text())
    assert "--columns image=where,label=what" in result["command"]
    options = [*tiny_options, "--data", "pets/what.csv", "--image-size", "16", "--epochs", "1"]
    assert run.main([*options, *columns, "--out", "run-0", "--resume"]) == 0
    with pytest.raises(UserError, match="has no column whose name says"):
        run.main([*options, "--out", "run-0", "--resume"])
    capsys.readouterr()
    assert check_data.main(["pets/what.csv", *columns, "--image-size", "16", "--json"]) == 0
    classes = json.loads(capsys.readouterr().out)["classes"]
    assert [(entry["name"], entry["train"] + entry["test"]) for entry in classes] == [
        ("cat", 12),
        ("dog", 12),
    ]


def test_columns_that_cannot_be_read_are_one_line(tree: Tree, tiny_options: list[str]) -> None:
    with pytest.raises(UserError, match="received 'where', expected each of image, label"):
        run.main([*tiny_options, "--columns", "where"])


def test_a_list_that_is_a_link_keeps_its_folder(tree: Tree, tiny_options: list[str]) -> None:
    """Its paths are relative to the folder that the link lies in."""
    Path("lists").mkdir()
    Path(as_csv(tree)).rename("lists/what.csv")
    Path("pets", "what.csv").symlink_to(Path("lists/what.csv").absolute())
    trained_on("pets/what.csv", tiny_options, "--columns", "image=where,label=what")
    assert len(load_run_dataset(load_trained(Path("run-0"))).train_labels) == 20
