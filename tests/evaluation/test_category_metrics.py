# SPDX-License-Identifier: Apache-2.0
import math
import warnings

import pytest
import torch

from anomalib_vqflow.evaluation.category_metrics import CategoryMetrics


def metrics_of(part, aupimo=False):
    metrics = CategoryMetrics(aupimo)
    labels = torch.tensor([False, True])
    metrics.image_scores.update(torch.tensor([0.1, 0.9]) - part, labels)
    metrics.image_decisions.update(torch.tensor([False, part == 0]), labels)
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[1, :2, :2] = True
    metrics.update_pixel_scores(torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(part)), masks)
    metrics.pixel_decisions.update(masks, masks)
    return metrics


@pytest.mark.parametrize("aupimo", [False, True])
def test_merged_metrics_count_all_images(aupimo):
    """Merging two categories counts all their images, decisions and regions."""
    merged = CategoryMetrics(aupimo)
    for part in range(2):
        merged.merge(metrics_of(part, aupimo), pixels=True)

    row = merged.compute().row
    assert (row["normal"], row["anomalous"]) == (2, 2)
    assert row["image_AUROC"] == 0.75
    assert row["image_F1Score"] == pytest.approx(2 / 3)
    assert row["pixel_F1Score"] == 1.0
    overlaps = torch.cat(merged.pixel_scores.region_overlaps)[:, 1]
    assert overlaps.sum().item() == pytest.approx(2)
    assert ("pixel_AUPIMO" in row) == aupimo


def test_merging_does_not_change_what_is_merged():
    """A category has the same results before and after it is merged into others."""
    metrics, merged = metrics_of(0), CategoryMetrics(aupimo=False)
    before = metrics.compute()

    merged.merge(metrics, pixels=True)
    merged.merge(metrics_of(1), pixels=True)

    assert metrics.compute() == before
    assert merged.compute() != before


def test_pixels_can_be_left_out():
    """Merging without pixels keeps the image metrics only."""
    merged = CategoryMetrics(aupimo=False)
    merged.merge(metrics_of(0), pixels=False)

    row = merged.compute().row
    assert row["image_AUROC"] == 1.0
    assert math.isnan(row["pixel_AUROC"])
    assert math.isnan(row["pixel_F1Score"])


def test_nothing_collected_is_not_evaluable():
    """Without images, every metric is NaN, and there is no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row = CategoryMetrics(aupimo=True).compute().row

    assert row.pop("normal") == row.pop("anomalous") == 0
    assert all(math.isnan(value) for value in row.values())


def test_f1_at_own_threshold():
    """F1 is that of the counted decisions, and not evaluable without an anomaly."""
    metrics = CategoryMetrics(aupimo=False)
    metrics.image_decisions.update(torch.tensor([1, 1, 0, 0]).bool(), torch.tensor([1, 0, 1, 0]).bool())
    metrics.image_decisions.update(torch.tensor([True]), torch.tensor([True]))
    metrics.pixel_decisions.update(torch.tensor([True, False]), torch.tensor([False, False]))

    row = metrics.compute().row

    assert row["image_F1Score"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert math.isnan(row["pixel_F1Score"])


@pytest.mark.parametrize(
    ("filled", "labels", "known"), [(True, [0, 1], True), (False, [0, 1], False), (False, [0], True)]
)
def test_pixels_are_known_unless_masks_of_anomalies_are_empty(filled, labels, known):
    """Without an anomalous pixel, the pixels of a category are known only if it has no anomalous image."""
    metrics, masks = CategoryMetrics(aupimo=False), torch.zeros(len(labels), 8, 8, dtype=torch.bool)
    masks[-1, 2, 2] = filled
    metrics.image_scores.update(torch.rand(len(labels)), torch.tensor(labels))
    metrics.update_pixel_scores(torch.rand(masks.shape), masks)

    assert metrics.compute().has_masks == known


def test_maps_may_have_a_channel():
    """Maps and masks with and without a channel give the same results."""
    maps, masks = torch.rand(2, 8, 8), torch.rand(2, 8, 8) > 0.5
    results = []
    for shape in ((2, 8, 8), (2, 1, 8, 8)):
        metrics = CategoryMetrics(aupimo=False)
        metrics.update_pixel_scores(maps.reshape(shape), masks)
        results.append(metrics.compute().row["pixel_AUPRO"])

    assert results[0] == results[1]


def test_maps_and_masks_of_different_size_raise():
    """A map of another size than its mask is refused, with both sizes."""
    with pytest.raises(ValueError, match=r"\(1, 4, 4\) and masks \(1, 8, 8\)"):
        CategoryMetrics(aupimo=False).update_pixel_scores(torch.zeros(1, 4, 4), torch.zeros(1, 8, 8))
