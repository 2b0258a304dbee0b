# SPDX-License-Identifier: Apache-2.0
"""What compression costs in accuracy: export a checkpoint to OpenVINO in every way, and compare with FP32.

    python benchmarks/compression_accuracy.py model.ckpt --data data.yaml

``data.yaml`` holds ``class_path`` and ``init_args`` of a datamodule, as for ``anomalib train --data``. Instead of it,
``--root`` takes a folder of categories in MVTec layout.

Image and pixel AUROC are means over the categories of what users get, scores normalized and clamped. Differences to
FP32 are in percent of its range over all test images, the mean and the largest. Every model computes in the type it was
exported in, not in the bfloat16 that OpenVINO prefers where the CPU has it; a row of FP32 with that shows its cost.

INT8 stores weights as 8-bit integers, INT8_PTQ also computes with such, calibrated on validation images. INT8_ACQ
leaves in FP32 what costs accuracy. As anomalib has it, it measures that on the test images, so its row is optimistic;
and it takes long.
"""

import argparse
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import openvino
import torch
import yaml
from anomalib.data import AnomalibDataModule, get_datamodule
from anomalib.deploy import CompressionType
from measuring import file_size, print_header, print_row
from models import ONNX
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from anomalib_vqflow import MultiCategory, VQFlow
from anomalib_vqflow.data.resize import resize_images

EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


class Predictions(NamedTuple):
    """Outputs of a model for all test images."""

    scores: Tensor  # (N,)
    labels: Tensor  # (N,)
    maps: Tensor  # (N, H, W)


class Truth(NamedTuple):
    """What is known of all test images."""

    categories: list[str]  # N
    labels: Tensor  # (N,)
    masks: list[Tensor | None]  # N of (H, W)


def predict(path: Path, datamodule: AnomalibDataModule, config: dict[str, str]) -> Predictions:
    """Run an exported model on the test images."""
    model = openvino.compile_model(openvino.Core().read_model(path), "CPU", config)
    outputs = [model(batch.image.numpy()) for batch in datamodule.test_dataloader()]
    scores, labels, maps = (
        torch.cat([torch.from_numpy(output[name]) for output in outputs])
        for name in ("pred_score", "pred_label", "anomaly_map")
    )
    return Predictions(scores, labels, maps[:, 0])


def read_truth(datamodule: AnomalibDataModule) -> Truth:
    """Collect labels, masks and categories of the test images."""
    categories, labels, masks = [], [], []
    known = datamodule.category_by_path if isinstance(datamodule, MultiCategory) else defaultdict(str)
    for batch in datamodule.test_dataloader():
        categories += [known[path] for path in batch.image_path]
        labels.append(batch.gt_label)
        masks += [None] * len(batch.image_path) if batch.gt_mask is None else list(batch.gt_mask)
    return Truth(categories, torch.cat(labels), masks)


def mean_auroc(predictions: Predictions, truth: Truth) -> tuple[float, float]:
    """Average image and pixel AUROC over the categories that have them."""
    image, pixel = [], []
    for category in sorted(set(truth.categories)):
        chosen = [index for index, name in enumerate(truth.categories) if name == category]
        image.append(binary_auroc(predictions.scores[chosen], truth.labels[chosen].int()))
        masked = [index for index in chosen if truth.masks[index] is not None]
        if masked:
            masks = torch.stack([truth.masks[index] for index in masked])
            pixel.append(binary_auroc(predictions.maps[masked].flatten(), masks.flatten().int()))
    return torch.stack(image).mean().item(), torch.stack(pixel).mean().item() if pixel else float("nan")


def percent_off(actual: Tensor, expected: Tensor) -> tuple[float, float]:
    """Return the mean and the largest difference, in percent of the range expected."""
    difference = (actual - expected).abs() * (100 / (expected.max() - expected.min()))
    return difference.mean().item(), difference.max().item()


def main(arguments: list[str] | None = None) -> None:
    """Export, compare and print a table.

    Args:
        arguments: Command line; None for that of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="YAML file of a datamodule")
    source.add_argument("--root", type=Path, help="folder of categories in MVTec layout")
    parser.add_argument("--categories", nargs="+", default="all", help="which of them")
    parser.add_argument("--types", nargs="+", default=[t.name for t in CompressionType], help="FP16, INT8, ...")
    options = parser.parse_args(arguments)

    model = VQFlow.load_from_checkpoint(options.checkpoint, map_location="cpu")
    if options.data:
        datamodule = get_datamodule(yaml.safe_load(options.data.read_text()))
    else:
        datamodule = MultiCategory(options.root, options.categories, num_workers=0)
    datamodule.setup()
    resize_images(datamodule, model.input_size)
    with tempfile.TemporaryDirectory() as folder:
        compare(model, datamodule, [CompressionType[name] for name in options.types], Path(folder))


def compare(model: VQFlow, datamodule: AnomalibDataModule, types: list[CompressionType], folder: Path) -> None:
    """Export a model, predict the test images, and print a line for each way."""
    truth = read_truth(datamodule)
    path = model.to_openvino(folder, onnx_kwargs=ONNX)
    expected = predict(path, datamodule, EXACT)
    print_header("", "image AUROC", "pixel AUROC", "scores off, %", "pixels off, %", "labels changed", "MB")
    print_result("FP32", path, expected, expected, truth)
    print_result("FP32, CPU's choice", path, predict(path, datamodule, {}), expected, truth)
    for kind in types:
        place = folder / kind.name
        path = model.to_openvino(place, compression_type=kind, datamodule=datamodule, onnx_kwargs=ONNX)
        print_result(kind.name, path, predict(path, datamodule, EXACT), expected, truth)


def print_result(name: str, path: Path, actual: Predictions, expected: Predictions, truth: Truth) -> None:
    """Print a model's line of the table."""
    image, pixel = mean_auroc(actual, truth)
    scores = "{:.2f}, at most {:.1f}".format(*percent_off(actual.scores, expected.scores))
    pixels = "{:.2f}, at most {:.1f}".format(*percent_off(actual.maps, expected.maps))
    changed = f"{(actual.labels != expected.labels).sum()} of {len(actual.labels)}"
    print_row(name, f"{image:.4f}", f"{pixel:.4f}", scores, pixels, changed, f"{file_size(path):.1f}")


if __name__ == "__main__":
    main()
