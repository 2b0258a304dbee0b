# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import F1AdaptiveThreshold

from anomalib_vqflow.conformal import MARGIN
from anomalib_vqflow.thresholds import NormalScores, SeparatingThreshold


def threshold_of(scores, labels):
    metric = SeparatingThreshold(fields=["pred_score", "gt_label"])
    for score, label in zip(scores.split(3), labels.split(3), strict=True):
        metric.update(ImageBatch(image=torch.zeros(len(score), 3, 8, 8), pred_score=score, gt_label=label))
    return metric.compute()


def best_f1(scores, labels):
    f1 = []
    for threshold in scores:
        found = scores >= threshold
        f1.append(2 * (found & labels).sum() / (found.sum() + labels.sum()))
    return torch.stack(f1).max()


@pytest.mark.parametrize("seed", range(20))
def test_the_threshold_lies_between_scores_and_reaches_the_best_f1(seed):
    """Calling anomalous what is above it has the best F1 score of all thresholds, and no score is near it."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(12) % 3 == 0
    scores = (torch.randint(100, (12,), generator=generator) + 30 * labels) / 130

    threshold = threshold_of(scores, labels)

    found = scores > threshold
    f1 = 2 * (found & labels).sum() / (found.sum() + labels.sum())
    assert f1 == best_f1(scores, labels)
    assert (scores - threshold).abs().min() >= min(0.5 / 130, MARGIN * (scores.max() - scores.min())) * 0.99


def test_anomalib_s_threshold_loses_an_image():
    """What this is for: the image at which the best F1 score was found is not found."""
    scores, labels = torch.tensor([0.1, 0.2, 0.8, 0.9]), torch.tensor([False, False, True, True])
    metric = F1AdaptiveThreshold(fields=["pred_score", "gt_label"])
    metric.update(ImageBatch(image=torch.zeros(4, 3, 8, 8), pred_score=scores, gt_label=labels))

    assert not (metric.compute() < scores)[2]


@pytest.mark.parametrize("anomalous", [False, True])
def test_scores_of_one_kind_are_all_on_their_side(anomalous):
    """With normal images only, the threshold is above all of them; with anomalous ones only, below."""
    scores = torch.tensor([0.3, 0.5, 0.4])

    threshold = threshold_of(scores, torch.full((3,), anomalous))

    assert ((scores > threshold) == anomalous).all()


def test_normal_scores_are_those_of_normal_images():
    """Only images that are known to be normal are kept, with the highest value of their map and their concept."""
    metric, peaks = NormalScores(), torch.tensor([4.0, 5.0, 6.0])
    for label in (torch.tensor([0, 1, 0]), None):
        batch = ImageBatch(
            image=torch.zeros(3, 3, 8, 8),
            pred_score=torch.tensor([0.1, 0.2, 0.3]),
            anomaly_map=torch.eye(8).expand(3, 1, 8, 8) * peaks.view(3, 1, 1, 1),
            gt_label=label,
        )
        batch.concept = torch.tensor([2, 1, 0])
        metric.update(batch)

    assert torch.allclose(metric.compute(), torch.tensor([[0.1, 4.0, 2.0], [0.3, 6.0, 0.0]]))


def test_no_normal_scores():
    """Without labels there are none."""
    metric = NormalScores()
    metric.update(ImageBatch(image=torch.zeros(1, 3, 8, 8), pred_score=torch.zeros(1)))

    assert metric.compute().shape == (0, 3)
