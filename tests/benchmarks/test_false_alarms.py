# SPDX-License-Identifier: Apache-2.0
"""benchmarks/false_alarms.py measures thresholds where they were not set."""

from statistics import fmean

import pytest
import torch

from tests.scripts import load_script, read_table

false_alarms = load_script("benchmarks/false_alarms.py")


@pytest.mark.slow
def test_every_way_is_measured(config, checkpoint, capsys):
    """Each way to set a threshold has a row of three numbers."""
    false_alarms.main([str(config), checkpoint, "--data.eval_batch_size", "2"])

    rows = read_table(capsys.readouterr().out)
    assert {"rate 0.1", "rate 0.01, per concept", "best F1 score", "highest normal score"} <= rows.keys()
    assert all(len(cells) == 3 for cells in rows.values())


def test_rates_are_kept_and_others_tell_none():
    """Two concepts of different scales: one threshold keeps the rate for all images, two for each of the categories."""
    generator = torch.Generator().manual_seed(0)
    concepts = torch.arange(800) % 2
    anomalous = torch.arange(800) >= 600
    scores = torch.rand(800, generator=generator) * (1 + concepts) + 3 * anomalous
    scored = false_alarms.Scored(scores, anomalous, concepts, concepts)

    common = false_alarms.judge(scored, false_alarms.WAYS["rate 0.1"])
    own = false_alarms.judge(scored, false_alarms.WAYS["rate 0.1, per concept"])

    for found in (common, own):
        assert fmean(found["false alarms"]) == pytest.approx(0.1, abs=0.01)
        assert set(found["anomalies found"]) == {1.0}
    assert fmean(common["of the worst category"]) > 0.18
    assert fmean(own["of the worst category"]) < 0.15
    assert fmean(false_alarms.judge(scored, false_alarms.by_highest)["false alarms"]) < 0.02
    assert min(false_alarms.judge(scored, false_alarms.by_f1)["anomalies found"]) > 0.9
