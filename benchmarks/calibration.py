# SPDX-License-Identifier: Apache-2.0
"""What the calibration per concept gains: metrics of all products under one threshold, with it and without.

    python benchmarks/calibration.py configs/shared_data.yaml model_of_seed_0.ckpt model_of_seed_1.ckpt ...

Prints means and deviations over the checkpoints. Without calibration, location and scale are 0 and 1 instead;
nothing else differs. Two rows judge a threshold as users have it, found on images with known defects: the one of the
best F1 score on a random half of the test images (of each category and label), applied to the other half, beside the
best possible F1 score there; means over 20 such splits.

Then come foreign images, which belong to none of the products: black and white ones, noise, and test images out of
focus. For each kind, the share above the threshold of the best F1 score on the test images.
"""

import argparse
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from anomalib.engine import Engine
from measuring import mean_and_deviation, print_header, print_row
from sklearn.metrics import f1_score
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from anomalib_vqflow import MultiCategory, VQFlow
from anomalib_vqflow.report.measures import best_threshold

NUM_SPLITS = 20
NUM_FOREIGN = 64
ROWS = ("macro", "pooled")
METRICS = ("image_AUROC", "image_F1Max", "pixel_AUROC", "pixel_F1Max")
FOREIGN: dict[str, Callable[[Tensor], Tensor]] = {
    "black": torch.zeros_like,
    "white": torch.ones_like,
    "noise": torch.rand_like,
    "out of focus": lambda images: gaussian_blur(images, [61, 61], [15.0, 15.0]),
}


class Scored(NamedTuple):
    """Scores of the test images, and of foreign ones."""

    scores: np.ndarray  # (N,)
    labels: np.ndarray  # (N,), 1 = anomalous
    groups: np.ndarray  # (N,), category and label
    foreign: dict[str, np.ndarray]  # scores by kind


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
                model.model.anomaly_map_generator.calibration.reset_()
            engine.test(model, datamodule=datamodule)
            for row in ROWS:
                for metric in METRICS:
                    value = model.evaluator.results.loc[row, metric]
                    values[f"{row} {metric.replace('_', ' ')}"].append(value)
            for name, value in judge_threshold(score_images(model.eval().cpu(), datamodule)).items():
                values[name].append(value)

    print()
    print_header(f"{len(options.checkpoints)} trainings", *(f"{name} calibration" for name in found))
    for name in found["with"]:
        print_row(name, *(mean_and_deviation(values[name]) for values in found.values()))


@torch.no_grad()
def score_images(model: VQFlow, datamodule: MultiCategory) -> Scored:
    """Score the test images, and foreign images in place of the first of them."""
    torch.manual_seed(0)
    scores, labels, groups, foreign = [], [], [], defaultdict(list)
    num_left = NUM_FOREIGN
    for batch in datamodule.test_dataloader():
        scores += model.model(model.pre_processor(batch.image)).pred_score.tolist()
        labels += batch.gt_label.int().tolist()
        groups += [
            f"{datamodule.category_by_path[path]} {label}"
            for path, label in zip(batch.image_path, batch.gt_label.tolist(), strict=True)
        ]
        if num_left > 0:
            for kind, change in FOREIGN.items():
                foreign[kind] += model.model(model.pre_processor(change(batch.image))).pred_score.tolist()
            num_left -= len(batch.image)
    by_kind = {kind: np.array(values) for kind, values in foreign.items()}
    return Scored(np.array(scores), np.array(labels), np.array(groups), by_kind)


def judge_threshold(scored: Scored) -> dict[str, float]:
    """Measure thresholds on halves of the test images, and the share of foreign images above one on all of them."""
    scores, labels, groups, foreign = scored
    own, best = [], []
    for half in random_halves(groups):
        own.append(f1_score(labels[~half], scores[~half] >= best_threshold(scores[half], labels[half])))
        best.append(f1_score(labels[~half], scores[~half] >= best_threshold(scores[~half], labels[~half])))
    values = {
        "pooled image F1, threshold from the other half": statistics.fmean(own),
        "pooled image F1max of this half": statistics.fmean(best),
    }
    threshold = best_threshold(scores, labels)
    shares = {kind: float(np.mean(found >= threshold)) for kind, found in foreign.items()}
    return values | {f"foreign images above the threshold: {kind}": share for kind, share in shares.items()}


def random_halves(groups: np.ndarray) -> Iterator[np.ndarray]:
    """Draw a random half of each group, again and again.

    Args:
        groups: Group of each image, shape ``(N,)``.

    Yields:
        Whether each image belongs to the half, shape ``(N,)``.
    """
    generator = np.random.default_rng(0)
    for _ in range(NUM_SPLITS):
        half = np.zeros(len(groups), dtype=bool)
        for group in np.unique(groups):
            members = generator.permutation(np.flatnonzero(groups == group))
            half[members[: len(members) // 2]] = True
        yield half


if __name__ == "__main__":
    main()
