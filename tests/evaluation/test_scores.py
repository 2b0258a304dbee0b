# SPDX-License-Identifier: Apache-2.0
import math
import pickle

import pytest
import torch
from anomalib.metrics.aupro import _AUPRO
from anomalib.metrics.pimo.functional import aupimo_scores
from sklearn.metrics import average_precision_score, roc_auc_score
from torchmetrics.functional.classification import binary_auroc, binary_average_precision, binary_precision_recall_curve

from anomalib_vqflow.evaluation.binning import NUM_BINS, bin_scores
from anomalib_vqflow.evaluation.category_evaluator import MAX_BINNING_ERROR
from anomalib_vqflow.evaluation.scores import ImageScores, PixelScores


def maps_and_masks(transform=lambda maps: maps, images=6, size=64):
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(images, size, size, dtype=torch.bool)
    for index in range(images - 2):
        masks[index, 5 : 15 + index, 8:20] = True
        masks[index, 40 : 44 + 3 * index, 30:50] = True
    maps = torch.rand(images, size, size, generator=generator) + 0.5 * masks
    return transform(maps / 1.5), masks


def large_maps_and_masks(strength=3.0, size=256, normal=12, anomalous=4):
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(normal + anomalous, size, size, dtype=torch.bool)
    for index in range(anomalous):
        masks[index, 5 : 25 + 5 * index, 8:50] = True
    noise = torch.randn(masks.shape, generator=generator).abs()
    return noise + strength * masks * torch.rand(masks.shape, generator=generator), masks


def pixel_scores(maps, masks, aupimo=False):
    scores = PixelScores(aupimo)
    scores.update(bin_scores(maps), masks)
    return scores


def image_scores(scores, labels):
    metric = ImageScores()
    metric.update(torch.tensor(scores), torch.tensor(labels))
    return metric


