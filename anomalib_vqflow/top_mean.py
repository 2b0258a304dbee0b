# SPDX-License-Identifier: Apache-2.0
"""The mean of the highest pixels of a map."""

import torch
from torch import Tensor
from torch.nn import functional as F

STRIDE = 4
"""Every fourth pixel of every fourth row tells about where the threshold is."""
MARGIN = 0.1
"""How far the share of those pixels above the two first thresholds is from the share that is wanted, relative to it."""
FEWEST = 64
"""Highest pixels among every fourth ones from which on they tell enough."""


def top_mean(maps: Tensor, share: float) -> Tensor:
    """Average the top share of the pixels of each map, at least one.

    Exported models, where the size of the maps is known, find the threshold of these pixels instead of sorting them
    out; see :func:`top_mean_by_threshold`.

    Args:
        maps: Maps of shape ``(B, 1, H, W)``.
        share: Share of the pixels, in (0, 1].

    Returns:
        Means of shape ``(B,)``.
    """
    height, width = maps.shape[-2:]
    count = max(int(share * height * width), 1)
    if torch.compiler.is_exporting() and isinstance(count, int) and FEWEST * STRIDE**2 <= count < height * width / 2:
        return top_mean_by_threshold(maps, count)
    return maps.flatten(1).topk(count, dim=1).values.mean(dim=1)


def top_mean_by_threshold(maps: Tensor, count: int) -> Tensor:
    r"""Average the highest pixels of each map without sorting.

    The mean of the k highest of N values is :math:`\min_t\; t + \tfrac1k \sum_i \max(x_i - t, 0)`, and its slope in t
    is :math:`1 - \#\{x_i > t\} / k`. So an error of t matters in the second order only. Two thresholds are taken from
    few pixels, the pixels above them are counted, and t is where a line through the counts has k.

    Source: Rockafellar and Uryasev, 2000, "Optimization of conditional value-at-risk", Theorem 1, for the minimum.

    Args:
        maps: Maps of shape ``(B, 1, H, W)``.
        count: Number of pixels k, much less than half of them.

    Returns:
        Means of shape ``(B,)``, at most a little too large.
    """
    pixels, some = maps.flatten(1), maps[..., ::STRIDE, ::STRIDE].flatten(1)
    share = count / pixels.shape[1]
    above, below = int((1 - MARGIN) * share * some.shape[1]), int((1 + MARGIN) * share * some.shape[1]) + 1
    highest = some.topk(below, dim=1).values
    high, low = highest[:, above - 1 : above], highest[:, below - 1 : below]  # (B, 1)
    share_high, share_low = ((pixels > t).to(maps.dtype).mean(dim=1, keepdim=True) for t in (high, low))
    place = (share - share_high) / (share_low - share_high).clamp_min(1e-9)
    threshold = high + (low - high) * place.clamp(-2, 3)  # thresholds of equal shares are equal but by rounding
    return (threshold + F.relu(pixels - threshold).mean(dim=1, keepdim=True) / share).squeeze(1)
