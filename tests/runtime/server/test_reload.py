"""Several bundles in one server, and a bundle that is replaced while the server answers."""

import fcntl
import gc
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import httpx
import msgspec
import numpy as np
import onnx
import pytest
from live_server import running, serving
from onnx import numpy_helper

from runtime import Batcher, open_classifier
from runtime.base.errors import UserError
from runtime.base.files import atomic_folder, sha256_of
from runtime.model.bundle import read_card, write_card
from runtime.server.api import build_api
from runtime.server.reloading import Reloader, source_of, state_of
from runtime.server.served_models import ServedModel, ServedModels

SECONDS = 60 if os.environ.get("SKD_EDGE_NIGHTLY") else 5  # of load, for each way
Answer = tuple[Any, ...]


def variant(source: Path, target: Path, factor: float) -> Path:
    """A copy of the toy bundle that answers other labels with other probabilities."""
    shutil.copytree(source, target)
    file = target / "model.onnx"
    network = onnx.load(file)
    for constant in network.graph.initializer:
        if constant.name == "weight":
            weight = numpy_helper.to_array(constant) * np.float32(factor)
            constant.CopyFrom(numpy_helper.from_array(weight, "weight"))
    onnx.save(network, file)
    card = read_card(target)
    (fp32,) = [record for record in card.files if record.precision == "fp32"]
    fp32 = msgspec.structs.replace(fp32, sha256=sha256_of(file))
    names = tuple(f"{name} {factor}" for name in card.class_names)
    write_card(target, msgspec.structs.replace(card, class_names=names, files=(fp32,)))
    return target


@pytest.fixture(scope="module")
def variants(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("variants")
    return variant(toy_bundle, folder / "old", 1.0), variant(toy_bundle, folder / "new", 2.0)


def pictures_of(bundle: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((bundle / "examples").iterdir())]


def v1_answers(client: httpx.Client, name: str, pictures: list[bytes]) -> Answer:
    files = [("images", (f"{i}.png", picture)) for i, picture in enumerate(pictures)]
    answer = client.post(f"/v1/classify?top_k=1&model={name}", files=files)
    if answer.status_code != 200:
        return (answer.status_code, answer.text)
    assert answer.json()["model"] == name
    return tuple(
        (result["predictions"][0]["label"], result["predictions"][0]["probability"])
        for result in answer.json()["results"]
    )


def v2_answers(client: httpx.Client, name: str, pictures: list[bytes]) -> Answer:
    content = b"".join(struct.pack("<I", len(p)) + p for p in pictures)
    sized = {"name": "encoded", "datatype": "BYTES", "shape": [len(pictures)]}
    sized["parameters"] = {"binary_data_size": len(content)}
    head = json.dumps({"inputs": [sized]}).encode()
    answer = client.post(
        f"/v2/models/{name}-encoded/versions/1/infer",
        content=head + content,
        headers={"Inference-Header-Content-Length": str(len(head))},
    )
    if answer.status_code != 200:
        return (answer.status_code, answer.text)
    return tuple(answer.json()["outputs"][0]["data"])


def expected_answers(bundle: Path, pictures: list[bytes]) -> tuple[Answer, Answer]:
    """What `v1_answers` and `v2_answers` give for this bundle."""
    with open_classifier(bundle) as classifier:
        rows = classifier.probabilities(np.stack([*map(classifier.prepare, pictures)]))
        best = [classifier.rank(row, 1)[0] for row in rows]
    return tuple((p.label, p.probability) for p in best), tuple(rows.ravel().tolist())


def replace_whole(place: Path, source: Path) -> None:
    with atomic_folder(place) as staging:
        shutil.copytree(source, staging, dirs_exist_ok=True)


def version_of(client: httpx.Client, name: str) -> int:
    return int(client.get(f"/v1/model?model={name}").json()["version"])


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


def resident_mb(process: subprocess.Popen[str]) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]


