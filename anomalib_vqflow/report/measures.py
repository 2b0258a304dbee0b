# SPDX-License-Identifier: Apache-2.0
"""The numbers on the plots: how concepts agree with categories, and how well scores separate."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import normalized_mutual_info_score, precision_recall_curve


class Agreement(NamedTuple):
    """How well concepts, found without labels, agree with categories; NaN if there are fewer than two categories."""

    purity: float  # share of images in the category that is the most frequent one of their concept
    nmi: float  # mutual information, divided by the mean of both entropies: 0 for unrelated, 1 for equal partitions


def count_images(images: pd.DataFrame, categories: list[str]) -> pd.DataFrame:
    """Count the images of each concept in use (row) and category (column, in the order given).

    Rows are sorted by their most frequent category, then by their number of images, so that concepts of one category
    stand together.

    Example:
        >>> images = pd.DataFrame({"concept": [3, 3, 7], "category": ["nut", "nut", "bolt"]})
        >>> count_images(images, ["bolt", "nut"]).values.tolist()
        [[1, 0], [0, 2]]
    """
    table = pd.crosstab(images["concept"], images["category"]).reindex(columns=categories, fill_value=0)
    order = np.lexsort((table.index, -table.to_numpy().sum(axis=1), table.to_numpy().argmax(axis=1)))
    return table.iloc[order]


def measure_agreement(images: pd.DataFrame) -> Agreement:
    """Compute purity and normalized mutual information of the columns ``concept`` and ``category``."""
    if images["category"].nunique() < 2:
        return Agreement(float("nan"), float("nan"))
    leading = pd.crosstab(images["concept"], images["category"]).max(axis=1).sum()
    nmi = normalized_mutual_info_score(images["category"], images["concept"])
    return Agreement(float(leading / len(images)), float(nmi))


def best_threshold(scores: pd.Series, anomalous: pd.Series) -> float:
    """Find the threshold with the highest F1 score, the lowest score to call anomalous; NaN if no image is anomalous.

    Example:
        >>> best_threshold(pd.Series([0.1, 0.4, 0.3, 0.9]), pd.Series([0, 1, 0, 1]))
        0.4
    """
    if not anomalous.any():
        return float("nan")
    precision, recall, thresholds = precision_recall_curve(anomalous, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    return float(thresholds[f1[:-1].argmax()])  # the last point has no threshold
