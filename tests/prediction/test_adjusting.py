# SPDX-License-Identifier: Apache-2.0
"""What is ignored counts for nothing, and nothing else changes."""

from pathlib import Path, PurePath

import numpy as np
import pytest

from anomalib_vqflow.ignored import IgnoredRegions, ScoreRule
from anomalib_vqflow.prediction.adjusting import Adjustment
from anomalib_vqflow.prediction.predictions import Prediction, Raw
from anomalib_vqflow.prediction.scales import scales_of
from anomalib_vqflow.prediction.search import Source

from .toys import save_squares, toy_metadata

RULE = ScoreRule(0.05, is_absolute=False)
SCALES = scales_of(toy_metadata([0.1, 0.2]))


def prediction(raw_map):
    raw = Raw(0.9, raw_map, raw_map)
    return Prediction(0.9, label=True, threshold=0.5, anomaly_map=raw_map, mask=raw_map > 0.5, concept=0, raw=raw)


@pytest.fixture
def adjustment(tmp_path):
    save_squares(tmp_path / "nut.png", (0, 0, 30, 40))
    (tmp_path / "masks").mkdir()
    (tmp_path / "nut.png").rename(tmp_path / "masks" / "nut.png")
    return Adjustment(SCALES, IgnoredRegions(tmp_path / "masks", RULE))


def test_an_ignored_defect_changes_nothing_else(adjustment):
    """Neither score nor label, nor the map and mask elsewhere; where it is, the map is lowest and the mask empty."""
    source = Source(Path("nut/a.png"), PurePath("a.png"))
    clean = np.random.default_rng(0).uniform(0, 0.4, (20, 30)).astype(np.float32)
    broken = clean.copy()
    broken[3:9, 2:12] = 0.99
    first, second = (adjustment.adjust(source, (40, 60), prediction(raw_map)) for raw_map in (clean, broken))
    assert first.score == second.score < 0.5
    assert (first.label, second.label) == (False, False)
    assert (first.anomaly_map == second.anomaly_map).all()
    assert (second.anomaly_map[:, :15] == 0).all()
    np.testing.assert_allclose(second.anomaly_map[:, 15:], clean[:, 15:], atol=1e-6)
    assert not second.mask.any()


def test_a_defect_elsewhere_is_found(adjustment):
    """With the score that the model would tell."""
    source = Source(Path("nut/a.png"), PurePath("a.png"))
    raw_map = np.full((20, 30), 0.1, dtype=np.float32)
    raw_map[:, 20:] = 0.8
    found = adjustment.adjust(source, (40, 60), prediction(raw_map))
    assert found.score == pytest.approx(0.8)
    assert found.label
    assert (found.mask == (np.arange(30) >= 20)).all()


def test_images_of_other_products_are_left_alone(adjustment):
    """They keep what the model says."""
    raw_map = np.full((20, 30), 0.9, dtype=np.float32)
    found = adjustment.adjust(Source(Path("bolt/a.png"), PurePath("a.png")), (40, 60), prediction(raw_map))
    assert found.score == pytest.approx(0.9)
    np.testing.assert_allclose(found.anomaly_map, raw_map, atol=1e-6)