def failures_of(client: httpx.Client, name: str) -> float:
    text = client.get("/metrics").text
    return float(re.search(rf'skd_edge_failed_reloads{{model="{name}"}} (\S+)', text)[1])  # type: ignore[index]


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("way", ["SIGHUP", "--watch"])
def test_a_replaced_bundle_drops_no_request(
    variants: tuple[Path, Path], tmp_path: Path, way: str
) -> None:
    old, new = variants
    place = tmp_path / "bundle"
    shutil.copytree(old, place)
    pictures = pictures_of(old)
    allowed = [expected_answers(bundle, pictures) for bundle in variants]
    seen: dict[str, set[Answer]] = {"v1": set(), "v2": set(), "other": set()}
    stop = threading.Event()
    watch = ("--watch",) if way == "--watch" else ()
    told = tmp_path / "errors.txt"
    options = ("--names", "first", "second", *watch)
    with running(place, old, *options, errors=told) as (process, address):

        def ask(kind: str, call: Callable[..., Answer], name: str) -> None:
            with httpx.Client(base_url=address, timeout=30) as client:
                while not stop.is_set():
                    seen[kind].add(call(client, name, pictures))

        clients = [("v1", v1_answers, "first"), ("v2", v2_answers, "first")] * 2
        threads = [
            threading.Thread(target=ask, args=arguments)
            for arguments in [*clients, ("other", v1_answers, "second")]
        ]
        for thread in threads:
            thread.start()
        with httpx.Client(base_url=address, timeout=30) as client:
            began, version, memory = time.monotonic(), 1, [resident_mb(process)]
            while time.monotonic() < began + SECONDS:
                replace_whole(place, new if version % 2 else old)
                if way == "SIGHUP":
                    process.send_signal(signal.SIGHUP)
                version += 1
                wait_for(lambda: version_of(client, "first") >= version)  # noqa: B023
                memory.append(resident_mb(process))
            assert version >= 3
            # Without --watch, SIGHUP loads both models. With it, only the one that was replaced.
            assert (version_of(client, "second") > 1) == (way == "SIGHUP")
        stop.set()
        for thread in threads:
            thread.join()
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
        errors = told.read_text()
        assert process.returncode == 0, errors
    print(f"resident MB after each reload: {memory}")
    assert memory[-1] < memory[1] + 30
    assert seen["v1"] == {answers for answers, _ in allowed}
    assert seen["v2"] == {answers for _, answers in allowed}
    assert seen["other"] == {allowed[0][0]}
    assert errors.count("first: version ") == version - 1


def test_a_damaged_or_half_copied_bundle_leaves_the_old_one_serving(
    variants: tuple[Path, Path], tmp_path: Path
) -> None:
    old, new = variants
    place = tmp_path / "bundle"
    shutil.copytree(old, place)
    pictures = pictures_of(old)
    before, after = (expected_answers(bundle, pictures)[0] for bundle in variants)
    with (
        running(place, "--watch") as (process, address),
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        name = client.get("/v1/model").json()["name"]
        whole = (new / "model.onnx").read_bytes()
        (place / "model.onnx").write_bytes(whole[:100])
        wait_for(lambda: failures_of(client, name) == 1)
        assert v1_answers(client, name, pictures) == before
        (place / "model.onnx").write_bytes(whole)  # of the new bundle, beside the old card
        wait_for(lambda: failures_of(client, name) == 2)
        assert v1_answers(client, name, pictures) == before
        time.sleep(2.5)  # what failed is not tried again and again
        assert failures_of(client, name) == 2
        shutil.copy(new / "card.json", place)
        wait_for(lambda: version_of(client, name) == 2)
        assert v1_answers(client, name, pictures) == after
        shutil.rmtree(place)
        wait_for(lambda: failures_of(client, name) == 3)
        assert v1_answers(client, name, pictures) == after
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: failures_of(client, name) == 4)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    lines = errors.splitlines()
    assert len(lines) == 5, errors
    assert f"{name}: the new model cannot be loaded, version 1 goes on answering" in lines[0]
    assert "model.onnx is not the file that the card lists" in lines[0]
    assert f"{name}: version 2 answers" in lines[2]
    assert "does not exist" in lines[3]


