# SPDX-License-Identifier: Apache-2.0
"""Score a folder of images with an exported model, as fast as the CPU can, and write a CSV file.

    python examples/folder_inference.py results/VQFlow/products/v0/weights/openvino/model.xml images --heat-maps maps

It needs OpenVINO, NumPy, Pillow and the file ``image_files.py`` beside it, neither torch nor anomalib, and OpenCV for
images of more than 8 bits, if the model was trained on such. Threads read and decode images while others are computed,
one image per request, as many requests at once as OpenVINO finds best (its throughput hint). Images of any sizes may be
mixed; they are turned upright as their EXIF says, grayscale is spread over the colors, and transparency is ignored. A
file that cannot be read is named and left out, and the exit code is 1.

The model is compiled for one image at a time. An exported model takes any number, but then OpenVINO knows no sizes
inside of it, and much of its time goes into finding them out.
"""

import argparse
import csv
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import openvino
from image_files import UNREADABLE, find_images, read  # beside this file
from openvino.preprocess import PrePostProcessor
from PIL import Image, ImageOps

CONCEPT = "concept"  # in the model a tensor, not always an output
LABELS = {True: "anomalous", False: "normal", None: ""}  # by what the model says; None where it has no threshold


class Prediction(NamedTuple):
    """What the model says of an image."""

    score: float  # in [0, 1], anomalous from 0.5
    label: str  # "anomalous" or "normal"; empty if the model has no threshold
    concept: int | None  # which of its concepts the model took the image for; None if the model doesn't tell


class Results(NamedTuple):
    """What came of a folder."""

    predictions: dict[Path, Prediction]
    failures: dict[Path, str]  # reasons


