# SPDX-License-Identifier: Apache-2.0
"""False alarms are as rare as is said, defects alone are no drift, and a drift is found."""

from pathlib import Path, PurePath

import numpy as np
import pytest
from scipy import stats

from anomalib_vqflow.held_out import describe_held_out, read_held_out
from anomalib_vqflow.prediction.drift import DEFECTS, Cells, cells_of, compare_scores, compare_shares, find_drift
from anomalib_vqflow.prediction.pipeline import Result
from anomalib_vqflow.prediction.scales import Scale
from anomalib_vqflow.prediction.search import Source

SOURCE = Source(Path("a.png"), PurePath("a.png"))
SHARES = np.array([0.5, 0.3, 0.2])
LIMIT = 8.0
"""Score above which images of the first concept are anomalous; the others' limits are higher by their shift."""
SCALE = Scale(LIMIT + 2 * np.arange(3, dtype=np.float32), (0, 1), 0.5)
RATE = 0.05


def draw_scores(rng, counts, shift=0.0):
    return np.concatenate([rng.gamma(2, size=count) + 2 * k + shift for k, count in enumerate(counts)])


def held_out(rng, count=120, shares=SHARES):
    counts = rng.multinomial(count, shares)
    scores = draw_scores(rng, counts)
    concepts = np.repeat(np.arange(len(counts)), counts)
    return read_held_out(describe_held_out(np.stack((scores, scores, concepts), axis=1).astype(np.float32)))


def run(rng, count=80, shares=SHARES, shift=0.0, defects=0.0):
    """Results of new images, some of them defects, which score high and may look like any concept."""
    counts = rng.multinomial(count, shares)
    scores, concepts = draw_scores(rng, counts, shift), np.repeat(np.arange(len(counts)), counts)
    is_defect = rng.random(count) < defects
    scores[is_defect], concepts[is_defect] = 100, rng.integers(0, 3, is_defect.sum())
    labels = scores > SCALE.thresholds[concepts]
    return [
        Result(SOURCE, score=0, label=bool(label), concept=int(concept), raw_score=float(score))
        for score, label, concept in zip(scores, labels, concepts, strict=True)
    ]


def alarms(seed=0, draws=60, **arguments):
    """Share of draws of held-out images and of a run in which a drift is told."""
    rng = np.random.default_rng(seed)
    found = [bool(find_drift(run(rng, **arguments), held_out(rng), SCALE, RATE).found) for _ in range(draws)]
    return np.mean(found)


@pytest.mark.parametrize("defects", [0.0, 0.08])
def test_false_alarms_are_as_rare_as_is_said(defects):
    """With normal images only, and with some defects among them."""
    count = round(120 * alarms(draws=120, defects=defects))
    assert stats.binomtest(count, 120, RATE, alternative="greater").pvalue > 0.01


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shift": 1.5}, "scores are higher"),
        ({"shift": -1.0}, "scores are lower"),
        ({"shares": [0.1, 0.5, 0.4]}, "concept 0 (nut) has a share of"),
    ],
)
def test_a_drift_is_found_and_named(change, words):
    """A lamp that makes all scores higher, or lower, and other products on the line."""
    assert alarms(draws=20, **change) > 0.9
    rng = np.random.default_rng(0)
    (found,) = find_drift(run(rng, **change), held_out(rng), SCALE, RATE, {0: "nut"}).found
    assert words in found


def test_other_products_are_no_drift_of_scores():
    """Though their scores lie elsewhere."""
    rng = np.random.default_rng(0)
    drift = find_drift(run(rng, 200, [0.05, 0.05, 0.9]), held_out(rng), SCALE, RATE)
    assert drift.p_values["scores are higher"] > 0.05
    assert drift.p_values["scores are lower"] > 0.05


def test_more_defects_than_are_allowed_are_a_drift():
    """Of many images, a third."""
    assert alarms(draws=10, count=200, defects=0.33) == 1


@pytest.mark.parametrize("shift", [0.0, 0.2, -0.3])
def test_p_values_of_scores_are_those_of_scipy(shift):
    """Of a one-sided two-sample Kolmogorov-Smirnov test, for a single concept; higher ones may be defects."""
    rng = np.random.default_rng(3)
    (group,) = held_out(rng, 60, [1.0]).values()
    scores = draw_scores(rng, [70], shift).astype(np.float32)
    higher, lower = compare_scores([cells_of(group, scores)], rng, 4000)
    exact = {side: stats.ks_2samp(scores, group.score, alternative=side).pvalue for side in ("greater", "less")}
    assert lower == pytest.approx(exact["greater"], abs=0.04)
    assert higher > exact["less"] - 0.02


def test_p_values_of_shares_are_those_of_scipy():
    """Of a chi-square test, which holds for many images, and of Fisher's exact test for few."""
    rng = np.random.default_rng(0)
    now, before = np.array([300, 200, 100, 0]), np.array([270, 230, 110, 0])
    exact = stats.chi2_contingency([now[:3], before[:3]], correction=False).pvalue
    assert compare_shares(now, before, rng, 4000) == pytest.approx(exact, abs=0.03)
    now, before = np.array([5, 1]), np.array([2, 8])
    assert compare_shares(now, before, rng, 4000) == pytest.approx(stats.fisher_exact([now, before]).pvalue, abs=0.03)
    assert compare_shares(now, 0 * now, rng, 10) == compare_shares(0 * now, now, rng, 10) == 1


def test_cells_hold_every_score_once():
    """However many held-out scores there are, and with the chances of a new normal score."""
    rng = np.random.default_rng(0)
    (group,) = held_out(rng, 5000, [1.0]).values()
    cells = cells_of(group, draw_scores(rng, [3000]))
    assert isinstance(cells, Cells)
    assert cells.counts.sum() == 3000
    assert cells.weights.sum() == 5001
    np.testing.assert_allclose(cells.counts / 3000, cells.shares, atol=0.02)
    assert len(cells.counts) <= 101


def test_images_that_were_left_out_and_new_concepts():
    """The former count for nothing; a concept that was never seen is a change of shares only."""
    rng = np.random.default_rng(0)
    results = [*run(rng, 30), Result(SOURCE, "broken")]
    drift = find_drift(results, held_out(rng), SCALE, RATE)
    assert drift.num_images == 30
    assert "No drift: scores and concepts of 30 images are like those of 120 held-out normal ones" in drift.describe()
    unknown = [result._replace(concept=7) for result in run(rng, 30)]
    (found,) = find_drift(unknown, held_out(rng), SCALE, RATE).found
    assert found == "concept 7 has a share of 100%, not 0%"
    assert 0 < DEFECTS < 0.5
