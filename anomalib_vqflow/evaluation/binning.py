# SPDX-License-Identifier: Apache-2.0
"""Bins for raw scores of any scale, so that curves over millions of pixels need bounded memory."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DROPPED_BITS = 12  # of the 23 bits of a float32's mantissa
BINS_PER_OCTAVE = 2 ** (23 - DROPPED_BITS)
OCTAVES_BELOW_ONE = 24  # distances from 1 to the float32 below it go down to 2**-24
NUM_BINS = 2 ** (32 - DROPPED_BITS) + OCTAVES_BELOW_ONE * BINS_PER_OCTAVE


def bin_scores(scores: Tensor) -> Tensor:
    """Sort scores into bins, keeping their order.

    A bin holds the scores that agree in sign, exponent and the first 11 bits of their mantissa, so that its width is
    below 1/2048 of the score, whatever the scale of the scores. Between 0.5 and 1 it is also below 1/1024 of the
    distance to 1, for maps that come close to 1.

    Args:
        scores: Scores of any shape and sign; NaN goes to the lowest bin.

    Returns:
        Bins from 0 to ``NUM_BINS - 1``, int32, same shape, on the CPU.

    Example:
        >>> bool((bin_scores(torch.tensor([-1.0, 0.0, 1e-3, 5.0])).diff() > 0).all())
        True
    """
    values = torch.nan_to_num(scores.detach().float(), nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    values = values.cpu() + 0.0  # -0 becomes 0
    bins = _leading_bits(values)
    half, stretched = _leading_bits(torch.tensor(0.5)), OCTAVES_BELOW_ONE * BINS_PER_OCTAVE
    distance = (1 - values).clamp(min=2.0 ** -(OCTAVES_BELOW_ONE + 1))
    below_one = half + (half - _leading_bits(distance))
    above_one = bins + (stretched - BINS_PER_OCTAVE)
    bins = torch.where(values <= 0.5, bins, torch.where(values <= 1, below_one, above_one))
    return bins + 2 ** (31 - DROPPED_BITS)


def histogram(bins: Tensor, weights: Tensor | None = None) -> Tensor:
    """Count scores, or add up their weights, per bin.

    The scores of a product fill some thousands of the million bins, so only those are kept.

    Args:
        bins: Bins, shape ``(N,)``.
        weights: Positive weights, shape ``(N,)``; None for 1.

    Returns:
        Filled bins, ascending, and what is in them, shape ``(K, 2)``, float64.

    Example:
        >>> histogram(torch.tensor([7, 3, 7])).tolist()
        [[3.0, 1.0], [7.0, 2.0]]
    """
    first = bins.min() if len(bins) else 0
    counts = torch.bincount(bins - first, weights)
    filled = counts.nonzero().flatten()
    return torch.stack([(filled + first).double(), counts[filled].double()], dim=1)


def add_histograms(histograms: Sequence[Tensor]) -> Tensor:
    """Add histograms up: any number of shape ``(K, 2)`` to one."""
    bins, counts = torch.cat(list(histograms)).unbind(dim=1)
    filled, places = bins.unique(return_inverse=True)
    return torch.stack([filled, torch.bincount(places, counts, minlength=len(filled))], dim=1)


def all_bins(histogram: Tensor) -> NDArray[np.float64]:
    """List what is in every bin, the empty ones, too: ``(K, 2)`` to ``(NUM_BINS,)``."""
    bins, counts = histogram.cpu().numpy().T
    return np.bincount(bins.astype(np.int64), counts, minlength=NUM_BINS).astype(np.float64)


def _leading_bits(values: Tensor) -> Tensor:
    bits = values.view(torch.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # negative floats are in reverse order
    return ordered >> DROPPED_BITS
