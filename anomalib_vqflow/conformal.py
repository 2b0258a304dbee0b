# SPDX-License-Identifier: Apache-2.0
r"""Thresholds that keep a false-alarm rate, from normal images alone: split conformal prediction.

Of n held-out normal scores, the :math:`\lceil (n + 1)(1 - \alpha) \rceil`-th smallest is exceeded by a new normal score
with a probability of at most α, whatever the distribution of scores, if the new image is exchangeable with the
held-out ones: drawn as they were, and as unknown to the training as they are.

In NumPy, because ``vqflow-predict`` sets thresholds without torch.

Sources: Vovk et al., "Algorithmic Learning in a Random World", 2005, chapter 4; Papadopoulos et al., "Inductive
Confidence Machines for Regression", 2002.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

MARGIN = 1e-3
"""Distance of a threshold from the outermost score, in ranges of the scores; runtimes differ by a tenth of that."""

ROUNDING = 1e-9
"""A rank must not grow by one because 0.1 is not a binary fraction."""


class Limit(NamedTuple):
    """A threshold, and the share of new normal scores that lie above it, at most."""

    threshold: np.floating
    rate: float


def images_needed(rate: float) -> int:
    """Tell how many held-out normal images a false-alarm rate needs.

    Args:
        rate: False-alarm rate α, in (0, 1).

    Returns:
        The smallest n for which some score of n is exceeded by a share α of new ones at most:
        1 / α - 1, rounded up.

    Example:
        >>> images_needed(0.01), images_needed(0.05), images_needed(0.3)
        (99, 19, 3)
    """
    return math.ceil(1 / rate - 1 - ROUNDING)


def conformal_limit(scores: ArrayLike, rate: float) -> Limit:
    """Set a threshold by split conformal prediction.

    It lies halfway to the next higher score, or above the highest by a margin, so that rounding decides about nothing.
    Where the scores are too few for the rate, it lies above all of them, which keeps a rate of 1 / (n + 1).

    Args:
        scores: Scores of held-out normal images, shape ``(n,)``; those that are not finite are left out.
        rate: False-alarm rate α, in (0, 1).

    Returns:
        The threshold, and the rate that it keeps.

    Raises:
        ValueError: If there is no finite score.

    Example:
        >>> conformal_limit(range(99), rate=0.1)
        Limit(threshold=np.float64(89.5), rate=0.1)
        >>> conformal_limit(range(4), rate=0.1).rate
        0.2
    """
    ordered = np.sort(np.asarray(scores))
    ordered = ordered[np.isfinite(ordered)]
    count = len(ordered)
    if not count:
        msg = "A threshold needs the score of at least one normal image, got none that is finite."
        raise ValueError(msg)
    rank = min(max(math.ceil((count + 1) * (1 - rate) - ROUNDING), 1), count)
    threshold = ordered[rank - 1]
    higher = ordered[ordered > threshold]
    margin = MARGIN * (ordered[-1] - ordered[0])
    threshold = (threshold + higher[0]) / 2 if len(higher) else threshold + margin
    return Limit(threshold, (count + 1 - rank) / (count + 1))


def concept_thresholds(
    scores: NDArray[np.floating], concepts: NDArray[np.integer], num_concepts: int, rate: float
) -> NDArray[np.floating]:
    """Set a threshold for each concept that has enough images, and a common one for all others.

    Each of the former keeps the rate for its own images. The others do so all together: by their own images if these
    are enough, else by all images.

    Args:
        scores: Scores of held-out normal images, shape ``(n,)``.
        concepts: Concept of each image, shape ``(n,)``.
        num_concepts: Number of concepts K.
        rate: False-alarm rate α, in (0, 1).

    Returns:
        Thresholds of shape ``(K,)``.

    Raises:
        ValueError: If there is no finite score.
    """
    finite, needed = np.isfinite(scores), images_needed(rate)
    scores, concepts = scores[finite], concepts[finite]
    is_large = np.bincount(concepts, minlength=num_concepts) >= needed
    others = scores[~is_large[concepts]]
    common = conformal_limit(others if len(others) >= needed else scores, rate).threshold
    own = {int(k): conformal_limit(scores[concepts == k], rate).threshold for k in np.flatnonzero(is_large)}
    return np.array([own.get(k, common) for k in range(num_concepts)])
