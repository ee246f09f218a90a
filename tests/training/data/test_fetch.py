"""Downloads: only if the files are absent; they are checked, and whole or absent."""

import functools
import hashlib
import http.server
import socket
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.base.errors import UserError
from training.data import data_names, load_dataset
from training.data.fetch import Archive, Published, download_archives, obtain


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def publisher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """URL and MD5 of an archive that holds `birds/list.txt`, on a server of its own."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    site = tmp_path / "site"
    (site / "birds").mkdir(parents=True)
    (site / "birds" / "list.txt").write_text("albatross")
    with tarfile.open(site / "birds.tgz", "w:gz") as archive:
        archive.add(site / "birds", "birds")
    handler = functools.partial(QuietHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        digest = hashlib.md5((site / "birds.tgz").read_bytes()).hexdigest()
        yield f"http://127.0.0.1:{server.server_address[1]}/birds.tgz", digest
        server.shutdown()
        thread.join()


def published(url: str, md5: str) -> Published:
    return Published(
        url=url,
        folders=("birds",),
        is_complete=lambda folder: (folder / "list.txt").is_file(),
        download=download_archives(Archive(url, md5)),
    )


# Python 3.12 and 3.13 announce the safer default of tarfile, which torchvision's code will get.
@pytest.mark.filterwarnings("ignore:Python 3.14 will:DeprecationWarning")
def test_absent_files_are_downloaded_once(
    publisher: tuple[str, str], cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = obtain("birds", published(*publisher), None)
    assert found == cache / "downloads" / "birds"
    assert (found / "list.txt").read_text() == "albatross"
    assert "downloading birds" in capfd.readouterr().out
    assert obtain("birds", published("http://127.0.0.1:9/", "0" * 32), None) == found
    assert "downloading" not in capfd.readouterr().out
    assert sorted(path.name for path in found.parent.iterdir()) == [".birds.lock", "birds"]


@pytest.mark.filterwarnings("ignore:Python 3.14 will:DeprecationWarning")
def test_files_in_a_data_root_are_used_and_downloads_go_there(
    publisher: tuple[str, str], tmp_path: Path, cache: Path
) -> None:
    root = tmp_path / "my data"
    root.mkdir()
    assert obtain("birds", published(*publisher), root) == root / "birds"
    assert obtain("birds", published("http://127.0.0.1:9/", ""), root / "birds") == root / "birds/."
    assert not cache.exists()


def test_a_wrong_checksum_is_one_clear_line_and_leaves_nothing(
    publisher: tuple[str, str], cache: Path
) -> None:
    with pytest.raises(UserError, match="cannot be downloaded") as error:
        obtain("birds", published(publisher[0], "0" * 32), None)
    assert "\n" not in str(error.value)
    assert [path.name for path in (cache / "downloads").iterdir()] == [".birds.lock"]


def test_an_archive_of_something_else_is_refused(publisher: tuple[str, str], cache: Path) -> None:
    other = Published(
        url=publisher[0],
        folders=("fish",),
        is_complete=lambda folder: (folder / "list.txt").is_file(),
        download=lambda folder: (folder / "fish").mkdir(),
    )
    with pytest.raises(UserError, match="does not hold what was expected"):
        obtain("fish", other, None)


def test_an_incomplete_copy_is_not_overwritten(publisher: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "root" / "birds" / "half").mkdir(parents=True)
    with pytest.raises(UserError, match="not the whole of birds"):
        obtain("birds", published(*publisher), tmp_path / "root")
    assert (tmp_path / "root" / "birds" / "half").is_dir()


def test_a_data_root_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder; make it or correct the path"):
        load_dataset("cifar100", data_root=tmp_path / "typo")


@pytest.mark.parametrize("name", [name for name in data_names() if name != "digits"])
def test_without_a_network_it_says_what_to_get_and_where_to_put_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*arguments: object, **options: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    (tmp_path / "root").mkdir()
    with pytest.raises(UserError, match=r"cannot be downloaded .*https?://.*unpack it to") as error:
        load_dataset(name, data_root=tmp_path / "root")
    assert str(tmp_path / "root") in str(error.value)
    assert "\n" not in str(error.value)
    assert [p.name for p in (tmp_path / "root").iterdir()] == [f".{name}.lock"]


@pytest.mark.parametrize("data", ["cifar1000", "", "no/such/folder"])
def test_unknown_names_are_answered_with_the_known_ones(data: str) -> None:
    with pytest.raises(UserError) as error:
        load_dataset(data)
    assert all(name in str(error.value) for name in data_names())
    assert "\n" not in str(error.value)