TRANSFORMS = {
    "plain": lambda maps: maps,
    "tiny": lambda maps: maps * 1e-6,
    "huge and negative": lambda maps: (maps - 0.5) * 1e6,
    "log-likelihood": lambda maps: 200 * torch.log(maps + 1e-3),
    "close to one": lambda maps: 1 - torch.exp(-12 * maps),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_binned_metrics_are_close_to_exact_ones_on_any_scale(name):
    """Binning moves AUROC by no more than stated, and AP and F1max by little, on any scale."""
    plain, masks = maps_and_masks()

    metrics = pixel_scores(TRANSFORMS[name](plain), masks).compute()

    preds, target = plain.flatten(), masks.flatten().int()
    precision, recall, _ = binary_precision_recall_curve(preds, target)
    f1_max = (2 * precision * recall / (precision + recall).clamp(min=1e-12)).max()
    assert abs(metrics["AUROC"] - binary_auroc(preds, target).item()) <= metrics["AUROC_error"] + 1e-6
    assert metrics["AUROC_error"] < 1e-3
    assert metrics["AUROC"] == pytest.approx(binary_auroc(preds, target).item(), abs=1e-4)
    assert metrics["AP"] == pytest.approx(binary_average_precision(preds, target).item(), abs=2e-3)
    assert metrics["F1Max"] == pytest.approx(f1_max.item(), abs=1e-3)


@pytest.mark.parametrize("offset", [10, 100])
def test_scores_far_from_zero_are_coarser_but_within_the_stated_error(offset):
    """Scores in a narrow range far from zero share bins: AUROC stays within its bound, which passes the warning's."""
    plain, masks = maps_and_masks()
    metrics = pixel_scores(offset + plain, masks).compute()

    exact = binary_auroc(plain.flatten(), masks.flatten().int()).item()
    assert abs(metrics["AUROC"] - exact) <= metrics["AUROC_error"]
    assert metrics["AUROC_error"] > MAX_BINNING_ERROR


def test_aupro_equals_that_of_anomalib():
    """AUPRO up to 30 % false positives equals anomalib's."""
    maps, masks = maps_and_masks()
    exact = _AUPRO(fpr_limit=0.3)
    exact.update(maps, masks)

    assert pixel_scores(maps, masks).compute()["AUPRO"] == pytest.approx(exact.compute().item(), abs=1e-3)


def test_every_region_counts_one():
    """Regions count equally in one batch or several, also those that fill their image."""
    maps, masks = maps_and_masks()
    masks[:2] = True
    whole, single = pixel_scores(maps, masks), PixelScores(aupimo=False)
    for index in range(len(maps)):
        single.update(bin_scores(maps[index : index + 1]), masks[index : index + 1])

    assert whole.region_overlaps[0][:, 1].sum().item() == pytest.approx(2 + 2 * 2), (
        "two images are one region, two have two"
    )
    assert whole.compute() == pytest.approx(single.compute(), abs=1e-12)


@pytest.mark.parametrize("strength", [4.0, 8.0])
def test_aupimo_equals_that_of_anomalib_where_that_has_enough_thresholds(strength):
    """AUPIMO equals anomalib's at many thresholds."""
    maps, masks = large_maps_and_masks(strength)
    *_, scores, _ = aupimo_scores(maps, masks, num_thresholds=100_000)

    assert pixel_scores(maps, masks, aupimo=True).compute()["AUPIMO"] == pytest.approx(
        scores.nanmean().item(), abs=0.005
    )
    assert 0.05 < scores.nanmean() < 0.95


@pytest.mark.parametrize(("shift", "expected"), [(10, 1.0), (-10, 0.0)])
def test_aupimo_of_perfect_and_useless_maps(shift, expected):
    """Maps that separate all defects score one, those that separate none zero."""
    maps, masks = large_maps_and_masks()

    metrics = pixel_scores(maps + shift * masks, masks, aupimo=True).compute()

    assert metrics["AUPIMO"] == pytest.approx(expected)


def test_aupimo_is_computed_on_request():
    """AUPIMO is NaN where there are too few normal pixels or no defect, and missing if not asked for."""
    assert "AUPIMO" not in pixel_scores(*maps_and_masks()).compute()
    assert math.isnan(pixel_scores(*large_maps_and_masks(size=64), aupimo=True).compute()["AUPIMO"])
    normal = [tensor[4:] for tensor in large_maps_and_masks()]
    assert math.isnan(pixel_scores(*normal, aupimo=True).compute()["AUPIMO"])


@pytest.mark.parametrize("aupimo", [False, True])
def test_merged_pixel_scores_equal_those_of_the_whole(aupimo):
    """Metrics of two states that torchmetrics merges equal those of all images."""
    maps, masks = large_maps_and_masks()
    whole, first, second = (
        pixel_scores(maps[part], masks[part], aupimo) for part in (slice(None), slice(3), slice(3, None))
    )

    first.merge_state(second)

    assert first.compute() == pytest.approx(whole.compute(), abs=1e-12)


def test_memory_is_that_of_the_bins_in_use():
    """Nothing before the first image, then little, though there are a million bins, and no more with more images."""
    assert len(pickle.dumps(PixelScores(aupimo=True))) < 10_000
    maps, masks = large_maps_and_masks()
    scores, sizes = PixelScores(aupimo=True), []
    for _ in range(3):
        scores.update(bin_scores(maps), masks)
        sizes.append(len(pickle.dumps(scores)))
    assert sizes[0] < 8 * NUM_BINS / 4
    assert sizes[2] == sizes[0]


def test_pixels_of_one_kind_are_not_evaluable():
    """With normal or anomalous pixels only, there is no metric."""
    maps = torch.rand(2, 8, 8)
    for mask in (torch.zeros_like(maps).bool(), torch.ones_like(maps).bool()):
        metrics = pixel_scores(maps, mask, aupimo=True).compute()
        assert metrics.pop("anomalous") == mask.sum()
        assert all(math.isnan(value) for value in metrics.values())


def test_image_metrics_are_exact():
    """Image metrics equal scikit-learn's on all scores, far outside of [0, 1] and with ties."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(100, generator=generator) < 0.4
    scores = (1000 * torch.randn(100, generator=generator)).round() / 100 - 500 + 5 * labels
    metric = ImageScores()
    for part in torch.arange(100).split(30):
        metric.update(scores[part], labels[part])

    metrics = metric.compute()

    assert metrics["AUROC"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert metrics["AP"] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert (metrics["normal"], metrics["anomalous"]) == ((~labels).sum(), labels.sum())


def test_raw_scores_outside_zero_and_one_are_not_squashed():
    """Scores beyond one keep their order and are counted."""
    metrics = image_scores([100.0, 101.0, 102.0, 103.0], [0, 0, 1, 1]).compute()

    assert metrics["AUROC"] == 1.0
    assert (metrics["normal"], metrics["anomalous"]) == (2, 2)


def test_infinite_scores_keep_their_order():
    """A score may be infinite; equal ones tie."""
    metrics = image_scores([-math.inf, 0.0, math.inf, math.inf], [0, 0, 0, 1]).compute()

    assert metrics["AUROC"] == pytest.approx(5 / 6)


def test_image_that_scores_nan_counts_as_lowest():
    """NaN as a score counts as the lowest, as no threshold flags it."""
    assert image_scores([float("nan"), 1.0, 2.0], [1, 0, 0]).compute()["AUROC"] == 0.0


def test_merged_image_scores_equal_those_of_the_whole():
    """Metrics of two states that torchmetrics merges equal those of all images."""
    first, second = image_scores([1.0, 4.0, 2.0], [0, 1, 1]), image_scores([3.0, 2.0], [0, 0])

    first.merge_state(second)

    assert first.compute() == image_scores([1.0, 4.0, 2.0, 3.0, 2.0], [0, 1, 1, 0, 0]).compute()


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_collected_is_not_evaluable():
    """Without images, there is no metric."""
    metrics = ImageScores().compute()

    assert metrics["normal"] == metrics["anomalous"] == 0
    assert math.isnan(metrics["AUROC"])
