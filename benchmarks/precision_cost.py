# SPDX-License-Identifier: Apache-2.0
"""What lower precision costs: export a checkpoint to OpenVINO in every precision, and compare with FP32.

    python benchmarks/precision_cost.py model.ckpt --data data.yaml

``data.yaml`` holds ``class_path`` and ``init_args`` of a datamodule, as for ``anomalib train --data``. Instead of it,
``--root`` takes a folder of categories in MVTec layout.

Image and pixel AUROC are means over the categories of what users get, scores normalized and clamped. Differences to
FP32 are in percent of its range over all test images, the mean and the largest. Every model computes in the type it was
exported in, not in the bfloat16 that OpenVINO prefers where the CPU has it; a row of FP32 with that shows its cost.

INT8 stores weights in 8 bits, INT8_PTQ also computes in them, calibrated on validation images. INT8_ACQ leaves in FP32
what costs accuracy. As anomalib has it, it measures that on the test images, so its row is optimistic; and it takes
long.
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
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from anomalib_vqflow import MultiCategory, VQFlow
from anomalib_vqflow.export import calibration_size

EXACT = {"INFERENCE_PRECISION_HINT": "f32"}
QUIET = {"verbose": False}  # torch's exporter


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


def main() -> None:
    """Export, compare and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="YAML file of a datamodule")
    source.add_argument("--root", type=Path, help="folder of categories in MVTec layout")
    parser.add_argument("--categories", nargs="+", default="all", help="which of them")
    parser.add_argument("--types", nargs="+", default=[t.name for t in CompressionType], help="FP16, INT8, ...")
    arguments = parser.parse_args()

    model = VQFlow.load_from_checkpoint(arguments.checkpoint, map_location="cpu")
    if arguments.data:
        datamodule = get_datamodule(yaml.safe_load(arguments.data.read_text()))
    else:
        datamodule = MultiCategory(arguments.root, arguments.categories, num_workers=0)
    with tempfile.TemporaryDirectory() as folder, calibration_size(datamodule, model.input_size):
        datamodule.setup()
        truth = read_truth(datamodule)
        path = model.to_openvino(folder, onnx_kwargs=QUIET)
        expected = predict(path, datamodule, EXACT)
        print("|  | image AUROC | pixel AUROC | scores off, % | pixels off, % | labels changed | MB |")
        print("|---|---|---|---|---|---|---|")
        print_row("FP32", path, expected, expected, truth)
        print_row("FP32, CPU's choice", path, predict(path, datamodule, {}), expected, truth)
        for name in arguments.types:
            compression = CompressionType[name]
            path = model.to_openvino(
                Path(folder) / name, compression_type=compression, datamodule=datamodule, onnx_kwargs=QUIET
            )
            print_row(name, path, predict(path, datamodule, EXACT), expected, truth)


def print_row(name: str, path: Path, actual: Predictions, expected: Predictions, truth: Truth) -> None:
    """Print a model's line of the table."""
    image, pixel = mean_auroc(actual, truth)
    scores = "{:.2f}, at most {:.1f}".format(*percent_off(actual.scores, expected.scores))
    pixels = "{:.2f}, at most {:.1f}".format(*percent_off(actual.maps, expected.maps))
    changed = f"{(actual.labels != expected.labels).sum()} of {len(actual.labels)}"
    size = (path.stat().st_size + path.with_suffix(".bin").stat().st_size) / 1e6
    print(f"| {name} | {image:.4f} | {pixel:.4f} | {scores} | {pixels} | {changed} | {size:.1f} |", flush=True)


if __name__ == "__main__":
    main()
