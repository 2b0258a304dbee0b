# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch.testing import assert_close

from anomalib_vqflow.flows import AddedConcepts, Moments
from anomalib_vqflow.flows.added import SMALLEST_SHRINKAGE

CHANNELS = [3, 5]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def latents(batch):
    """Latents whose channels are correlated, and log-determinants."""
    maps = [torch.randn(batch, c, 4, 2 * c).transpose(1, 3) @ torch.randn(c, c) + 3 for c in CHANNELS]
    return [z.transpose(1, 3) for z in maps], [torch.randn(batch, 4, 2 * c) for c in CHANNELS]


def moments_of(maps):
    found = [Moments(c) for c in CHANNELS]
    for level, z in zip(found, maps, strict=True):
        level.add_(z.permute(0, 2, 3, 1).flatten(0, 2))
    return found


def fitted(maps):
    added = AddedConcepts(CHANNELS)
    added.append_()
    added.fit_(moments_of(maps))
    return added


def test_there_are_none_at_first():
    """Then everything stays what it is."""
    added, (maps, log_dets) = AddedConcepts(CHANNELS), latents(2)
    found = added(maps, log_dets, torch.tensor([0, 1]), num_concepts=2)
    assert len(added) == 0
    assert_close(found, (tuple(maps), tuple(log_dets)), rtol=0, atol=0)


def test_other_concepts_stay_what_they_are_to_the_bit():
    """Whatever is in the same batch."""
    maps, log_dets = latents(6)
    concept = torch.tensor([0, 7, 3, 7, 6, 1])
    found, found_log_dets = fitted(maps)(maps, log_dets, concept, num_concepts=8)
    for before, after in zip([*maps, *log_dets], [*found, *found_log_dets], strict=True):
        assert torch.equal(before[concept != 7], after[concept != 7])
        assert not (before[concept == 7] == after[concept == 7]).any()


def test_whitens():
    """The latents of the added concept have mean 0, and as covariance the identity, but for the shrinkage."""
    maps, log_dets = latents(50)
    found, _ = fitted(maps)(maps, log_dets, torch.full((50,), 2), num_concepts=3)
    for z, before in zip(found, maps, strict=True):
        cells, cells_before = (m.permute(1, 0, 2, 3).flatten(1).double() for m in (z, before))
        assert_close(cells.mean(dim=1), torch.zeros(len(cells)).double(), atol=1e-4, rtol=0)
        covariance = cells_before.cov(correction=0)
        shrunk = torch.lerp(covariance, covariance.diagonal().diag(), SMALLEST_SHRINKAGE)
        expected = torch.linalg.eigvals(torch.linalg.solve(shrunk, covariance)).real.sort().values
        assert_close(torch.linalg.eigvalsh(cells.cov(correction=0)), expected, atol=1e-3, rtol=1e-3)


def test_few_cells_are_not_whitened_to_nothing():
    """Fewer cells than channels have no variance in most directions; others like them are not outliers for that."""
    added, moments = AddedConcepts([40]), Moments(40)
    moments.add_(torch.randn(20, 40))
    added.append_()
    added.fit_([moments])
    (z,), _ = added([torch.randn(50, 40, 1, 1)], [torch.zeros(50, 1, 1)], torch.zeros(50, dtype=torch.long), 1)
    assert z.square().mean() < 3


def test_log_det_is_that_of_the_jacobian():
    """Of one cell, by autograd."""
    maps, log_dets = latents(20)
    added = fitted(maps)
    _, after = added(maps, log_dets, torch.full((20,), 0), num_concepts=1)
    for level, (z, before, with_log_det) in enumerate(zip(maps, log_dets, after, strict=True)):

        def one_cell(cell, z=z, level=level):
            cells = [torch.zeros(1, c, 1, 1) for c in CHANNELS]
            cells[level] = cell.view(1, -1, 1, 1)
            return added(cells, [torch.zeros(1, 1, 1)] * 2, torch.tensor([0]), 1)[0][level].flatten()

        jacobian = torch.autograd.functional.jacobian(one_cell, z[0, :, 0, 0])
        assert_close((with_log_det - before)[0, 0, 0], torch.linalg.slogdet(jacobian).logabsdet, atol=1e-4, rtol=1e-4)


def test_each_concept_has_its_own():
    """The second one does not change the first."""
    first, log_dets = latents(8)
    second, _ = latents(8)
    added = fitted(first)
    before = added(first, log_dets, torch.full((8,), 4), num_concepts=5)
    added.append_()
    added.fit_(moments_of([2 * z for z in second]))
    assert len(added) == 2
    assert_close(added(first, log_dets, torch.full((8,), 4), num_concepts=6), before, rtol=0, atol=0)


@pytest.mark.parametrize("loader", [AddedConcepts(CHANNELS), fitted(latents(4)[0])], ids=["none", "other"])
def test_any_number_can_be_loaded(loader):
    """Into a model of another number."""
    added = fitted(latents(8)[0])
    added.append_()
    loader.load_state_dict(added.state_dict())
    assert_close(loader.state_dict(), added.state_dict(), rtol=0, atol=0)
