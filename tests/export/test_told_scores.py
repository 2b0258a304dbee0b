# SPDX-License-Identifier: Apache-2.0
"""Thresholds and scores of normal images are those that an exported model tells."""

import pytest
import torch
from anomalib.post_processing import PostProcessor

from anomalib_vqflow import SeparatingPostProcessor
from anomalib_vqflow.export.told_scores import (
    HIGHEST_THRESHOLD,
    normal_images,
    peak_threshold,
    told_thresholds,
)
from tests.tiny import tiny_model

NUM_IMAGES = 40


def post_processor(pixel_max=80.0, **arguments):
    """A post-processor by whose threshold 6 of 40 normal images are anomalous; its peaks are in another order."""
    post = SeparatingPostProcessor(**arguments)
    state = {"_image_threshold": 33.5, "_pixel_threshold": 40.0, "image_min": 0.0, "image_max": 80.0}
    for name, value in (state | {"pixel_min": 0.0, "pixel_max": pixel_max}).items():
        getattr(post, name).copy_(torch.tensor(value))
    scores = torch.arange(float(NUM_IMAGES))
    post.normal_scores = torch.stack((scores, 30 + scores.flip(0) / 2, scores % 2), dim=1)
    return post


def test_thresholds_are_those_of_the_told_scores():
    """Scores are normalized, so their thresholds are where the sensitivities are put."""
    post = tiny_model().post_processor
    assert told_thresholds(post) == (0.5, 0.5)
    post.image_sensitivity = 0.75
    assert told_thresholds(post) == (0.25, 0.5)
    assert told_thresholds(None) == (0.5, 0.5)
    assert told_thresholds(post, by_map=True) == (None, 0.5)
    assert told_thresholds(post_processor(), by_map=True) == (peak_threshold(post_processor()).threshold, 0.5)


@pytest.mark.parametrize("rate", [None, 0.1])
def test_peaks_raise_as_many_alarms_as_scores(rate):
    """The threshold lies between two peaks, above which there are as many normal images as are called anomalous."""
    post = post_processor(per_concept=False)
    if rate:
        post.set_false_alarm_rate(rate)
    normal, found = normal_images(post), peak_threshold(post)
    alarms = int(normal.is_anomalous.sum())
    assert alarms == (6 if rate is None else 3)
    ordered = normal.map_peak.sort().values
    assert found.threshold == pytest.approx(ordered[-alarms - 1 : -alarms + 1].mean().item())
    assert found.normal_share == alarms / NUM_IMAGES
    if rate:  # then the pixel threshold is that of the same rate
        assert found.threshold == pytest.approx(0.5, abs=1e-6)


def test_concepts_shift_peaks():
    """Peaks are those of the map that is told, from which each concept's threshold is taken."""
    post = post_processor()
    post.pixel_offsets = torch.tensor([0.0, 8.0])
    raw, concept = post.normal_scores[:, 1], post.normal_scores[:, 2]
    expected = (raw - 8 * concept - 40) / 80 + 0.5
    torch.testing.assert_close(normal_images(post).map_peak, expected)
    assert peak_threshold(post).normal_share == 6 / NUM_IMAGES


def test_the_threshold_is_in_the_range_of_maps():
    """Where the maps of many normal images end at 1, an anomaly's still lies above, at the price of alarms."""
    post = post_processor(pixel_max=1.0)
    at_the_end = (normal_images(post).map_peak == 1).sum()
    assert 6 < at_the_end < NUM_IMAGES
    assert peak_threshold(post) == (HIGHEST_THRESHOLD, at_the_end / NUM_IMAGES)


@pytest.mark.parametrize(
    "post",
    [
        None,
        PostProcessor(),
        SeparatingPostProcessor(),
        post_processor(enable_normalization=False),
        post_processor(enable_thresholding=False),
    ],
)
def test_without_labels_or_normal_images_there_is_none(post):
    """No number is made up."""
    assert peak_threshold(post) is None
