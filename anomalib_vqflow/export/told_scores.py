# SPDX-License-Identifier: Apache-2.0
"""Scores and thresholds as exported models tell them: shifted by concept, normalized, and in [0, 1]."""

from typing import NamedTuple, cast

import torch
from anomalib.post_processing import PostProcessor
from torch import Tensor, nn

from anomalib_vqflow.conformal import MARGIN, conformal_limit
from anomalib_vqflow.outputs import Prediction
from anomalib_vqflow.post_processor import SeparatingPostProcessor

HIGHEST_THRESHOLD = 1 - MARGIN
"""Maps end at 1: above a higher threshold there would be nothing."""


class NormalImages(NamedTuple):
    """What a model tells of n normal validation images."""

    score: Tensor  # (n,)
    map_peak: Tensor  # (n,), highest value of the map
    is_anomalous: Tensor | None  # (n,), or None without a threshold
    concept: Tensor  # (n,)
    raw: Tensor  # (n, 3), before normalization: score, highest value of the map, concept
    num_thresholds: int  # concepts that may have a threshold of their own


class PeakThreshold(NamedTuple):
    """A threshold of the highest value of a map, and the share of normal validation images above it."""

    threshold: float
    normal_share: float


@torch.no_grad()
def normal_images(post: nn.Module | None) -> NormalImages | None:
    """Tell what the model says of the normal validation images.

    Args:
        post: Post-processor of a model.

    Returns:
        What it says, without images whose score is not a number; None if there are none.
    """
    if not isinstance(post, SeparatingPostProcessor):
        return None
    raw = post.normal_scores[post.normal_scores.isfinite().all(dim=1)]
    if not len(raw):
        return None
    score, peak, concept = raw.unbind(1)
    concept = concept.long()
    told = post(Prediction(score, None, peak.view(-1, 1, 1, 1), None, concept))
    num_thresholds = post.num_concepts if post.per_concept else 0
    return NormalImages(told.pred_score, told.anomaly_map.flatten(), told.pred_label, concept, raw, num_thresholds)


def told_thresholds(post: nn.Module | None, by_map: bool = False) -> tuple[float | None, float]:
    """Tell the thresholds of images and pixels.

    Args:
        post: Post-processor of a model.
        by_map: Whether images are judged by the highest value of their map instead of their score.

    Returns:
        Both; 0.5 where the post-processor is none of anomalib's, and None where there is none for highest values.
    """
    image, pixel = 0.5, 0.5
    if isinstance(post, PostProcessor):
        image, pixel = post.normalized_image_threshold.item(), post.normalized_pixel_threshold.item()
    if by_map:
        found = peak_threshold(post)
        return found and found.threshold, pixel
    return image, pixel


def peak_threshold(post: nn.Module | None) -> PeakThreshold | None:
    """Set a threshold for those who know an image by nothing but the highest value of its map.

    Neither the threshold of scores nor that of pixels is one: a score is a mean of many pixels, and a single pixel
    above its threshold is no anomaly yet, unless a false-alarm rate says so. Here as many of the normal validation
    images lie above as the model calls anomalous by their scores.

    Args:
        post: Post-processor of a model.

    Returns:
        The threshold; None if the model tells no labels, its maps are not normalized, or there are no normal images.

    Example:
        >>> peak_threshold(SeparatingPostProcessor()) is None
        True
    """
    normal = normal_images(post)
    if normal is None or normal.is_anomalous is None or not _is_normalized(cast("PostProcessor", post)):
        return None
    rate = (int(normal.is_anomalous.sum()) + 1) / (len(normal.score) + 1)
    threshold = min(conformal_limit(normal.map_peak.numpy(force=True), rate).threshold.item(), HIGHEST_THRESHOLD)
    return PeakThreshold(threshold, (normal.map_peak > threshold).double().mean().item())


def _is_normalized(post: PostProcessor) -> bool:
    """Whether maps end at 0 and 1: the post-processor normalizes, and knows by what."""
    return post.enable_normalization and not post.pixel_threshold.isnan().item()
