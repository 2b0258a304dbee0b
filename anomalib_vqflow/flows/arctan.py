# SPDX-License-Identifier: Apache-2.0
"""The arctangent, in exports made of what runtimes compute fast."""

import torch
from torch import Tensor

LARGEST_TANGENT = 1e8
"""From here on, the arctangent of a number of 32 bits is a right angle."""
COEFFICIENTS = (0.99999998, -0.33332808, 0.19974735, -0.13854566, 0.07993986)
"""Of x, x³, ..., nearest to the arctangent up to the tangent of π/8 (least squares, iterated)."""


def arctan(x: Tensor) -> Tensor:
    """Compute the arctangent; in exports within 1e-6.

    OpenVINO (2026.4) computes one number at a time for ``Atan``, and many for sums, products and square roots.

    Args:
        x: Numbers of any shape.

    Returns:
        Angles in radians, of the same shape.
    """
    return arctan_by_roots(x) if torch.compiler.is_exporting() else torch.atan(x)


def arctan_by_roots(x: Tensor) -> Tensor:
    """Halve the angle twice, so that few terms of a series do; within 1e-6.

    Args:
        x: Numbers of any shape.

    Returns:
        Angles in radians, of the same shape.
    """
    x = x.clamp(-LARGEST_TANGENT, LARGEST_TANGENT)
    for _ in range(2):
        x = x / (1 + (1 + x.square()).sqrt())
    square = x.square()
    series = COEFFICIENTS[-1] * square + COEFFICIENTS[-2]
    for coefficient in COEFFICIENTS[-3::-1]:
        series = series * square + coefficient
    return 4 * x * series
