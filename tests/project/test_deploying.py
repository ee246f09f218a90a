"""Every client and every machine's file of docs/deploying.md works, where this machine has it."""

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from live_server import running

from export import build_trt
from runtime.commands.serve_options import serve_parser

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
CHROMIUM = shutil.which("chromium")
INSTALLED = "/opt/skd-edge"
NOBODY = "http://127.0.0.1:9"  # the port "discard", where nobody listens


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.DOTALL | re.MULTILINE)


class QuietFiles(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder, and the origin below which its files are served."""
    folder = tmp_path_factory.mktemp("pages")
    handler = functools.partial(QuietFiles, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="module")
def address(toy_bundle: Path, pages: tuple[Path, str]) -> Iterator[str]:
    with running(toy_bundle, "--cors", pages[1]) as (_, address):
        yield address


@pytest.fixture(scope="module")
def picture(toy_bundle: Path) -> Path:
    return toy_bundle / "examples" / "green.png"


def test_curl(address: str, picture: Path, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    (tmp_path / "photo.jpg").write_bytes(picture.read_bytes())  # the content counts
    line = blocks("console")[0].replace("http://127.0.0.1:8000", address)
    command = ["bash", "-c", f"{line.strip()} --fail"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert json.loads(shown)["results"][0]["predictions"][0]["label"] == "green"


def test_python(address: str, picture: Path, tmp_path: Path) -> None:
    file = tmp_path / "classify.py"
    file.write_text(blocks("py")[0])
    command = [sys.executable, file, address, picture]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown.startswith("green 0.")


def test_tritons_client(
    address: str, picture: Path, tmp_path: Path, triton_client_python: Path
) -> None:
    file = tmp_path / "infer.py"
    file.write_text(blocks("py")[1])
    host = address.removeprefix("http://")
    command = [triton_client_python, file, host, "colours-toy-encoded", picture]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"\[\[b'0\.\d{6}:1:green'\]\]\n", shown)


def test_java(address: str, picture: Path, tmp_path: Path) -> None:
    if shutil.which("javac") is None:  # with it, `java` runs sources
        pytest.skip("there is no Java development kit")
    file = tmp_path / "Classify.java"
    file.write_text(blocks("java")[0])
    command = ["java", file, address, picture]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    status, _, body = shown.partition(" ")
    assert (status, json.loads(body)["results"][0]["predictions"][0]["label"]) == ("200", "green")


@pytest.mark.slow
def test_javascript_in_a_browser(address: str, picture: Path, pages: tuple[Path, str]) -> None:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api")
    folder, origin = pages
    page_text = blocks("html")[0].replace("http://127.0.0.1:8000", address)
    (folder / "index.html").write_text(page_text)
    with sync_api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page()
        page.goto(origin)
        page.set_input_files("input", picture)
        page.wait_for_function("document.querySelector('output').textContent")
        assert page.inner_text("output") == "green"
        page.goto(origin.replace("127.0.0.1", "localhost"))  # another origin: not allowed
        page.set_input_files("input", picture)
        with pytest.raises(sync_api.Error):
            page.wait_for_function("document.querySelector('output').textContent", timeout=1000)
        browser.close()


def test_the_systemd_unit(tmp_path: Path) -> None:
    (unit,) = blocks("ini")
    start = re.search(r"^ExecStart=(\S+) serve (.*)$", unit, re.M)
    assert start is not None
    serve_parser().parse_args(shlex.split(start[2]))  # its options exist
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd is not installed")
    file = tmp_path / "skd-edge.service"
    file.write_text(unit.replace(start[1], sys.executable))
    checked = subprocess.run(
        [analyze, "verify", "--man=no", file], capture_output=True, text=True, check=False
    )
    assert "skd-edge.service" not in checked.stderr, checked.stderr
    assert checked.returncode == 0, checked.stderr
    file.write_text(unit.replace("Restart=on-failure", "Restart=perhaps"))
    wrong = subprocess.run(
        [analyze, "verify", "--man=no", file], capture_output=True, text=True, check=False
    )
    assert "perhaps" in wrong.stderr  # the check finds faults


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "version"), [("Dockerfile", "3.11"), ("Dockerfile.jetson", "3.10")]
)
def test_the_lines_of_a_container_file_run_in_a_clean_environment(
    name: str,
    version: str,
    toy_bundle: Path,
    tmp_path: Path,
    find_python: Callable[[str], str | None],
) -> None:
    """`/src` is this project, `/opt/skd-edge` a new folder; apt only simulates."""
    python = find_python(version)
    if python is None:
        pytest.skip(f"there is no Python {version}")
    text = (ROOT / "docs" / "docker" / name).read_text()
    place = tmp_path / "skd-edge"
    commands = tmp_path / "commands"
    commands.mkdir()
    (commands / "python3").symlink_to(python)
    clean = {"PATH": f"{commands}:/usr/bin:/bin", "HOME": "/nonexistent", "LANG": "C.UTF-8"}
    clean |= {key: os.environ[key] for key in os.environ if key.startswith("PIP_")}  # the index
    lines = re.findall(r"^RUN (.*)$", text, re.M)
    assert len(lines) == text.count("\nRUN ") >= 3
    stand_in = tmp_path / "system" / "tensorrt.py"
    stand_in.parent.mkdir()
    assert any("'tensorrt'" in line for line in lines) == (name == "Dockerfile.jetson")
    for line in lines:
        own = line.replace(INSTALLED, str(place)).replace("/src", str(ROOT))
        own = own.replace("apt-get update && ", "").replace(
            "apt-get install -y", "apt-get install -s"
        )
        run = functools.partial(
            subprocess.run, ["sh", "-euc", own], cwd=tmp_path, capture_output=True, text=True
        )
        if "'tensorrt'" in line:  # JetPack has it
            assert "python3-libnvinfer" in run(env=clean).stderr
            stand_in.touch()
            ran = run(env=clean | {"PYTHONPATH": str(stand_in.parent)})
        else:
            ran = run(env=clean)
        if ran.returncode != 0 and "No matching distribution" in ran.stderr:
            pytest.skip(f"there is no package index: {ran.stderr.splitlines()[-1]}")
        if ran.returncode != 0 and "Unable to locate package" in ran.stderr:
            pytest.skip("apt knows no packages here (apt-get update)")
        assert ran.returncode == 0, f"{line}\n{ran.stdout}\n{ran.stderr}"
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", text, re.M)
    (given,) = re.findall(r"^CMD (.*)$", text, re.M)
    (health,) = re.findall(r"^HEALTHCHECK CMD (.*)$", text, re.M)
    model, port = str(toy_bundle), "8000"
    command = [word.replace(INSTALLED, str(place)) for word in json.loads(entry)]
    command[command.index(port)] = "0"
    command += [word.replace("/model", model) for word in json.loads(given)]
    clean |= dict(re.findall(r"^ENV (\w+)=(\S+)$", text, re.M))
    with subprocess.Popen(
        command,
        env=clean,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            shown = ""
            for line in process.stdout:
                shown += line
                if found := re.search(r"http://0\.0\.0\.0:(\d+)", line):
                    break
            else:
                raise AssertionError(shown)
            check = json.loads(health.replace(INSTALLED, str(place)).replace(port, found[1]))
            deadline = time.monotonic() + 30
            proxied = clean | {"http_proxy": NOBODY}  # as Docker may set it
            while subprocess.run(check, env=proxied, stderr=subprocess.DEVNULL).returncode != 0:
                assert time.monotonic() < deadline, "the health check fails"
                time.sleep(0.1)
            with urllib.request.urlopen(f"http://127.0.0.1:{found[1]}/v1/model") as answer:
                assert json.load(answer)["name"] == "colours-toy"
        finally:
            process.terminate()
    assert process.returncode == 0


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.jetson"])
def test_the_health_check_of_a_container_asks_no_proxy(name: str, address: str) -> None:
    text = (ROOT / "docs" / "docker" / name).read_text()
    (health,) = re.findall(r"^HEALTHCHECK CMD (.*)$", text, re.M)
    for server, healthy in ((address, True), (NOBODY, False)):
        check = json.loads(health.replace("http://127.0.0.1:8000", server))
        asked = subprocess.run(
            [sys.executable, *check[1:]],
            env=os.environ | {"http_proxy": NOBODY},
            stderr=subprocess.DEVNULL,
        )
        assert (asked.returncode == 0) == healthy


@pytest.mark.parametrize("name", ["deploying.md", "docker/Dockerfile.jetson"])
def test_a_jetson_is_served_by_its_gpu_or_not_at_all(name: str) -> None:
    text = (ROOT / "docs" / name).read_text(encoding="utf-8").replace("\\\n#", "\\\n")
    served = re.search(r"docker run --restart(?:.*\\\n)*.* skd-edge-jetson (.*?)(?:  +#|\n)", text)
    assert served is not None
    assert serve_parser().parse_args(shlex.split(served[1])).backend == "tensorrt"
    for group in ("video", "render"):
        assert f'--group-add "$(getent group {group} | cut -d: -f3)"' in served[0]


@pytest.mark.parametrize("name", ["deploying.md", "docker/Dockerfile.jetson"])
def test_the_command_that_builds_engines_in_a_container_exists(name: str) -> None:
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    built = re.search(rf"--entrypoint {INSTALLED}/bin/(\S+) \S+ (.*?)(?:  +#|\n)", text)
    assert built is not None
    scripts = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'{built[1]} = "export.build_trt:command"' in scripts
    options = build_trt._parser().parse_args(built[2].split())
    assert options.model == Path("/model")
    build_trt.parse_profile(options.batch)


def test_the_container_files_name_folders_that_are_sent_to_docker() -> None:
    """What the ignore file lets through is what a wheel is built of (pyproject.toml)."""
    kept = {
        line[1:]
        for name in ("Dockerfile", "Dockerfile.jetson")
        for line in (ROOT / "docs" / "docker" / f"{name}.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    text = (ROOT / "pyproject.toml").read_text()
    packages = re.search(r"targets\.wheel\]\npackages = \[(.*)\]", text)
    assert packages is not None
    assert kept == {*json.loads(f"[{packages[1]}]"), "LICENSE", "README.md", "pyproject.toml"}
