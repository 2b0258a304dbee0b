# SPDX-License-Identifier: Apache-2.0

"""A bank of procedural pictures, class by class, as the raw material of the pretext task."""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .figures import FIGURES
from .textures import TEXTURES, Array

FORMULAS: tuple[Callable[[Generator, int, int], Array], ...] = (*TEXTURES, *FIGURES)


def pictures(index: int, num: int, size: int = 128, seed: int = 0) -> NDArray[np.uint8]:
    """Draw instances of one class.

    Args:
        index: Index of the class; classes take the formulas in turn.
        num: Number of pictures.
        size: Side of a picture in pixels.
        seed: Seed of the whole set of classes.

    Returns:
        Gray pictures of shape ``(num, size, size)``; the 1st and 99th percentile of the class at 0 and 255.

    Example:
        >>> pictures(0, num=2, size=32).shape
        (2, 32, 32)
    """
    formula = FORMULAS[index % len(FORMULAS)]
    fields = formula(np.random.default_rng([seed, index]), num, size)
    low, high = np.quantile(fields[:, ::2, ::2], (0.01, 0.99))
    scaled = (fields - low) / max(float(high - low), 1e-6)
    return np.asarray(np.rint(np.clip(scaled, 0, 1) * 255), dtype=np.uint8)


def bank(num_classes: int, num: int, size: int = 128, seed: int = 0) -> NDArray[np.uint8]:
    """Draw ``num`` pictures of every class, shape ``(num_classes, num, size, size)``; see :func:`pictures`."""
    return np.stack([pictures(index, num, size, seed) for index in range(num_classes)])
