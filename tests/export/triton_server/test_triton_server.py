"""A real Triton Inference Server on the repository that `export/to_triton.py` writes.

The server comes from the nvidia-pytriton wheel (55 MB), in an environment of its own because it
needs numpy < 2. The environment is kept in the temporary folder between runs.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from export.to_triton import main
from runtime.backends.onnx_session import OnnxSession
from runtime.model.bundle import open_bundle
from runtime.model.preprocess import preprocess

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
PACKAGES = ("nvidia-pytriton==0.7.0", "numpy<2", "onnxruntime", "pillow", "msgspec")
NAME = "patterns"

PARSE = """
import sys
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
config = text_format.Parse(open(sys.argv[1]).read(), model_config_pb2.ModelConfig())
print(config.name, config.backend, config.max_batch_size, [list(i.dims) for i in config.input],
      config.output[0].label_filename, [w.batch_size for w in config.model_warmup],
      config.HasField("dynamic_batching"), list(config.dynamic_batching.preferred_batch_size),
      sep="|")
"""

ASK = """
import sys
from pathlib import Path
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import tritonclient.grpc as triton
url, name, source, pictures, target = sys.argv[1:]
images = np.load(source)["images"]
files = [path.read_bytes() for path in sorted(Path(pictures).iterdir())]
client = triton.InferenceServerClient(url)
def given(input_name, rows, datatype):
    tensor = triton.InferInput(input_name, list(rows.shape), datatype)
    tensor.set_data_from_numpy(rows)
    return tensor
def ask(rows, classes=0):
    output = triton.InferRequestedOutput("probabilities", class_count=classes)
    tensor = given("images", rows, "UINT8")
    return client.infer(name, [tensor], outputs=[output]).as_numpy("probabilities")
def ask_encoded(some):
    tensor = given("encoded", np.array(some, object).reshape(-1, 1), "BYTES")
    try:
        return client.infer(name, [tensor]).as_numpy("probabilities")
    except triton.InferenceServerException as error:
        return str(error)
with ThreadPoolExecutor(16) as pool:
    single = list(pool.map(ask, [images[i:i + 1] for i in range(len(images))]))
whole = ask(images[:64])
encoded = ask_encoded(files)
with ThreadPoolExecutor(16) as pool:
    mixed = list(pool.map(ask_encoded, [[file] for file in files] + [[b"text"]] * 3))
refused = set(mixed[len(files):])
both = [given("images", images[:1], "UINT8"),
        given("encoded", np.array([[files[0]]], object), "BYTES")]
try:
    client.infer(name, both)
except triton.InferenceServerException as error:
    refused.add(str(error))
statistics = client.get_inference_statistics(name, as_json=True)["model_stats"][0]
np.savez(target, single=np.concatenate(single), whole=whole,
         encoded=encoded, alone=np.concatenate(mixed[:len(files)]), refused=sorted(refused),
         labels=ask(images[:1], classes=2).astype(str), requests=int(statistics["inference_count"]),
         executions=int(statistics["execution_count"]))
"""


@pytest.fixture(scope="session")
def server_python() -> Path:
    """The interpreter of an environment that holds tritonserver."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = Path(tempfile.gettempdir()) / f"skd-edge-tritonserver-0.7.0-py{version}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        for command in (
            [sys.executable, "-m", "venv", str(folder)],
            [str(python), "-m", "pip", "install", "--quiet", *PACKAGES],
        ):
            made = subprocess.run(command, capture_output=True, text=True, check=False)
            if made.returncode != 0:
                last = (made.stderr.strip().splitlines() or ["no reason given"])[-1]
                pytest.skip(f"nvidia-pytriton cannot be installed here: {last}")
        (folder / "complete").touch()
    return python


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_until_ready(server: subprocess.Popen[str], port: int, log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=1).close()
            return
        time.sleep(0.2)
    raise AssertionError(f"Triton did not become ready:\n{log.read_text()[-4000:]}")


