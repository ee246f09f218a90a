"""Serves the same ONNX file with LitServe, in an environment that has it.

The preprocessing is the runtime's, written out: one decode at a reduced scale, one resize.
"""

import argparse
import base64
import io
import json
from pathlib import Path

import litserve
import numpy as np
import onnxruntime
from PIL import Image

parser = argparse.ArgumentParser()
parser.add_argument("bundle", type=Path)
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--workers", type=int, required=True)
parser.add_argument("--batch", type=int, required=True)
options = parser.parse_args()
card = json.loads((options.bundle / "card.json").read_text())
size, resize, crop = (card["input"][name] for name in ("size", "resize", "crop"))


class Classify(litserve.LitAPI):
    def setup(self, device: str) -> None:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            str(options.bundle / "model.onnx"), settings, providers=["CPUExecutionProvider"]
        )

    def decode_request(self, request: dict[str, str]) -> np.ndarray:
        image = Image.open(io.BytesIO(base64.b64decode(request["image"])))
        edge = -(-size * resize // crop)
        image.draft(None, (edge, edge))
        image = image.convert("RGB")
        side = min(image.size) * crop / resize
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR, box=box))

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        return np.stack(inputs)

    def predict(self, images: np.ndarray) -> np.ndarray:
        batch = images if images.ndim == 4 else images[None]
        (rows,) = self.session.run(None, {"images": batch})
        return rows if images.ndim == 4 else rows[0]

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output)

    def encode_response(self, output: np.ndarray) -> dict[str, object]:
        order = np.argsort(-output)[:5]
        return {
            "predictions": [
                {"label": card["class_names"][i], "index": int(i), "probability": float(output[i])}
                for i in order
            ]
        }


if __name__ == "__main__":
    api = Classify(max_batch_size=options.batch, batch_timeout=0.005)
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=options.workers, fast_queue=True
    )
    server.run(port=options.port, host="127.0.0.1", generate_client_file=False, log_level="warning")
