# SPDX-License-Identifier: Apache-2.0
"""Connected regions of a mask, in NumPy: runs of pixels, row by row, that touch each other are one region."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Region(NamedTuple):
    """A defect: its box and area in pixels of the image, and the highest score in it."""

    x: int
    y: int
    width: int
    height: int
    area: int
    peak: float


def find_regions(mask: np.ndarray, scores: np.ndarray) -> list[Region]:
    """Find the regions of a mask; pixels that touch at a corner are connected, too.

    Args:
        mask: Booleans of shape ``(H, W)``.
        scores: Scores of the same shape.

    Returns:
        The regions, those with the highest scores first.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> mask = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=bool)
        >>> find_regions(mask, np.full((3, 3), 0.75))
        [Region(x=0, y=0, width=2, height=2, area=2, peak=0.75)]
    """
    if mask.shape != scores.shape:
        msg = f"Expected a mask and scores of one shape, got {mask.shape} and {scores.shape}."
        raise ValueError(msg)
    steps = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(steps == 1)
    ends = np.nonzero(steps == -1)[1]  # behind each run
    if not len(rows):
        return []
    region = _connect(rows, starts, ends, mask.shape[1] + 1)
    lengths = ends - starts
    peaks = np.maximum.reduceat(scores[mask], np.cumsum(lengths) - lengths)  # of each run, as a mask reads row by row
    count = region.max() + 1
    left, top = _lowest(starts, region, count), _lowest(rows, region, count)
    right, bottom = -_lowest(-ends, region, count), 1 - _lowest(-rows, region, count)
    area = np.bincount(region, lengths, count).astype(int)
    peak = -_lowest(-peaks, region, count)
    columns = (left, top, right - left, bottom - top, area, peak)
    return [Region(*(column[index].item() for column in columns)) for index in np.argsort(-peak, kind="stable")]


def _connect(rows: np.ndarray, starts: np.ndarray, ends: np.ndarray, stride: int) -> NDArray[np.int64]:
    """Number the regions of runs, ``(n,)``, in the order of their first runs."""
    # It touches a run of the next row that ends where it starts or later, and starts where it ends or before.
    first = np.searchsorted(rows * stride + ends, (rows + 1) * stride + starts)
    behind = np.searchsorted(rows * stride + starts, (rows + 1) * stride + ends, side="right")
    counts = np.maximum(behind - first, 0)
    upper = np.repeat(np.arange(len(rows)), counts)
    lower = np.arange(len(upper)) + np.repeat(first - (np.cumsum(counts) - counts), counts)
    labels = np.arange(len(rows))  # of each run, the first run that it is known to be connected with
    while True:
        above, below = labels[upper], labels[lower]
        if (above == below).all():
            return np.unique(labels, return_inverse=True)[1].reshape(-1)
        np.minimum.at(labels, np.maximum(above, below), np.minimum(above, below))
        while (labels != labels[labels]).any():
            labels = labels[labels]


def _lowest(values: np.ndarray, region: np.ndarray, count: int) -> np.ndarray:
    """Get the lowest value in each region, ``(n,)`` to ``(count,)``."""
    lowest = np.full(count, values.max(), values.dtype)
    np.minimum.at(lowest, region, values)
    return lowest
