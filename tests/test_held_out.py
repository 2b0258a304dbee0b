# SPDX-License-Identifier: Apache-2.0
"""What is kept of held-out scores sets the thresholds that all of them set, or higher ones."""

import json

import numpy as np
import pytest

from anomalib_vqflow.conformal import conformal_limit
from anomalib_vqflow.held_out import MOST_SCORES, describe_held_out, kept_ranks, read_held_out


def written_and_read(rows):
    return read_held_out(json.loads(json.dumps(describe_held_out(rows))))


def draw(counts, seed=0):
    """Rows of scores of concepts 0, 2, 4 and so on."""
    rng = np.random.default_rng(seed)
    concepts = np.repeat(2 * np.arange(len(counts)), counts)
    return np.stack((*rng.random((2, len(concepts))), concepts), axis=1).astype(np.float32)


def test_a_thousand_scores_are_kept_to_the_last_bit():
    """Of each concept, so that thresholds are equal, too."""
    rows = draw([3, MOST_SCORES])
    found = written_and_read(rows)
    assert found.keys() == {0, 2}
    for concept, group in found.items():
        assert group.num_images == (rows[:, 2] == concept).sum()
        for column, name in enumerate(("score", "map_peak")):
            assert (group.whole(name) == np.sort(rows[rows[:, 2] == concept, column])).all()


@pytest.mark.parametrize("count", [MOST_SCORES + 1, 12_345])
def test_of_more_scores_the_upper_ones_are_kept(count):
    """Usual rates give the same threshold; high ones never a lower one, and as many images are told as there were."""
    (group,) = written_and_read(rows := draw([count])).values()
    assert len(group.score) == MOST_SCORES
    assert len(group.whole("score")) == group.num_images == count
    for rate in (0.001, 0.01, 0.03, 0.2, 0.5, 0.9):
        kept, all_of_them = (conformal_limit(scores, rate) for scores in (group.whole("score"), rows[:, 0]))
        if rate <= 0.03:
            assert kept == all_of_them
        assert kept.threshold >= all_of_them.threshold
        assert kept.rate == all_of_them.rate


@pytest.mark.parametrize(("count", "most"), [(1, 4), (4, 4), (5, 4), (1000, 4), (1001, 1000)])
def test_ranks_are_distinct_and_hold_both_ends(count, most):
    """However many there are."""
    ranks = kept_ranks(count, most)
    assert len(ranks) == min(count, most)
    assert (np.diff(ranks) > 0).all()
    assert (ranks[0], ranks[-1]) == (1, count)
