# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch.testing import assert_close

from anomalib_vqflow.quantization.regions import SHRINKAGE, ConceptRegions

CENTERS = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 50.0]])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def embeddings(center, spread, count=200):
    return center + spread * torch.randn(count, 2)


def fitted():
    """Two concepts with images, and one without."""
    regions = ConceptRegions(3, 2)
    images = torch.cat([embeddings(CENTERS[0], 1.0), embeddings(CENTERS[1], 2.0)])
    regions.fit_(images, torch.arange(2).repeat_interleave(200), CENTERS)
    return regions


def test_fit():
    """Means, and mean squared distances shrunk to the mean one; a concept without an image is at its code."""
    regions = fitted()
    assert_close(regions.means, CENTERS, atol=0.5, rtol=0)
    weight = 200 / (200 + SHRINKAGE)
    usual = (2.0 + 8.0) / 2
    expected = torch.tensor([2 * weight, 8 * weight, 0]) + usual * torch.tensor([1 - weight, 1 - weight, 1])
    assert_close(regions.spreads, expected, rtol=0.2, atol=0)
    assert regions.fitted
    assert not ConceptRegions(3, 2).fitted


def test_nothing_is_claimed_without_added_concepts():
    """Whatever the embeddings."""
    indices = torch.tensor([2, 0, 1])
    assert torch.equal(fitted()(100 * torch.randn(3, 2), indices), indices)


def test_each_finds_its_own():
    """An added concept gets its images, however narrow it is beside another, and takes none of the others'."""
    regions = fitted()
    beside = CENTERS[1] + torch.tensor([0.0, 4.0])
    regions.append_(embeddings(beside, 0.2))
    new, old = embeddings(beside, 0.2), embeddings(CENTERS[1], 2.0)
    assert (regions(new, torch.ones(200, dtype=torch.long)) == 3).all()
    assert (regions(old, torch.ones(200, dtype=torch.long)) == 1).float().mean() > 0.9
    far = embeddings(CENTERS[0], 1.0)
    assert (regions(far, torch.zeros(200, dtype=torch.long)) == 0).all()


def test_the_better_of_two_added_concepts():
    """Gets the images."""
    regions = fitted()
    for center in ([30.0, 0.0], [33.0, 0.0]):
        regions.append_(embeddings(torch.tensor(center), 1.0))
    found = regions(torch.tensor([[30.5, 0.0], [32.5, 0.0]]), torch.tensor([1, 1]))
    assert found.tolist() == [3, 4]
    regions.retire_(4)
    assert regions(torch.tensor([[32.5, 0.0]]), torch.tensor([1])).tolist() == [3]
    regions.retire_(3)
    assert regions(torch.tensor([[32.5, 0.0]]), torch.tensor([1])).tolist() == [1]


def test_what_is_far_off_is_of_no_added_concept():
    """However bad it fits elsewhere: a defect of one product must not become a normal image of another."""
    regions = fitted()
    regions.append_(embeddings(torch.tensor([30.0, 0.0]), 1.0))
    assert regions(torch.tensor([[31.0, 0.0], [36.0, 0.0]]), torch.tensor([1, 1])).tolist() == [3, 1]


def test_equal_images_have_a_spread():
    """One image, or many equal ones, are told from others, without a division by zero."""
    regions = ConceptRegions(1, 2)
    regions.fit_(CENTERS[:1].repeat(9, 1), torch.zeros(9, dtype=torch.long), CENTERS[:1])
    regions.append_(CENTERS[1:2].repeat(9, 1))
    assert (regions.spreads > 0).all()
    assert regions(CENTERS[:2], torch.zeros(2, dtype=torch.long)).tolist() == [0, 1]


def test_broken_embeddings():
    """They are left out of the fit, and an image with a broken one keeps its concept."""
    regions, broken = fitted(), torch.tensor([[torch.nan, 0.0]])
    images, concepts = torch.cat([embeddings(CENTERS[0], 1.0), broken]), torch.zeros(201, dtype=torch.long)
    regions.fit_(images, concepts, CENTERS)
    assert regions.means.isfinite().all()
    assert regions.spreads.isfinite().all()
    regions.append_(embeddings(CENTERS[1], 1.0))
    assert regions(broken, torch.tensor([2])).tolist() == [2]


def test_load():
    """Any number of added concepts."""
    regions = fitted()
    regions.append_(embeddings(CENTERS[1], 1.0))
    other = ConceptRegions(4, 2)
    other.load_state_dict(regions.state_dict())
    assert_close(other.state_dict(), regions.state_dict(), rtol=0, atol=0)