def test_the_former_model_is_freed(variants: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = variants
    place = tmp_path / "bundle"
    shutil.copytree(old, place)
    notes: list[str] = []

    def opened(path: Path | None) -> Batcher:
        return Batcher(open_classifier(path))

    state = state_of(place)
    served = ServedModel("toy", opened(place))
    models = ServedModels([served])
    source = source_of(served, place, state)
    pictures = pictures_of(old)
    before, after = (expected_answers(bundle, pictures)[0] for bundle in variants)
    former = weakref.ref(served.current.batcher.classifier)
    session = weakref.ref(served.current.batcher.classifier.session)
    with (
        Reloader([source], opened, watch=False, note=notes.append) as reloader,
        serving(build_api(models)) as client,
    ):
        assert v1_answers(client, "toy", pictures) == before
        replace_whole(place, new)
        reloader.request()
        wait_for(lambda: len(notes) == 1)
        assert v1_answers(client, "toy", pictures) == after

        def is_freed() -> bool:
            gc.collect()
            return former() is None and session() is None

        wait_for(is_freed)
        assert "skd_edge_batch_size_sum 6.0" in client.get("/metrics").text  # both were counted
    served.close()


def test_names(variants: tuple[Path, Path], cli: Callable[..., CompletedProcess[str]]) -> None:
    old, new = variants
    same = cli("serve", old, new, "--port", "0")
    assert same.returncode == 2
    assert same.stderr.count("\n") == 1
    assert "two models are called 'colours-toy'" in same.stderr
    assert "--names" in same.stderr
    fewer = cli("serve", old, new, "--names", "one", "--port", "0")
    assert (fewer.returncode, "1 names for 2 models" in fewer.stderr) == (2, True)
    bad = cli("serve", old, "--names", "a/b", "--port", "0")
    assert (bad.returncode, "'a/b'" in bad.stderr) == (2, True)
    with (
        open_classifier(old) as classifier,
        Batcher(classifier) as batcher,
        pytest.raises(UserError, match="encoded pictures"),
    ):
        ServedModels([ServedModel("a", batcher), ServedModel("a-encoded", batcher)])


def test_requests_name_one_of_several_models(variants: tuple[Path, Path]) -> None:
    old, new = variants
    pictures = pictures_of(old)
    expected = [expected_answers(bundle, pictures) for bundle in variants]
    with (
        open_classifier(old) as first,
        open_classifier(new) as second,
        Batcher(first) as one,
        Batcher(second) as two,
        serving(
            build_api(ServedModels([ServedModel("a.1", one), ServedModel("b", two)]))
        ) as client,
    ):
        assert v1_answers(client, "a.1", pictures) == expected[0][0]
        assert v1_answers(client, "b", pictures) == expected[1][0]
        assert v2_answers(client, "a.1", pictures) == expected[0][1]
        assert v2_answers(client, "b", pictures) == expected[1][1]
        files = [("images", ("0.png", pictures[0]))]
        assert client.post("/v1/classify", files=files).json()["model"] == "a.1"
        for query in ("model=c", "model=", "model=b&model=b", "model=a.1-encoded"):
            refused = client.post(f"/v1/classify?{query}", files=files)
            assert (refused.status_code, refused.json()["status"]) == (422, 422)
            assert client.get(f"/v1/model?{query}").status_code == 422
        assert "a.1, b" in client.get("/v1/model?model=c").json()["detail"]
        told = client.get("/v1/model?model=b").json()
        assert (told["name"], told["models"]) == ("b", ["a.1", "b"])
        assert told["card"]["class_names"][0].endswith(" 2.0")
        described = client.get("/openapi.json").json()["paths"]
        query = described["/v1/classify"]["post"]["parameters"][1]
        assert (query["name"], query["schema"]["enum"]) == ("model", ["a.1", "b"])
        in_path = described["/v2/models/{name}"]["get"]["parameters"][0]["schema"]["enum"]
        assert in_path == ["a.1", "a.1-encoded", "b", "b-encoded"]
        two.close()  # one model that cannot answer: the server is not ready, the other one answers
        assert v1_answers(client, "a.1", pictures) == expected[0][0]
        assert v1_answers(client, "b", pictures)[0] == 503
        assert v2_answers(client, "b", pictures)[0] == 503
        assert client.get("/readyz").status_code == 503
        assert client.get("/v2/models/a.1/ready").status_code == 200
        assert client.get("/v2/models/b/ready").status_code == 503


@pytest.mark.slow
def test_many_reloads_take_no_more_memory(trained_bundle: Path) -> None:
    """Without care, the C library keeps what six closed models leave: over 80 MB."""
    picture = next((trained_bundle / "examples").iterdir()).read_bytes()
    with (
        running(trained_bundle) as (process, address),
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        name = client.get("/v1/model").json()["name"]
        sizes = []
        for version in range(1, 8):
            wait_for(lambda: version_of(client, name) == version)  # noqa: B023
            for _ in range(8):
                client.post("/v1/classify", content=picture, headers={"Content-Type": "image/png"})
            time.sleep(0.5)  # until the former one is closed
            sizes.append(resident_mb(process))
            process.send_signal(signal.SIGHUP)
    print(f"resident MB: {sizes}")
    assert sizes[-1] < sizes[0] + 30


@pytest.mark.parametrize("nohup", [False, True])
def test_a_closed_terminal_ends_the_server_unless_nohup_started_it(
    toy_bundle: Path, nohup: bool
) -> None:
    """A terminal that is closed sends SIGHUP, too."""
    command = [sys.executable, "-m", "runtime", "serve", str(toy_bundle), "--port", "0"]
    terminal, inside = pty.openpty()

    def begin() -> None:
        """Called in the child, whose own terminal this becomes."""
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        # Of its own: `nohup make test` has it ignored, and a child would inherit that.
        signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)

    with subprocess.Popen(
        command,
        stdin=inside,
        stdout=inside,
        stderr=inside,
        start_new_session=True,
        preexec_fn=begin,
    ) as process:
        os.close(inside)
        try:
            shown = b""
            while not (found := re.search(rb"http://127\.0\.0\.1:\d+", shown)):
                shown += os.read(terminal, 10_000)
            address = found.group().decode()
            wait_for(lambda: _answers(address))
            process.send_signal(signal.SIGHUP)  # the terminal is there: it loads the model again
            wait_for(lambda: httpx.get(f"{address}/v1/model").json()["version"] == "2")
            os.close(terminal)
            if nohup:
                wait_for(lambda: httpx.get(f"{address}/v1/model").json()["version"] == "3")
            else:
                process.wait(timeout=20)
        finally:
            process.kill()


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_many_signals_at_once_do_no_harm(variants: tuple[Path, Path]) -> None:
    """One may arrive while another is handled."""
    with (
        running(variants[0]) as (process, address),
        httpx.Client(base_url=address, timeout=10) as client,
    ):
        wait_for(lambda: client.get("/readyz").status_code == 200)
        end = time.monotonic() + 1
        while time.monotonic() < end:
            process.send_signal(signal.SIGHUP)
        assert client.get("/healthz").status_code == 200
        name = client.get("/v1/model").json()["name"]
        last = version_of(client, name)
        assert last > 1
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: version_of(client, name) > last)


# The command, which gets the signal when it begins to open its model.
SIGNALLED = """
import signal, sys
from runtime.commands import serve

def signalled(path, options, opened=serve._open_batcher):
    serve._open_batcher = opened
    signal.raise_signal(signal.SIGHUP)
    return opened(path, options)

signal.signal(signal.SIGHUP, signal.SIG_DFL)
serve._open_batcher = signalled
sys.exit(serve.main(sys.argv[2:]))
"""


def test_a_signal_before_the_server_answers_loads_the_model_again(toy_bundle: Path) -> None:
    """By default it would end the process, which `systemctl reload` must not do."""
    with (
        running(toy_bundle, script=SIGNALLED) as (process, address),
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        wait_for(lambda: _answers(address))
        name = client.get("/v1/model").json()["name"]
        wait_for(lambda: version_of(client, name) == 2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
