# SPDX-License-Identifier: Apache-2.0
"""Tests of the calibration of scores per concept."""

import pytest
import torch
from torch.testing import assert_close

from anomalib_vqflow.calibration import LOCATION_SHRINKAGE, SCALE_SHRINKAGE, ConceptCalibration


def two_concepts(count=400):
    """Scores of two concepts that differ in location and scale, and their concepts."""
    generator = torch.Generator().manual_seed(0)
    first = 1 + 0.5 * torch.randn(count, generator=generator)
    second = 9 + 4 * torch.randn(count, generator=generator)
    return torch.cat((first, second)), torch.arange(2).repeat_interleave(count)


def test_unfitted_calibration_is_the_identity():
    """A model that was never calibrated scores as before."""
    scores = torch.randn(3, 1, 4, 4)
    calibration = ConceptCalibration(2)

    assert torch.equal(calibration(scores, torch.tensor([0, 1, 1])), scores)
    assert not calibration.fitted


def test_many_images_bring_all_concepts_to_one_scale():
    """Median and median absolute deviation of every concept become alike."""
    scores, concept = two_concepts()
    calibration = ConceptCalibration(2)
    calibration.fit_(scores, concept)
    calibrated = calibration(scores, concept)

    for k in range(2):
        chosen = calibrated[concept == k]
        assert abs(chosen.median()) < 0.05
        assert 0.8 < 1.4826 * (chosen - chosen.median()).abs().median() < 1.25
    assert calibration.fitted


def test_the_weight_of_a_concept_grows_with_its_images():
    """One image moves location and scale little from the pooled ones, by the weights the docstring gives."""
    scores, concept = two_concepts()
    calibration = ConceptCalibration(3)
    calibration.fit_(torch.cat((scores, torch.tensor([50.0]))), torch.cat((concept, torch.tensor([2]))))
    pooled = torch.cat((scores, torch.tensor([50.0]))).quantile(0.5)

    assert_close(calibration.location[2], pooled + (50 - pooled) / (1 + LOCATION_SHRINKAGE))
    alone = ConceptCalibration(1)
    alone.fit_(torch.cat((scores, torch.tensor([50.0]))), torch.zeros(801, dtype=torch.long))
    floor_weight = 1 / (1 + SCALE_SHRINKAGE)  # a single image has no spread: its scale is a tenth of the pooled one
    assert_close(calibration.scale[2], alone.scale[0] * 0.1**floor_weight)


def test_a_concept_without_images_has_the_pooled_statistics():
    """What calibration never saw is judged as the average image is."""
    scores, concept = two_concepts()
    calibration, pooled = ConceptCalibration(3), ConceptCalibration(1)
    calibration.fit_(scores, concept)
    pooled.fit_(scores, torch.zeros_like(concept))

    assert_close(calibration.location[2], pooled.location[0])
    assert_close(calibration.scale[2], pooled.scale[0])


def test_maps_and_scores_are_calibrated_alike():
    """The order of pixels within an image does not change, and a score moves as its map does."""
    scores, concept = two_concepts()
    calibration = ConceptCalibration(2)
    calibration.fit_(scores, concept)
    maps = torch.randn(5, 1, 6, 6)
    chosen = torch.tensor([0, 1, 1, 0, 1])

    calibrated = calibration(maps, chosen)
    assert torch.equal(calibrated.flatten(1).argsort(dim=1), maps.flatten(1).argsort(dim=1))
    assert_close(calibrated.amax(dim=(1, 2, 3)), calibration(maps.amax(dim=(1, 2, 3)), chosen))


def test_equal_scores_and_broken_ones_leave_it_finite():
    """Neither a spread of zero nor NaN can make a threshold meaningless."""
    calibration = ConceptCalibration(2)
    calibration.fit_(torch.tensor([1.0, 1.0, torch.nan, torch.inf]), torch.tensor([0, 0, 1, 1]))

    assert calibration.location.isfinite().all()
    assert (calibration.scale > 0).all()
    with pytest.raises(ValueError, match="at least one normal image"):
        calibration.fit_(torch.tensor([torch.nan]), torch.tensor([0]))


def test_a_concept_is_added_on_the_scale_of_others():
    """Its scores are brought to median and spread of others; those of all other concepts stay, to the bit."""
    scores, concept = two_concepts()
    calibration = ConceptCalibration(2)
    calibration.fit_(scores, concept)
    generator = torch.Generator().manual_seed(1)
    before, like = calibration(scores, concept), 5 + 3 * torch.randn(1001, generator=generator)
    new = 200 + 7 * torch.randn(1001, generator=generator)
    calibration.append_(torch.cat((new, torch.tensor([torch.nan]))), like)
    calibrated = calibration(new, torch.full((1001,), 2))

    assert torch.equal(calibration(scores, concept), before)
    assert_close(calibrated.median(), like.median(), rtol=1e-4, atol=0)
    spreads = [(values - values.median()).abs().median() for values in (calibrated, like)]
    assert_close(*spreads, rtol=1e-4, atol=0)
    calibration.append_(new, like[:0])
    assert_close(calibration(new, torch.full((1001,), 3)).median(), torch.zeros(()), atol=1e-4, rtol=0)
