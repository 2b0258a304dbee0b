# SPDX-License-Identifier: Apache-2.0
from fractions import Fraction

import numpy as np
import pytest
import torch

from anomalib_vqflow.conformal import concept_thresholds, conformal_limit, images_needed


@pytest.mark.parametrize("rate", [0.5, 0.3, 0.1, 0.05, 0.01])
@pytest.mark.parametrize("count", [1, 2, 9, 10, 19, 98, 99, 100, 257])
def test_the_rank_is_that_of_split_conformal_prediction(rate, count):
    """Of n + 1 exchangeable scores, the share above the threshold of the others is exactly the rate that is told."""
    scores = torch.randperm(count, generator=torch.Generator().manual_seed(count)).float()

    limit = conformal_limit(scores, rate)

    above = (scores > limit.threshold).sum().item()
    assert limit.rate == (above + 1) / (count + 1)
    exact = Fraction(str(rate))
    assert (Fraction(above + 1, count + 1) <= exact) == (count >= images_needed(rate))
    assert Fraction(above + 2, count + 1) > exact, "a lower threshold would keep the rate, too"


@pytest.mark.parametrize("rate", [0.3, 0.1, 0.01])
def test_too_few_images_promise_what_they_can(rate):
    """One image less than needed, and the threshold is above all scores and keeps a higher rate."""
    needed = images_needed(rate)

    assert conformal_limit(torch.arange(float(needed)), rate).rate <= rate + 1e-12
    short = conformal_limit(torch.arange(float(needed - 1)), rate)
    assert short.rate == 1 / needed > rate
    assert short.threshold > needed - 2


@pytest.mark.parametrize("rate", [0.2, 0.05])
def test_new_scores_keep_the_rate(rate):
    """Over many draws of held-out and new scores, of any distribution, the mean rate of false alarms is kept."""
    generator = torch.Generator().manual_seed(0)
    rates = []
    for _ in range(2000):
        scores = torch.rand(60, generator=generator).log().neg().pow(3)
        held_out, new = scores.split(30)
        rates.append((new > conformal_limit(held_out, rate).threshold).float().mean())

    mean, error = torch.stack(rates).mean(), torch.stack(rates).std() / 2000**0.5
    assert rate - 1 / 31 - 3 * error < mean < rate + 3 * error


def test_equal_scores_are_all_normal():
    """Where scores are tied at the limit, none of them is above it."""
    limit = conformal_limit(torch.tensor([1.0, 2.0, 2.0, 2.0, 3.0]), 0.5)

    assert limit.threshold == 2.5


def test_scores_that_are_not_finite_count_for_nothing():
    """A broken image does not move the threshold, and without another there is none."""
    scores = torch.arange(20.0)
    broken = torch.cat((scores, torch.tensor([torch.nan, torch.inf])))

    assert conformal_limit(broken, 0.1) == conformal_limit(scores, 0.1)
    with pytest.raises(ValueError, match="at least one normal image"):
        conformal_limit(broken[20:], 0.1)


def test_concepts_with_enough_images_have_their_own_threshold():
    """Each large concept keeps the rate by its own scores, the small ones by theirs together."""
    concepts = np.array([0] * 30 + [2] * 12 + [3] * 12)
    scores = np.arange(54.0) + 100 * concepts

    thresholds = concept_thresholds(scores, concepts, num_concepts=5, rate=0.05)

    assert thresholds[0] == conformal_limit(scores[:30], 0.05).threshold
    assert (thresholds[1:] == conformal_limit(scores[30:], 0.05).threshold).all()


def test_small_concepts_that_are_too_few_together_take_all_images():
    """Where the rest is too small for the rate, all images set its threshold."""
    concepts = np.array([0] * 30 + [1] * 3)
    scores = np.arange(33.0)

    thresholds = concept_thresholds(scores, concepts, num_concepts=2, rate=0.05)

    assert thresholds.tolist() == [conformal_limit(s, 0.05).threshold for s in (scores[:30], scores)]
