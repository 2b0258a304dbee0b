# SPDX-License-Identifier: Apache-2.0
"""Scores of held-out normal images by concept, as an export's metadata keep them; in NumPy, for ``vqflow-predict``."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST_SCORES = 1000
"""Images of a concept whose scores are all kept."""


class HeldOut(NamedTuple):
    """Raw scores of the held-out normal images of a concept; of many images, those of some ranks.

    Attributes:
        ranks: Ranks of the scores that are kept, ascending from 1 to the number of images, shape ``(m,)``.
        score: Image scores of these ranks, shape ``(m,)``, float32.
        map_peak: Highest values of maps of these ranks, shape ``(m,)``, float32.
    """

    ranks: NDArray[np.integer]
    score: NDArray[np.float32]
    map_peak: NDArray[np.float32]

    @property
    def num_images(self) -> int:
        """Number of images."""
        return int(self.ranks[-1])

    def whole(self, name: str) -> NDArray[np.float32]:
        """Give a value of each image: where it is not kept, the next higher one, which makes thresholds no lower.

        Args:
            name: ``score`` or ``map_peak``.

        Returns:
            Values of all images, ascending, shape ``(num_images,)``.
        """
        values: NDArray[np.float32] = getattr(self, name)
        return np.repeat(values, np.diff(self.ranks, prepend=0))


def kept_ranks(count: int, most: int = MOST_SCORES) -> NDArray[np.integer]:
    """Choose which of many scores are kept: the highest, which set thresholds, and some of the others.

    Args:
        count: Number of scores.
        most: Number of scores to keep.

    Returns:
        Ranks, ascending, 1 for the lowest score; all if there are no more than ``most``.

    Example:
        >>> kept_ranks(20, most=8).tolist()
        [1, 6, 11, 16, 17, 18, 19, 20]
    """
    if count <= most:
        return np.arange(1, count + 1)
    highest = most // 2
    others = np.linspace(1, count - highest, most - highest).round().astype(int)
    return np.concatenate((others, np.arange(count - highest + 1, count + 1)))


def describe_held_out(rows: NDArray[np.floating]) -> dict[str, dict[str, Any]]:
    """Write scores down for JSON.

    Args:
        rows: Score, highest value of the map, and concept of each image, shape ``(n, 3)``.

    Returns:
        For each concept, ``score`` and ``map_peak``, and ``ranks`` if these are not of all its images.
    """
    described = {}
    for concept in np.unique(rows[:, 2]):
        values = np.sort(rows[rows[:, 2] == concept, :2], axis=0)
        ranks = kept_ranks(len(values))
        columns = {name: _digits(values[ranks - 1, index]) for index, name in enumerate(("score", "map_peak"))}
        described[str(int(concept))] = {
            "ranks": None if len(ranks) == len(values) else ranks.tolist(),
            **columns,
        }
    return described


def read_held_out(described: Mapping[str, Mapping[str, Any]]) -> dict[int, HeldOut]:
    """Read what :func:`describe_held_out` wrote.

    Args:
        described: Scores by concept.

    Returns:
        The same.
    """
    found = {}
    for concept, group in described.items():
        score, peak = (np.array(group[name], dtype=np.float32) for name in ("score", "map_peak"))
        ranks = np.arange(1, len(score) + 1) if group["ranks"] is None else np.array(group["ranks"])
        found[int(concept)] = HeldOut(ranks, score, peak)
    return found


def _digits(values: NDArray[np.floating]) -> list[float]:
    """Round to what tells numbers of 32 bits apart."""
    return [float(f"{value:.9g}") for value in values.tolist()]
