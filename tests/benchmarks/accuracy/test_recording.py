# SPDX-License-Identifier: Apache-2.0
"""What is kept of each image gives the metrics of the evaluator."""

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from lightning.pytorch import Trainer

from benchmarks.accuracy.bootstrap import METRICS, paired_bootstrap
from benchmarks.accuracy.recording import RecordingEvaluator, to_arrays

SIZE = 32


def batch(category, scale, generator, masks=True):
    """Six images, of which four have defects; scores and maps are far outside of [0, 1], or close together in it."""
    labels = torch.tensor([0, 0, 1, 1, 1, 1], dtype=torch.bool)
    defects = torch.zeros(6, SIZE, SIZE, dtype=torch.bool)
    for index in range(2, 6):
        defects[index, 3 : 5 + index, 4:9] = True
        defects[index, 20:22, 20 : 20 + index] = True
    maps = torch.randn(6, 1, SIZE, SIZE, generator=generator) + 1.5 * defects[:, None]
    return ImageBatch(
        image=torch.zeros(6, 3, SIZE, SIZE),
        image_path=[f"/data/{category}/test/{'bad' if label else 'good'}/{i}.png" for i, label in enumerate(labels)],
        gt_label=labels,
        gt_mask=defects if masks else None,
        anomaly_map=scale * maps,
        pred_score=scale * (torch.randn(6, generator=generator) + labels),
    )


def record(*batches):
    """Show batches to an evaluator as a test does."""
    evaluator = RecordingEvaluator()
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    for one in batches:
        evaluator._raw_scores.on_test_batch_end(trainer, None, None, one, 0)
        evaluator.on_test_batch_end(trainer, None, None, one, 0)
    evaluator.results = evaluator.compute()
    return evaluator


@pytest.mark.parametrize("scales", [(1.0, 1.0), (1e-3, 1e3), (-5.0, 5.0)])
def test_metrics_follow_from_what_is_kept(scales):
    """Image metrics exactly; pixel metrics but for the pixels that share a group. A category has no masks."""
    generator = torch.Generator().manual_seed(0)
    names = ("bolt", "nut")
    batches = [batch(name, scale, generator) for name, scale in zip(names, scales, strict=True)]
    evaluator = record(*batches, batch("ring", 1.0, generator, masks=False))
    arrays = to_arrays(evaluator.images)
    found = paired_bootstrap([arrays], [arrays], resamples=1)
    for mean in ("macro", "pooled"):
        for metric in METRICS:
            tolerance = 1e-6 if metric.startswith("image") else 5e-3
            expected = evaluator.results.loc[mean, metric]
            assert found[mean, metric].first == pytest.approx(expected, abs=tolerance), (mean, metric)


def test_all_tests_count():
    """Categories that are tested one after the other, each with a model of its own, have a mean and a pool."""
    generator = torch.Generator().manual_seed(0)
    first, second = batch("bolt", 1.0, generator), batch("nut", 3.0, generator)
    together = record(first, second).results
    evaluator = record(first)
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    evaluator._metrics.clear()
    evaluator._raw_scores.on_test_batch_end(trainer, None, None, second, 0)
    assert evaluator.compute().equals(together)
    assert len(evaluator.images) == 12


def test_a_file_has_no_order_of_its_own():
    """Images are sorted, so that runs pair whatever the order they were tested in."""
    generator = torch.Generator().manual_seed(0)
    first, second = batch("bolt", 1.0, generator), batch("nut", 3.0, generator)
    there, back = (to_arrays(record(*pair).images) for pair in ((first, second), (second, first)))
    assert there.keys() == back.keys()
    for name, value in there.items():
        np.testing.assert_array_equal(value, back[name])
