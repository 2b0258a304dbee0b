# SPDX-License-Identifier: Apache-2.0
"""Score a folder of images with an exported model, as fast as the CPU can, and write a CSV file.

    python examples/openvino_inference.py results/VQFlow/products/v0/weights/openvino/model.xml images

It needs OpenVINO, NumPy and Pillow only, neither torch nor anomalib. Images are read while others are computed, one per
request, with as many requests at once as OpenVINO finds best (its throughput hint). Sizes may differ.
"""

import argparse
import csv
import sys
import time
from pathlib import Path

import numpy as np
import openvino
from PIL import Image

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}


def main(arguments: list[str] | None = None) -> int:
    """Score the images and write the file.

    Args:
        arguments: Command line; None for that of the process.

    Returns:
        0, or 1 if an image could not be read.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model.xml or model.onnx")
    parser.add_argument("images", type=Path, help="folder of images, searched with its subfolders")
    parser.add_argument("--output", type=Path, default=Path("predictions.csv"), help="file to write")
    parser.add_argument("--device", default="CPU", help="device of OpenVINO")
    parser.add_argument(
        "--precision", default="f32", help="f32 for the scores of the training; bf16 or f16 may be faster, and differ"
    )
    options = parser.parse_args(arguments)
    paths = sorted(path for path in options.images.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        parser.error(f"There are no images in {options.images}.")

    settings = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": options.precision}
    compiled = openvino.Core().compile_model(options.model, options.device, settings)
    queue = openvino.AsyncInferQueue(compiled)
    predictions: dict[Path, tuple[float, str]] = {}

    def collect(request: openvino.InferRequest, path: Path) -> None:
        score, label = (request.get_tensor(name).data.item() for name in ("pred_score", "pred_label"))
        predictions[path] = score, "anomalous" if label else "normal"

    queue.set_callback(collect)
    start = time.perf_counter()
    for path in paths:
        try:
            image = read(path)
        except OSError as error:
            print(f"Left out {path}: {error}", file=sys.stderr)
        else:
            queue.start_async({0: image}, path)
    queue.wait_all()
    seconds = time.perf_counter() - start

    with options.output.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "score", "label"])
        writer.writerows((path, f"{predictions[path][0]:.6f}", predictions[path][1]) for path in sorted(predictions))
    found = sum(label == "anomalous" for _, label in predictions.values())
    rate = f"{len(predictions) / seconds:.1f} images per second, reading included, {len(queue)} at once"
    print(f"{len(predictions)} images, {found} anomalous, {rate}. Written to {options.output}.")
    return 0 if len(predictions) == len(paths) else 1


def read(path: Path) -> np.ndarray:
    """Read an image as the exported model takes it.

    Args:
        path: Image.

    Returns:
        RGB in [0, 1], of shape ``(1, 3, H, W)``; the model resizes and normalizes it.
    """
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


if __name__ == "__main__":
    sys.exit(main())
