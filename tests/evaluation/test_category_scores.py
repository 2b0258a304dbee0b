# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from torch import distributed, multiprocessing

from anomalib_vqflow.evaluation.category_scores import CategoryScores, gather
from anomalib_vqflow.evaluation.scores import PixelScores


def scores_of(rank, aupimo=False):
    scores = CategoryScores(aupimo)
    labels = torch.tensor([False, True])
    scores.images.update(torch.tensor([0.1, 0.9]) - rank, labels)
    scores.image_decisions.update(torch.tensor([False, rank == 0]), labels)
    scores.pixels = PixelScores(aupimo)
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[1, :2, :2] = True
    scores.pixels.update(torch.rand(2, 8, 8), masks)
    scores.pixel_decisions.update(masks, masks)
    return scores


@pytest.mark.parametrize("aupimo", [False, True])
def test_merged_scores_count_all_images(aupimo):
    """Merging two parts counts all their images, decisions and regions."""
    merged = CategoryScores(aupimo)
    for rank in range(2):
        merged.merge(scores_of(rank, aupimo))

    row = merged.row()
    assert (row.normal, row.anomalous) == (2, 2)
    assert row.metrics["image_AUROC"] == 0.75
    assert row.metrics["image_F1Score"] == pytest.approx(2 / 3)
    assert row.metrics["pixel_F1Score"] == 1.0
    assert merged.pixels.num_regions == 2
    assert ("pixel_AUPIMO" in row.metrics) == aupimo


def test_pixels_can_be_left_out():
    """Merging without pixels keeps the image metrics only."""
    merged = CategoryScores()
    merged.merge(scores_of(0), pixels=False)

    metrics = merged.row().metrics
    assert metrics["image_AUROC"] == 1.0
    assert math.isnan(metrics["pixel_AUROC"])
    assert math.isnan(metrics["pixel_F1Score"])


def test_one_process_gathers_its_own_scores():
    """Without distribution, gathering changes nothing."""
    scores = {"nut": CategoryScores()}

    assert gather(scores) is scores


def gather_in_process(rank, folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    gathered = gather({"nut": scores_of(rank)} | ({"bolt": scores_of(0)} if rank else {}))
    row = gathered["nut"].row()
    torch.save((list(gathered), row.anomalous, row.metrics["image_AUROC"]), folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_with_different_categories_agree(tmp_path):
    """Two processes get the same merged scores, even if one lacks a category."""
    multiprocessing.spawn(gather_in_process, (tmp_path,), nprocs=2)

    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert results[0] == results[1]
    assert sorted(results[0][0]) == ["bolt", "nut"]
    assert results[0][1:] == (2, 0.75)
