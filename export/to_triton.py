"""Writes a model repository for Triton Inference Server.

python export/to_triton.py BUNDLE --out REPOSITORY                       # onnxruntime backend
python export/to_triton.py BUNDLE --out REPOSITORY --backend tensorrt    # an engine of the bundle
python export/to_triton.py BUNDLE --out REPOSITORY --backend python      # this project's runtime
python export/to_triton.py BUNDLE --out REPOSITORY --kserve            # and manifests for a cluster
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from export.bundles.printed_tables import say
from export.triton_server.cluster_manifests import DEFAULT_STORAGE, check_manifests, write_manifests
from export.triton_server.config import BACKENDS
from export.triton_server.served_model import (
    DEFAULT_MAX_BATCH,
    check_target,
    describe,
    files_of,
    source_of,
    write_model,
)
from runtime.base.command import CommandParser, folder_path, positive_int, run_command
from runtime.base.errors import BundleError
from runtime.base.shown_text import pasted
from runtime.model.bundle import open_bundle
from runtime.model.card import MODEL_FILES, EngineRecord
from runtime.model.locate import find_model


def main(arguments: Sequence[str]) -> int:
    """Writes the model that `arguments` describe, says how to serve it, and returns 0.

    Raises:
        UserError: a mistake in the arguments, or the bundle lacks what is to be served;
            BundleError is of this kind.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.backend != "tensorrt":
        parser.refuse_unused(options, ("compute_capability",), "without --backend tensorrt")
    if not options.kserve:
        parser.refuse_unused(options, ("storage_uri", "image"), "without --kserve")
    path = find_model(options.bundle)
    if path.is_file():
        raise BundleError(f"{path} is a lone ONNX file; expected its bundle, a folder with a card")
    bundle = open_bundle(path)
    source = source_of(bundle, options.backend, options.precision, options.compute_capability)
    model = describe(
        bundle,
        source,
        name=options.name,
        backend=options.backend,
        precision=options.precision,
        max_batch=options.max_batch,
    )
    target = options.out / model.name
    check_target(target)
    if options.kserve:
        check_manifests(options.out, model.name)  # told before anything is written
    write_model(target, files_of(bundle, model, source))
    say(f"model: {target}")
    if options.kserve:
        paths = write_manifests(
            options.out, model, storage=options.storage_uri, image=options.image
        )
        kserve, kubernetes = map(pasted, paths)
        say(f"kubectl apply -f {kserve}   KServe, on {options.storage_uri}")
        say(f"kubectl apply -f {kubernetes}   this project's own server, image {options.image}")
    say(f"serve: tritonserver --model-repository {pasted(options.out.resolve())}")
    if isinstance(source, EngineRecord):
        say(f"The server's TensorRT must be {source.tensorrt_version}, its GPU {source.gpu_name}.")
    if model.backend == "python":
        say("The server's Python needs this project: `pip install .` in its environment.")
    return 0


def command() -> NoReturn:
    """Runs `main` as a command."""
    run_command(main, extra="export")


def _parser() -> CommandParser:
    parser = CommandParser(prog="python export/to_triton.py", description=__doc__.splitlines()[0])
    parser.add_argument(
        "bundle", type=Path, metavar="BUNDLE", help="a bundle, or a run that has one"
    )
    parser.add_argument(
        "--out", type=folder_path, required=True, metavar="REPOSITORY", help="the model repository"
    )
    parser.add_argument(
        "--backend", choices=BACKENDS, default="onnxruntime", help="default: %(default)s"
    )
    parser.add_argument(
        "--precision",
        choices=tuple(MODEL_FILES),
        help="default: fp32 for onnxruntime, fp16 for tensorrt, the runtime's choice for python",
    )
    parser.add_argument("--name", help="the model's name; default: DATA-ARCH")
    parser.add_argument(
        "--max-batch",
        type=positive_int,
        metavar="N",
        help=f"default: the end of the engine's profile, else {DEFAULT_MAX_BATCH}",
    )
    parser.add_argument(
        "--compute-capability", metavar="C", help="which engine, if there are several"
    )
    parser.add_argument(
        "--kserve",
        action="store_true",
        help="also write kserve.yaml, an InferenceService, and kubernetes.yaml, our own server",
    )
    parser.add_argument(
        "--storage-uri",
        default=DEFAULT_STORAGE,
        metavar="URI",
        help="of --kserve: where the cluster finds the repository (default: %(default)s)",
    )
    parser.add_argument(
        "--image",
        default="skd-edge:latest",
        metavar="IMAGE",
        help="of --kserve: the image of docs/docker/Dockerfile (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    command()