@pytest.fixture(scope="module")
def server(
    server_python: Path, fitted_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Address of a Triton that serves the bundle by the python backend."""
    folder = tmp_path_factory.mktemp("triton")
    arguments = [str(fitted_bundle), "--out", str(folder / "repository"), "--name", NAME]
    assert main([*arguments, "--backend", "python", "--precision", "fp32"]) == 0
    (packages,) = server_python.parents[1].glob("lib/python*/site-packages")
    home = packages / "pytriton" / "tritonserver"
    ports = {kind: free_port() for kind in ("http", "grpc", "metrics")}
    backends = folder / "backends"
    shutil.copytree(home / "backends", backends)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = home / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, backends / "python")  # the one for the Python that runs model.py
    # Moved away from the wheel, the stub no longer finds the libraries beside it.
    libraries = [sysconfig.get_config_var("LIBDIR"), str(packages / "nvidia_pytriton.libs")]
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(packages)]),
        "PATH": os.pathsep.join([str(server_python.parent), os.environ["PATH"]]),
    }
    log = folder / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [
                str(home / "bin" / "tritonserver"),
                f"--model-repository={folder / 'repository'}",
                f"--backend-directory={backends}",
                *(f"--{kind}-port={port}" for kind, port in ports.items()),
                *(f"--{kind}-address=127.0.0.1" for kind in ("http", "grpc", "metrics")),
            ],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            wait_until_ready(process, ports["http"], log)
            yield f"127.0.0.1:{ports['grpc']}"
        finally:
            process.terminate()
            process.wait(timeout=60)


@pytest.mark.parametrize("backend", ["onnxruntime", "python"])
def test_tritons_own_protobuf_reads_the_configuration(
    backend: str, server_python: Path, fitted_bundle: Path, tmp_path: Path
) -> None:
    arguments = [str(fitted_bundle), "--out", str(tmp_path), "--name", NAME]
    assert main([*arguments, "--backend", backend]) == 0
    config = tmp_path / NAME / "config.pbtxt"
    told = subprocess.run(
        [str(server_python), "-c", PARSE, str(config)], capture_output=True, text=True, check=True
    )
    inputs = "[[16, 16, 3], [1]]" if backend == "python" else "[[16, 16, 3]]"
    expected = f"{NAME}|{backend}|64|{inputs}|labels.txt|[1, 64]|True|[]"
    assert told.stdout.strip() == expected


def test_triton_answers_as_the_runtime_and_forms_batches(
    server: str, server_python: Path, fitted_bundle: Path, tmp_path: Path
) -> None:
    """240 single images from 16 clients, then 64 in one request, then files of pictures."""
    answers = tmp_path / "answers.npz"
    subprocess.run(
        [
            str(server_python),
            "-c",
            ASK,
            server,
            NAME,
            str(fitted_bundle / "holdout.npz"),
            str(fitted_bundle / "examples"),
            str(answers),
        ],
        check=True,
        timeout=300,
    )
    bundle = open_bundle(fitted_bundle)
    content = bundle.read(bundle.card.file("fp32"))
    with np.load(fitted_bundle / "holdout.npz") as held:
        images = held["images"]
    with OnnxSession(content, source="model.onnx", backend="onnx-cpu") as session:
        expected = session.run(images)
        files = sorted((fitted_bundle / "examples").iterdir())
        prepared = np.stack([preprocess(file, bundle.card.input) for file in files])
        of_files = session.run(prepared)
    with np.load(answers) as told:
        np.testing.assert_allclose(told["single"], expected, atol=1e-5)
        np.testing.assert_allclose(told["whole"], expected[:64], atol=1e-5)
        np.testing.assert_allclose(told["encoded"], of_files, atol=1e-5)
        np.testing.assert_allclose(told["alone"], of_files, atol=1e-5)
        broken, both = told["refused"].tolist()
        assert "picture 0: not a readable image" in broken
        assert "send either images or encoded" in both
        _probability, index, label = str(told["labels"].ravel()[0]).split(":")
        assert int(index) == expected[0].argmax()
        assert label == bundle.card.class_names[int(index)]
        assert told["executions"] < 0.8 * 240, "requests must be answered together"
