# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import torch
from anomalib.metrics.pimo.functional import aupimo_scores

from anomalib_vqflow.evaluation.overlap import ImageOverlaps
from anomalib_vqflow.evaluation.scores import NUM_BINS, bin_scores


def maps_and_masks(size=256, normal=12, anomalous=4, strength=3.0):
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(normal + anomalous, size, size, dtype=torch.bool)
    for index in range(anomalous):
        masks[index, 5 : 25 + 5 * index, 8:50] = True
    noise = torch.randn(masks.shape, generator=generator).abs()
    return noise + strength * masks * torch.rand(masks.shape, generator=generator), masks


def filled(maps, masks):
    overlaps = ImageOverlaps(NUM_BINS)
    overlaps.update(bin_scores(maps), masks.numpy())
    return overlaps


@pytest.mark.parametrize("strength", [4.0, 8.0])
def test_equals_anomalib_where_that_has_enough_thresholds(strength):
    """AUPIMO equals anomalib's at many thresholds."""
    maps, masks = maps_and_masks(strength=strength)
    *_, scores, _ = aupimo_scores(maps, masks, num_thresholds=100_000)

    assert filled(maps, masks).compute() == pytest.approx(scores.nanmean().item(), abs=0.005)
    assert 0.05 < scores.nanmean() < 0.95


def test_perfect_and_useless_maps():
    """Maps that separate all defects score one, those that separate none zero."""
    maps, masks = maps_and_masks()

    assert filled(maps + 10 * masks, masks).compute() == pytest.approx(1.0)
    assert filled(maps - 10 * masks, masks).compute() == pytest.approx(0.0)


def test_parts_add_up():
    """AUPIMO of merged parts equals that of the whole."""
    maps, masks = maps_and_masks()
    first = filled(maps[::2], masks[::2])

    first.merge(filled(maps[1::2], masks[1::2]))

    assert first.compute() == pytest.approx(filled(maps, masks).compute(), abs=1e-9)


def test_too_few_normal_pixels_are_not_evaluable():
    """Too few normal pixels, or no anomalous image, give no AUPIMO."""
    maps, masks = maps_and_masks(size=64)
    assert math.isnan(filled(maps, masks).compute())

    assert math.isnan(filled(*(tensor[4:] for tensor in maps_and_masks())).compute()), "there is no anomalous image"
    assert np.isfinite(filled(*maps_and_masks()).compute())
