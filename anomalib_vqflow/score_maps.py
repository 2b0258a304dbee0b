# SPDX-License-Identifier: Apache-2.0
"""From one map per level to one map of the size of the image."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .constants import constant

SMALLEST_ENERGY = 0.05  # of a cell far below normal; of less, some runtimes lose the digits
BORDER_WINDOW = 5
"""Cells, of which a share lies outside the image for cells near its border, which weigh less by this share."""


def log_energies(levels: Sequence[Tensor]) -> list[Tensor]:
    """Take logarithms of energies, which standardized ones become as soon as they are not negative.

    What a backbone sees near the border of an image is half padding, and varies more between normal images than what
    it sees elsewhere, so cells there weigh less. PatchCore has the same effect from the zeros that it averages in.

    Args:
        levels: Standardized energies, shape ``(B, 1, h_i, w_i)`` per level.

    Returns:
        Their logarithms, of the same shapes.
    """
    found = []
    for level in levels:
        height, width = level.shape[-2:]
        inside = _log_inside_share(height, width, level.dtype, level.device)
        found.append(F.softplus(level).clamp_min(SMALLEST_ENERGY).log() + inside)
    return found


@constant
def _log_inside_share(height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Tell the logarithm of the share of the window around each cell that lies in the map, shape ``(1, h, w)``."""
    inside = torch.ones(1, height, width, dtype=dtype, device=device)
    return F.avg_pool2d(inside, BORDER_WINDOW, stride=1, padding=BORDER_WINDOW // 2).log()


def mean_map(levels: Sequence[Tensor], indices: Sequence[int], size: tuple[int, int], decay: float = 1.0) -> Tensor:
    """Average some levels, every cell drawn where its pixels are.

    Args:
        levels: Maps of shape ``(B, 1, h_i, w_i)``, fine to coarse.
        indices: Levels to average, fine to coarse.
        size: Height and width of the map, in pixels.
        decay: Weight of each of them relative to the one before.

    Returns:
        Maps of shape ``(B, 1, H, W)``.
    """
    weights = [decay**rank for rank in range(len(indices))]
    shares = [weight / sum(weights) for weight in weights]
    weighed = [levels[index] * share for index, share in zip(indices, shares, strict=True)]
    return _upsampled_sum(weighed, size, align_corners=False)


def multiplicative_map(log_p: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Multiply the likelihoods of the levels, relative to the best pixel; maps of shape ``(B, 1, h_i, w_i)``."""
    total = _upsampled_sum(log_p, size, align_corners=True)
    return 1 - (total - total.amax(dim=(2, 3), keepdim=True)).exp()


def additive_map(log_p: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Add the likelihoods of the levels, each relative to its best cell; maps of shape ``(B, 1, h_i, w_i)``.

    Unlike the release's, the map is divided by the number of levels, so that it lies in [0, 1].
    """
    relative = [(level - level.amax(dim=(2, 3), keepdim=True)).exp() for level in log_p]
    total = _upsampled_sum(relative, size, align_corners=True)
    return (total.amax(dim=(2, 3), keepdim=True) - total) / len(log_p)


def _upsampled_sum(maps: Sequence[Tensor], size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """Interpolate maps of shape ``(B, 1, h_i, w_i)`` bilinearly, and add them up."""
    sizes = [length for m in maps for length in m.shape[-2:]]
    if torch.compiler.is_exporting() and all(isinstance(length, int) for length in (*sizes, *size)):
        # One product for all levels: runtimes then need no sum of three maps of the size of the image.
        columns = [_interpolation(m.shape[-2], size[0], m, align_corners).T @ m for m in maps]  # (B, 1, H, w_i)
        rows = [_interpolation(m.shape[-1], size[1], m, align_corners) for m in maps]  # (w_i, W)
        return torch.cat(columns, dim=-1) @ torch.cat(rows)
    upsampled = [F.interpolate(m, size=size, mode="bilinear", align_corners=align_corners) for m in maps]
    total = upsampled[0]
    for level in upsampled[1:]:
        total = total + level
    return total


def _interpolation(length: int, target: int, like: Tensor, align_corners: bool) -> Tensor:
    """Build the matrix of shape ``(length, target)`` that interpolates a row linearly."""
    rows = torch.eye(length, dtype=like.dtype, device=like.device)
    return F.interpolate(rows[None], size=target, mode="linear", align_corners=align_corners)[0]


MAPS = {"multiplicative": multiplicative_map, "additive": additive_map}
