# SPDX-License-Identifier: Apache-2.0
"""The measures, against their definitions."""

import math

import numpy as np
import pandas as pd
import pytest

from anomalib_vqflow.report.measures import best_threshold, count_images, measure_agreement

NAMES = ["bolt", "gear", "nut"]


def draw(seed):
    rng = np.random.default_rng(seed)
    category = rng.integers(0, 3, 200)
    concept = np.where(rng.random(200) < 0.7, category * 5, rng.integers(0, 20, 200))
    return pd.DataFrame({"concept": concept, "category": [NAMES[index] for index in category]})


def repeat(counts):
    """Make images of given counts per concept (row) and category (column)."""
    pairs = [(k, NAMES[c]) for k, row in enumerate(counts) for c, number in enumerate(row) for _ in range(number)]
    return pd.DataFrame(pairs, columns=["concept", "category"])


def entropy(values):
    share = np.unique(values, return_counts=True)[1] / len(values)
    return -(share * np.log(share)).sum()


@pytest.mark.parametrize("seed", range(3))
def test_agreement_is_as_defined(seed):
    """Purity and NMI follow from counts and from the entropies of concepts, categories and pairs of both."""
    images = draw(seed)
    agreement = measure_agreement(images)
    leading = [max((own == name).sum() for name in NAMES) for _, own in images.groupby("concept")["category"]]
    assert agreement.purity == pytest.approx(sum(leading) / 200)
    pairs = images["concept"].astype(str) + images["category"]
    apart = entropy(images["concept"]) + entropy(images["category"])
    assert agreement.nmi == pytest.approx((apart - entropy(pairs)) / (apart / 2))


def test_hand_made_agreement():
    """Of 10 images, 8 lie in the leading category of their concept; unrelated partitions share nothing."""
    assert measure_agreement(repeat([[4, 1], [1, 4]])).purity == pytest.approx(0.8)
    assert measure_agreement(repeat([[3, 3], [3, 3]])).nmi == pytest.approx(0.0, abs=1e-12)
    assert measure_agreement(repeat([[4, 0], [0, 4], [0, 4]])).purity == 1.0


def test_one_category_says_nothing():
    """With images of a single category there is no agreement to measure."""
    assert all(math.isnan(value) for value in measure_agreement(repeat([[4, 0], [2, 0]])))


def test_table_keeps_all_images_and_categories():
    """No image is lost, a category without images keeps its column, and concepts stand by their leading category."""
    table = count_images(draw(0), [*NAMES, "washer"])
    assert table.to_numpy().sum() == 200
    assert list(table.columns) == [*NAMES, "washer"]
    leading = table.to_numpy().argmax(axis=1)
    assert (np.diff(leading) >= 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_best_threshold(seed):
    """No threshold between or at the scores has a higher F1 score."""
    rng = np.random.default_rng(seed)
    anomalous = rng.random(60) < 0.4
    scores = rng.normal(size=60).round(1) + anomalous

    def f1(threshold):
        alarms = scores >= threshold
        return 2 * (alarms & anomalous).sum() / (alarms.sum() + anomalous.sum())

    best = best_threshold(pd.Series(scores), pd.Series(anomalous.astype(np.float32)))
    assert f1(best) == max(f1(value) for value in scores)


def test_no_best_threshold_without_anomalies():
    """Where no image is anomalous, no threshold is best."""
    assert math.isnan(best_threshold(pd.Series([0.1, 0.2]), pd.Series([0.0, 0.0])))
