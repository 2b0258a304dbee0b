# SPDX-License-Identifier: Apache-2.0
"""Bins for raw scores of any scale, so that curves over millions of pixels need bounded memory."""

import torch
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
    """Count scores, or add up their weights, per bin: ``(N,)`` to ``(NUM_BINS,)``."""
    return torch.bincount(bins, weights, minlength=NUM_BINS)


def _leading_bits(values: Tensor) -> Tensor:
    bits = values.view(torch.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # negative floats are in reverse order
    return ordered >> DROPPED_BITS
