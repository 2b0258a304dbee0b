# SPDX-License-Identifier: Apache-2.0
"""What the calibration per concept gains: metrics of all products under one threshold, with it and without.

    python benchmarks/calibration.py configs/shared_data.yaml model_of_seed_0.ckpt model_of_seed_1.ckpt ...

Prints means and deviations over the checkpoints. Without calibration, location and scale are 0 and 1 instead;
nothing else differs. The last two rows judge a threshold as users have it, found on images with known defects: the one
of the best F1 score on a random half of the test images (of each category and label), applied to the other half, beside
the best possible F1 score there; means over 20 such splits.

Then come foreign images, which belong to none of the products: black and white ones, noise, and test images out of
focus. For each kind, the share above the threshold of the best F1 score on the test images.
"""

import argparse
import statistics
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from anomalib.engine import Engine
from seeds import summary
from sklearn.metrics import f1_score, precision_recall_curve
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from anomalib_vqflow import MultiCategory, VQFlow

NUM_SPLITS = 20
NUM_FOREIGN = 64
FOREIGN: dict[str, Callable[[Tensor], Tensor]] = {
    "black": torch.zeros_like,
    "white": torch.ones_like,
    "noise": torch.rand_like,
    "out of focus": lambda images: gaussian_blur(images, [61, 61], [15.0, 15.0]),
}


def main(arguments: list[str] | None = None) -> None:
    """Test and print.

    Args:
        arguments: Command line; None for that of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    options = parser.parse_args(arguments)

    found: dict[str, dict[str, list[float]]] = {"with": defaultdict(list), "without": defaultdict(list)}
    for checkpoint in options.checkpoints:
        engine, _, datamodule = Engine.from_config(options.config)
        model = VQFlow.load_from_checkpoint(checkpoint)
        for variant, values in found.items():
            if variant == "without":
                calibration = model.model.anomaly_map_generator.calibration
                calibration.location.zero_()
                calibration.scale.fill_(1.0)
            engine.test(model, datamodule=datamodule)
            for row in ("macro", "pooled"):
                for metric in ("image_AUROC", "image_F1Max", "pixel_AUROC", "pixel_F1Max"):
                    name = metric.replace("_", " ")
                    values[f"{row} {name}"].append(model.evaluator.results[row].metrics[metric])
            judge_threshold(model.eval().cpu(), datamodule, values)

    print(f"\n| {len(options.checkpoints)} trainings | {' | '.join(f'{name} calibration' for name in found)} |")
    print(f"|---|{'---|' * len(found)}")
    for name in found["with"]:
        print(f"| {name} | {' | '.join(summary(values[name]) for values in found.values())} |")


@torch.no_grad()
def judge_threshold(model: VQFlow, datamodule: MultiCategory, values: dict[str, list[float]]) -> None:
    """Measure thresholds on halves of the test images, and what foreign images score.

    Args:
        model: A trained model.
        datamodule: Its data.
        values: Takes the results.
    """
    torch.manual_seed(0)
    scores, labels, groups, foreign = [], [], [], defaultdict(list)
    num_left = NUM_FOREIGN
    for batch in datamodule.test_dataloader():
        prepared = model.pre_processor(batch.image)
        scores += model.model(prepared).pred_score.tolist()
        labels += batch.gt_label.tolist()
        groups += [
            f"{datamodule.category_by_path[path]} {label}"
            for path, label in zip(batch.image_path, batch.gt_label.tolist(), strict=True)
        ]
        if num_left > 0:
            for kind, change in FOREIGN.items():
                foreign[kind] += model.model(model.pre_processor(change(batch.image))).pred_score.tolist()
            num_left -= len(batch.image)
    scores, labels, groups = np.array(scores), np.array(labels), np.array(groups)

    generator, own, best = np.random.default_rng(0), [], []
    for _ in range(NUM_SPLITS):
        half = np.zeros(len(scores), dtype=bool)
        for group in np.unique(groups):
            members = generator.permutation(np.flatnonzero(groups == group))
            half[members[: len(members) // 2]] = True
        threshold, _ = best_f1(labels[half], scores[half])
        own.append(f1_score(labels[~half], scores[~half] >= threshold))
        best.append(best_f1(labels[~half], scores[~half])[1])
    values["pooled image F1, threshold from the other half"].append(statistics.fmean(own))
    values["pooled image F1max of this half"].append(statistics.fmean(best))
    threshold, _ = best_f1(labels, scores)
    for kind, found in foreign.items():
        values[f"foreign images above the threshold: {kind}"].append(float(np.mean(np.array(found) >= threshold)))


def best_f1(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Find the threshold with the best F1 score, and that score."""
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    values = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(values[:-1].argmax())
    return float(thresholds[best]), float(values[best])


if __name__ == "__main__":
    main()
