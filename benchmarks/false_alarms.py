# SPDX-License-Identifier: Apache-2.0
"""Whether thresholds keep their false-alarm rate: on the other half of the test images, over 200 random halves.

    python benchmarks/false_alarms.py configs/quick_start.yaml model_of_seed_0.ckpt model_of_seed_1.ckpt ...

The test images, which no training has seen, are split at random, normal and anomalous ones each. One half sets the
threshold: its normal images alone, by split conformal prediction under a false-alarm rate, for all images or per
concept; or, as anomalib does it, by the best F1 score on all images of the half; or by the highest score of its normal
images. On the other half, the share of normal images above the threshold is measured, the same for the category that
has most, and the share of anomalous images that are found. Means and deviations over splits and checkpoints.
Options that are not listed go to the configuration, as ``--data.root products``.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from anomalib.engine import Engine
from measuring import mean_and_deviation, print_header, print_row
from models import configuration_overrides
from torch import Tensor

from anomalib_vqflow import MultiCategory, VQFlow
from anomalib_vqflow.conformal import concept_thresholds, conformal_limit
from anomalib_vqflow.report.measures import best_threshold

NUM_SPLITS = 200
RATES = (0.1, 0.05, 0.01)
MEASURES = ("false alarms", "of the worst category", "anomalies found")


class Scored(NamedTuple):
    """Image scores, with what belongs to them, each of shape ``(N,)``."""

    scores: Tensor
    anomalous: Tensor
    concepts: Tensor
    categories: Tensor


SetThresholds = Callable[[Scored, int], Tensor]


def main(arguments: list[str] | None = None) -> None:
    """Score, split and print.

    Args:
        arguments: Command line; None for that of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    options, rest = parser.parse_known_args(arguments)
    overrides = configuration_overrides(rest)

    found: dict[str, dict[str, list[float]]] = {}
    for checkpoint in options.checkpoints:
        _, _, datamodule = Engine.from_config(options.config, **overrides)
        datamodule.setup()
        scored = score_images(VQFlow.load_from_checkpoint(checkpoint, map_location="cpu"), datamodule)
        for name, set_thresholds in WAYS.items():
            values = found.setdefault(name, defaultdict(list))
            for measure, value in judge(scored, set_thresholds).items():
                values[measure] += value
    print_header(f"{len(options.checkpoints)} trainings, {NUM_SPLITS} splits each", *MEASURES)
    for name, values in found.items():
        print_row(name, *(mean_and_deviation(values[measure]) for measure in MEASURES))


@torch.no_grad()
def score_images(model: VQFlow, datamodule: MultiCategory) -> Scored:
    """Score the test images, without normalization, which clamps."""
    columns = defaultdict(list)
    names = datamodule.categories
    for batch in datamodule.test_dataloader():
        prediction = model.model(model.pre_processor(batch.image))
        columns["scores"].append(prediction.pred_score)
        columns["anomalous"].append(batch.gt_label.bool())
        columns["concepts"].append(prediction.concept)
        columns["categories"].append(
            torch.tensor([names.index(datamodule.category_by_path[path]) for path in batch.image_path])
        )
    return Scored(**{name: torch.cat(values) for name, values in columns.items()})


def by_rate(rate: float) -> SetThresholds:
    """Set one threshold for all concepts by a false-alarm rate."""

    def set_thresholds(half: Scored, num_concepts: int) -> Tensor:
        limit = conformal_limit(half.scores[~half.anomalous], rate)
        return torch.full((num_concepts,), float(limit.threshold))

    return set_thresholds


def by_rate_per_concept(rate: float) -> SetThresholds:
    """Set a threshold for each concept that has enough images."""

    def set_thresholds(half: Scored, num_concepts: int) -> Tensor:
        normal = ~half.anomalous
        scores, concepts = half.scores[normal].numpy(), half.concepts[normal].numpy()
        return torch.from_numpy(concept_thresholds(scores, concepts, num_concepts, rate))

    return set_thresholds


def by_f1(half: Scored, num_concepts: int) -> Tensor:
    """Set the threshold of the best F1 score, below which no image counts as anomalous."""
    threshold = best_threshold(half.scores.numpy(), half.anomalous.numpy())
    return torch.tensor(threshold).nextafter(torch.tensor(-torch.inf)).expand(num_concepts)


def by_highest(half: Scored, num_concepts: int) -> Tensor:
    """Let the highest normal score be the threshold."""
    return half.scores[~half.anomalous].max().expand(num_concepts)


WAYS: dict[str, SetThresholds] = {
    **{f"rate {rate}": by_rate(rate) for rate in RATES},
    **{f"rate {rate}, per concept": by_rate_per_concept(rate) for rate in RATES},
    "best F1 score": by_f1,
    "highest normal score": by_highest,
}


def judge(scored: Scored, set_thresholds: SetThresholds) -> dict[str, list[float]]:
    """Measure thresholds of halves on the other halves.

    Args:
        scored: All images.
        set_thresholds: Function of a half and the number of concepts, that gives a threshold for each.

    Returns:
        A value per split, for each of ``MEASURES``.
    """
    generator = torch.Generator().manual_seed(0)
    num_concepts = int(scored.concepts.max()) + 1
    values = defaultdict(list)
    for _ in range(NUM_SPLITS):
        in_half = torch.zeros(len(scored.scores), dtype=torch.bool)
        for kind in (scored.anomalous, ~scored.anomalous):
            members = kind.nonzero().flatten()
            in_half[members[torch.randperm(len(members), generator=generator)[: len(members) // 2]]] = True
        half, other = (Scored(*(column[part] for column in scored)) for part in (in_half, ~in_half))
        above = other.scores > set_thresholds(half, num_concepts)[other.concepts]
        normal = ~other.anomalous
        by_category = [above[normal & (other.categories == k)].float().mean() for k in other.categories.unique()]
        values["false alarms"].append(above[normal].float().mean().item())
        values["of the worst category"].append(torch.stack(by_category).nan_to_num(0.0).max().item())
        values["anomalies found"].append(above[other.anomalous].float().mean().item())
    return values


if __name__ == "__main__":
    main()