def main(arguments: list[str] | None = None) -> int:
    """Score the images and write the files.

    Args:
        arguments: Command line; None for that of the process.

    Returns:
        0, or 1 if an image could not be read.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="model.xml or model.onnx")
    parser.add_argument("images", type=Path, help="image, or folder of images with its subfolders")
    parser.add_argument("--output", type=Path, default=Path("predictions.csv"), help="file to write")
    parser.add_argument("--heat-maps", type=Path, metavar="FOLDER", help="where to write each image under its map")
    parser.add_argument("--device", default="CPU", help="device of OpenVINO")
    parser.add_argument(
        "--precision", default="f32", help="f32 for the scores of the training; bf16 or f16 may be faster, and differ"
    )
    parser.add_argument("--readers", type=int, default=os.cpu_count() or 1, help="threads that read images")
    parser.add_argument("--threads", type=int, default=0, help="threads that compute; 0 for OpenVINO's choice")
    options = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # names that the terminal cannot show
    try:
        paths = find_images(options.images)
    except OSError as error:
        parser.error(f"Cannot read {error.filename} ({error.strerror}).")
    if not paths:
        parser.error(f"There are no images in {options.images}.")
    if not options.model.is_file():
        parser.error(f"There is no model {options.model}.")

    bit_depth = find_bit_depth(options.model)
    compiled = compile_model(options.model, options.device, options.precision, options.threads, bit_depth is not None)
    root = options.images if options.images.is_dir() else options.images.parent
    start = time.perf_counter()
    predictions, failures = score(compiled, paths, options.readers, root, options.heat_maps, bit_depth)
    seconds = time.perf_counter() - start
    for path, reason in failures.items():
        print(f"Left out {path}: {reason}", file=sys.stderr)
    write_csv(options.output, predictions)
    labels = [prediction.label for prediction in predictions.values()]
    found = "no labels without a threshold" if "" in labels else f"{labels.count('anomalous')} anomalous"
    rate = f"{len(predictions) / seconds:.1f} images per second, reading included"
    print(f"{len(predictions)} images, {found}, {len(failures)} left out, {rate}. Written to {options.output}.")
    return int(bool(failures))


def find_bit_depth(path: Path) -> int | None:
    """Ask a model how many bits the 16-bit images of its training used; None if there were no such images."""
    model, place = openvino.Core().read_model(path), ["framework", "bit_depth"]
    return int(model.get_rt_info(place).astype(str)) if model.has_rt_info(place) else None


def compile_model(
    path: Path, device: str = "CPU", precision: str = "f32", num_threads: int = 0, is_deep: bool = False
) -> openvino.CompiledModel:
    """Compile an exported model for single images of 8 bits, which it scales itself, or for images in [0, 1].

    Args:
        path: Model.
        device: Device of OpenVINO.
        precision: Type that it computes in. OpenVINO would choose bfloat16 on CPUs that can, which moves some scores.
        num_threads: Threads that compute; 0 for OpenVINO's choice.
        is_deep: Whether images are in [0, 1], because some have more than 8 bits.

    Returns:
        A model that takes RGB of shape ``(1, H, W, 3)``.
    """
    core = openvino.Core()
    model = core.read_model(path)
    names = {name for node in model.get_ordered_ops() for output in node.outputs() for name in output.get_names()}
    if CONCEPT in names and all(CONCEPT not in output.get_names() for output in model.outputs):
        model.add_outputs(CONCEPT)
    shape = model.input(0).get_partial_shape()
    shape[0] = 1
    model.reshape({model.input(0): shape})
    steps = PrePostProcessor(model)
    steps.input(0).tensor().set_layout(openvino.Layout("NHWC"))
    steps.input(0).model().set_layout(openvino.Layout("NCHW"))
    if not is_deep:
        steps.input(0).tensor().set_element_type(openvino.Type.u8)
        steps.input(0).preprocess().convert_element_type(openvino.Type.f32).scale(255.0)
    settings: dict[str, object] = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": precision}
    if num_threads:
        settings["INFERENCE_NUM_THREADS"] = num_threads
    return core.compile_model(steps.build(), device, settings)


def score(
    compiled: openvino.CompiledModel,
    paths: Sequence[Path],
    num_readers: int = 2,
    root: Path | None = None,
    heat_maps: Path | None = None,
    bit_depth: int | None = None,
) -> Results:
    """Score images, many at once.

    Args:
        compiled: What :func:`compile_model` gives.
        paths: Images.
        num_readers: Threads that read images and write heat maps.
        root: Folder that the images are in; heat maps keep the folders below it.
        heat_maps: Folder to write heat maps to, if they are wanted.
        bit_depth: What :func:`find_bit_depth` gives.

    Returns:
        Predictions and failures, both by path in the order of ``paths``.
    """
    # No callback: where the last reference to one dies in a thread of OpenVINO's (2026.4), closing the model can hang.
    queue = openvino.AsyncInferQueue(compiled)
    told = {name for output in compiled.outputs for name in output.get_names()}
    found: dict[Path, Prediction] = {}
    failures: dict[Path, str] = {}
    writing: list[Future[None]] = []
    running: set[int] = set()

    def collect(index: int) -> None:
        running.remove(index)
        request, (path, pixels) = queue[index], queue.userdata[index]
        values = {name: request.get_tensor(name).data.item() for name in told & {"pred_score", "pred_label", CONCEPT}}
        concept = int(values[CONCEPT]) if CONCEPT in values else None
        found[path] = Prediction(values["pred_score"], LABELS[values.get("pred_label")], concept)
        if heat_maps is not None:
            target = heat_maps / (path.relative_to(root) if root else Path(path.name))
            anomaly_map = request.get_tensor("anomaly_map").data[0, 0].copy()  # the request is used again
            writing.append(pool.submit(write_heat_map, target.with_name(f"{target.name}.png"), pixels, anomaly_map))

    size = compiled.input(0).get_partial_shape()[1:3]
    fixed_size = None if size.is_dynamic else (size[0].get_length(), size[1].get_length())
    with ThreadPoolExecutor(num_readers) as pool:
        for path, reading in _ahead(
            pool, paths, partial(read, size=fixed_size, bit_depth=bit_depth), num_readers + len(queue)
        ):
            try:
                pixels = reading.result()
            except UNREADABLE as error:
                failures[path] = str(error) or type(error).__name__
                continue
            index = queue.get_idle_request_id()  # waits for one; it is the one that is started next
            if index in running:
                collect(index)
            running.add(index)
            queue.start_async({0: pixels[None]}, (path, pixels))
        queue.wait_all()
        for index in sorted(running):
            collect(index)
        for heat_map in writing:
            heat_map.result()  # raises what writing raised
    return Results({path: found[path] for path in paths if path in found}, failures)


def _ahead(
    pool: ThreadPoolExecutor, paths: Sequence[Path], read_one: Callable[[Path], np.ndarray], num_ahead: int
) -> Iterator[tuple[Path, "Future[np.ndarray]"]]:
    """Let images be read, but no more than some before they are asked for, so that they fit into memory."""
    waiting: deque[tuple[Path, Future[np.ndarray]]] = deque()
    for path in paths:
        waiting.append((path, pool.submit(read_one, path)))
        if len(waiting) > num_ahead:
            yield waiting.popleft()
    yield from waiting


def write_heat_map(path: Path, pixels: np.ndarray, anomaly_map: np.ndarray) -> None:
    """Write the map over its image: blue is normal, yellow the threshold (if the model has one), red anomalous.

    Args:
        path: File to write.
        pixels: RGB of shape ``(H, W, 3)``, of 8 bits or in [0, 1].
        anomaly_map: Map of shape ``(h, w)``, in [0, 1].
    """
    image = Image.fromarray(pixels if pixels.dtype == np.uint8 else (255 * pixels).round().astype(np.uint8))
    gray = Image.fromarray((255 * anomaly_map).round().astype(np.uint8)).resize(image.size, Image.Resampling.BILINEAR)
    colors = ImageOps.colorize(gray, black="blue", mid="yellow", white="red")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.blend(image, colors, alpha=0.4).save(path)


def write_csv(path: Path, predictions: dict[Path, Prediction]) -> None:
    """Write a line per image, with the concept if the model tells it."""
    tells_concept = any(prediction.concept is not None for prediction in predictions.values())
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "score", "label", *([CONCEPT] if tells_concept else [])])
        for image, (anomaly, label, concept) in predictions.items():
            writer.writerow([image, f"{anomaly:.6f}", label, *([concept] if tells_concept else [])])


if __name__ == "__main__":
    sys.exit(main())
