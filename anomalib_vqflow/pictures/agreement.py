# SPDX-License-Identifier: Apache-2.0
"""How well concepts, found without labels, agree with categories."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray


class Agreement(NamedTuple):
    """How well two partitions of images agree; both numbers are NaN if there are fewer than two categories.

    Attributes:
        purity: Share of images in the category that is the most frequent one of their concept.
        nmi: Mutual information, divided by the mean of both entropies; 0 for unrelated, 1 for equal partitions.
    """

    purity: float
    nmi: float


def count_images(images: pd.DataFrame, categories: list[str]) -> pd.DataFrame:
    """Count the images of each concept and category.

    Args:
        images: Columns ``concept`` and ``category``.
        categories: Names of all categories, in order.

    Returns:
        One row per concept in use, one column per category. Rows are sorted by their leading category, then by their
        number of images, so that concepts of one category stand together.

    Example:
        >>> images = pd.DataFrame({"concept": [3, 3, 7], "category": ["nut", "nut", "bolt"]})
        >>> count_images(images, ["bolt", "nut"]).values.tolist()
        [[1, 0], [0, 2]]
    """
    table = pd.crosstab(images["concept"], images["category"]).reindex(columns=categories, fill_value=0)
    order = np.lexsort((table.index, -table.to_numpy().sum(axis=1), table.to_numpy().argmax(axis=1)))
    return table.iloc[order]


def measure_agreement(table: pd.DataFrame) -> Agreement:
    """Compute purity and normalized mutual information.

    Args:
        table: Images of each concept (row) and category (column).

    Returns:
        The measures.

    Example:
        >>> measure_agreement(pd.DataFrame([[4, 0], [0, 4], [0, 4]])).purity
        1.0
    """
    counts = table.to_numpy(dtype=float)
    if (counts.sum(axis=0) > 0).sum() < 2:
        return Agreement(float("nan"), float("nan"))
    joint = counts / counts.sum()
    concept_entropy, category_entropy = _entropy(joint.sum(axis=1)), _entropy(joint.sum(axis=0))
    shared = concept_entropy + category_entropy - _entropy(joint)
    return Agreement(float(joint.max(axis=1).sum()), max(shared, 0.0) / (0.5 * (concept_entropy + category_entropy)))


def _entropy(share: NDArray[np.float64]) -> float:
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())
