# SPDX-License-Identifier: Apache-2.0
"""Concepts against categories, checked against scikit-learn."""

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from anomalib_vqflow.pictures.agreement import count_images, measure_agreement

NAMES = ["bolt", "gear", "nut"]


def draw(seed):
    rng = np.random.default_rng(seed)
    category = rng.integers(0, 3, 200)
    concept = np.where(rng.random(200) < 0.7, category * 5, rng.integers(0, 20, 200))
    return pd.DataFrame({"concept": concept, "category": [NAMES[index] for index in category]})


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_scikit_learn(seed):
    """Purity and NMI are what scikit-learn computes from the same images."""
    images = draw(seed)
    agreement = measure_agreement(count_images(images, NAMES))
    counts = contingency_matrix(images["category"], images["concept"])
    assert agreement.purity == pytest.approx(counts.max(axis=0).sum() / 200)
    assert agreement.nmi == pytest.approx(normalized_mutual_info_score(images["category"], images["concept"]))


def test_hand_made_case():
    """Of 10 images, 8 lie in the leading category of their concept; unrelated partitions share nothing."""
    assert measure_agreement(pd.DataFrame([[4, 1], [1, 4]])).purity == pytest.approx(0.8)
    assert measure_agreement(pd.DataFrame([[3, 3], [3, 3]])).nmi == pytest.approx(0.0, abs=1e-12)


def test_one_category_says_nothing():
    """With images of a single category there is no agreement to measure."""
    assert all(math.isnan(value) for value in measure_agreement(pd.DataFrame([[4, 0], [2, 0]])))


def test_table_keeps_all_images_and_categories():
    """No image is lost, a category without images keeps its column, and concepts stand by their leading category."""
    table = count_images(draw(0), [*NAMES, "washer"])
    assert table.to_numpy().sum() == 200
    assert list(table.columns) == [*NAMES, "washer"]
    leading = table.to_numpy().argmax(axis=1)
    assert (np.diff(leading) >= 0).all()
