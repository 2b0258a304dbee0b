# SPDX-License-Identifier: Apache-2.0
"""benchmarks/calibration.py compares models with calibration and without."""

import numpy as np
import pytest
import torch

from anomalib_vqflow import VQFlow
from tests.scripts import load_script, read_table

calibration = load_script("benchmarks/calibration.py")


@pytest.mark.slow
def test_calibration_is_judged_with_and_without(config, checkpoint, capsys):
    """Every row has two numbers, and the checkpoint on disk keeps its calibration."""

    def location():
        return VQFlow.load_from_checkpoint(checkpoint).model.anomaly_map_generator.calibration.location

    before = location()
    calibration.main([str(config), checkpoint])
    printed = capsys.readouterr().out
    rows = read_table(printed[printed.index("| 1 trainings") :])
    assert {"macro image AUROC", "pooled pixel F1Max", "foreign images above the threshold: black"} <= rows.keys()
    assert all(len(cells) == 2 for cells in rows.values())
    assert torch.equal(before, location())


def test_halves_hold_half_of_every_group():
    """Of each group, as many images as of the other half, one less if their number is odd; each time others."""
    groups = np.array(["a"] * 6 + ["b"] * 5)
    halves = list(calibration.random_halves(groups))
    assert {(half[:6].sum(), half[6:].sum()) for half in halves} == {(3, 2)}
    assert len({half.tobytes() for half in halves}) > len(halves) // 2


def test_a_threshold_on_separable_scores_is_perfect():
    """With all anomalous images above all normal ones, and foreign ones on either side."""
    labels = np.repeat([0, 1], 40)
    scores = np.concatenate((np.linspace(0, 0.4, 40), np.linspace(0.5, 0.9, 40)))
    scored = calibration.Scored(scores, labels, labels.astype(str), {"black": np.array([0.95]), "gray": np.zeros(2)})
    values = calibration.judge_threshold(scored)
    assert values["pooled image F1max of this half"] == 1.0
    assert values["pooled image F1, threshold from the other half"] > 0.95
    assert values["foreign images above the threshold: black"] == 1.0
    assert values["foreign images above the threshold: gray"] == 0.0
