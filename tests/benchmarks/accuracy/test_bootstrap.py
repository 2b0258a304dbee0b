# SPDX-License-Identifier: Apache-2.0
"""The paired bootstrap has the distribution that theory says, and the metrics of the evaluator."""

import numpy as np
import pytest
import torch

from anomalib_vqflow.evaluation.curves import aupro as aupro_of_one
from anomalib_vqflow.evaluation.curves import curve_metrics
from benchmarks.accuracy.bootstrap import aupro, curves, paired_bootstrap, resample
from benchmarks.accuracy.recording import Image, to_arrays

NUM_NORMAL, NUM_ANOMALOUS = 20, 30


def run(scores, categories=None, labels=None):
    labels = [False] * NUM_NORMAL + [True] * NUM_ANOMALOUS if labels is None else labels
    categories = ["a"] * len(labels) if categories is None else categories
    rows = zip(categories, labels, scores, strict=True)
    return to_arrays([Image(name, f"{i:03}", label, score, None) for i, (name, label, score) in enumerate(rows)])


def missing(number):
    """Scores that separate all images but a number of anomalous ones, which are below all normal ones."""
    return [1.0] * NUM_NORMAL + [0.0] * number + [2.0] * (NUM_ANOMALOUS - number)


def test_a_method_equals_itself():
    """No difference in any resample: half of the equal ones count for each."""
    found = paired_bootstrap([run(missing(9))], [run(missing(9))], resamples=100)[("macro", "image_AUROC")]
    assert (found.low, found.high, found.share) == (0, 0, 0.5)


def test_a_difference_has_its_binomial_distribution():
    """One method misses k of n anomalous images, the other none: AUROC differs by k of the n drawn, over n."""
    missed = 9
    found = paired_bootstrap([run(missing(0))], [run(missing(missed))], resamples=20_000)[("pooled", "image_AUROC")]
    rate = missed / NUM_ANOMALOUS
    assert found.first - found.second == pytest.approx(rate)
    drawn = np.random.default_rng(1).binomial(NUM_ANOMALOUS, rate, 100_000) / NUM_ANOMALOUS
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=1.01 / NUM_ANOMALOUS)
    assert found.share == pytest.approx(1 - (1 - rate) ** NUM_ANOMALOUS / 2, abs=1e-4)


def test_the_share_is_a_probability():
    """The methods miss one image each, not the same: who is better is who has its own drawn less often."""
    other = missing(0)
    other[-1] = 0.0
    found = paired_bootstrap([run(missing(1))], [run(other)], resamples=20_000)[("macro", "image_AUROC")]
    assert found.share == pytest.approx(0.5, abs=0.02)
    assert found.low == -found.high


def test_images_are_paired():
    """Which images are hard does not matter if they are hard for both: misses in common leave no spread."""
    hard = paired_bootstrap([run(missing(9))], [run(missing(10))], resamples=2000)[("macro", "image_AUROC")]
    assert hard.high <= 5 / NUM_ANOMALOUS  # one image, rarely drawn five times; unpaired it would be 11 / 30


def test_strata_keep_their_sizes():
    """Each resample has as many images of every stratum, some of them more than once."""
    strata = np.array([0, 1, 1, 2, 2, 2, 2])
    weights = resample(strata, 50, np.random.default_rng(0))
    for stratum in range(3):
        assert (weights[:, strata == stratum].sum(axis=1) == (strata == stratum).sum()).all()
    assert (weights[:, 0] == 1).all()
    assert weights.max() > 1


def test_macro_counts_categories_and_pooled_images():
    """One large category that is separated, one small one that is not; and their scores are on different scales."""
    labels = [False] * 9 + [True] * 9 + [False, True]
    categories = ["a"] * 18 + ["b"] * 2
    scores = [0.0] * 9 + [1.0] * 9 + [0.7, 0.2]
    found = paired_bootstrap([run(scores, categories, labels)], [run([0.0] * 20, categories, labels)], resamples=10)
    assert found["macro", "image_AUROC"].first == pytest.approx(0.5)
    assert found["pooled", "image_AUROC"].first == pytest.approx((9 * 10 + 1 * 9 + 0) / 100)
    assert found["macro", "image_AUROC"].second == 0.5


def test_seeds_are_averaged():
    """A method is the mean of its seeds, each on the same images."""
    found = paired_bootstrap([run(missing(0)), run(missing(6))], [run(missing(3))], resamples=10)
    assert found["macro", "image_AUROC"].first == pytest.approx(1 - 3 / NUM_ANOMALOUS)


def test_some_categories_are_compared_alone():
    """As if the others were not there."""
    labels = [False, True] * 6
    categories = ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    generator = np.random.default_rng(0)
    first, second = generator.random((2, 12))
    whole = paired_bootstrap(
        [run(first, categories, labels)], [run(second, categories, labels)], resamples=50, categories=["a", "c"]
    )
    part = [value for value in range(12) if categories[value] != "b"]
    alone = [run(scores[part], [categories[i] for i in part], [labels[i] for i in part]) for scores in (first, second)]
    assert whole == paired_bootstrap(alone[:1], alone[1:], resamples=50)
    with pytest.raises(ValueError, match="'d'"):
        paired_bootstrap(alone[:1], alone[1:], resamples=50, categories=["a", "d"])


def test_other_images_are_refused():
    """A pair needs the same image twice."""
    with pytest.raises(ValueError, match="categories differ"):
        paired_bootstrap([run(missing(0))], [run([*missing(0), 1.0], labels=[False] * 20 + [True] * 31)], resamples=10)


def test_curves_are_those_of_the_evaluator():
    """For any histograms, with ties and empty bins; NaN where one side is empty."""
    generator = np.random.default_rng(0)
    counts = generator.integers(0, 5, (3, 40, 12))
    negatives, positives, shares = counts * (generator.random(counts.shape) < 0.4)
    positives[3], negatives[4] = 0, 0
    found = curves(negatives.astype(float), positives.astype(float))
    regions = aupro(negatives.astype(float), shares / 7.0)
    for row in range(40):
        for name, values in found.items():
            np.testing.assert_allclose(values[row], curve_metrics(negatives[row], positives[row])[name], atol=1e-12)
        np.testing.assert_allclose(regions[row], aupro_of_one(negatives[row], shares[row] / 7.0), atol=1e-12)
    assert torch.isnan(torch.from_numpy(found["AUROC"])).sum() >= 2
