# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from torch.distributions import Normal
from torch.testing import assert_close

from anomalib_vqflow.loss import VQFlowLoss

SHAPES = ((3, 4, 5), (2, 2, 3), (5, 1, 1))
NUM_DIMS = 60 + 12 + 5


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def batch(size=4, dtype=torch.float64):
    """Latents, and what each of their cells contributes to the log-determinant."""
    latents = [torch.randn(size, *shape, dtype=dtype) for shape in SHAPES]
    return latents, [torch.randn_like(z[:, 0]) for z in latents]


def loss_terms(latents, log_dets, commitment, weight=1.0, tail_weight=0.0):
    return VQFlowLoss(commitment_weight=weight, tail_weight=tail_weight)(latents, log_dets, commitment)


def test_equals_the_negative_log_likelihood():
    """The mean over images of −log N(z; 0, 1) − log|det J|, up to ½ log 2π per dimension."""
    latents, log_dets = batch()
    standard = Normal(torch.zeros((), dtype=torch.float64), 1.0)
    log_prob = sum(standard.log_prob(z).flatten(1).sum(dim=1) for z in latents)
    log_prob = log_prob + sum(level.flatten(1).sum(dim=1) for level in log_dets)
    terms = loss_terms(latents, log_dets, torch.zeros(()))

    assert_close(terms.total, -log_prob.mean() - 0.5 * NUM_DIMS * math.log(2 * math.pi))


def test_parts_are_per_dimension():
    """nll and log-det are divided by the number of latent dimensions, so that their size means something."""
    latents, log_dets = batch()
    terms = loss_terms(latents, log_dets, torch.tensor(3.0), weight=0.0)

    assert_close(terms.nll, terms.total / NUM_DIMS)
    assert_close(terms.log_det, sum(level.sum() for level in log_dets) / 4 / NUM_DIMS)
    assert terms.commitment == 3.0


def test_standard_normal_latents_cost_half_a_nat_per_dimension():
    """½ E z² = ½."""
    latents = [torch.randn(64, 8, 32, 32)]

    assert loss_terms(latents, [torch.zeros(64, 32, 32)], torch.zeros(())).nll.item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("tail_weight", [0.0, 0.3, 1.0])
def test_duplicating_the_batch_changes_nothing(tail_weight):
    """The loss is a mean over images, whatever their number, and its tail a share of their cells."""
    latents, log_dets = batch(size=10)  # a tenth of the cells of each level is a whole number
    both = ([torch.cat((z, z)) for z in maps] for maps in (latents, log_dets))
    once = loss_terms(latents, log_dets, torch.tensor(0.3), tail_weight=tail_weight)
    twice = loss_terms(*both, torch.tensor(0.3), tail_weight=tail_weight)

    for ours, theirs in zip(once, twice, strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0, 7.0])
def test_commitment_is_weighted_in_the_total_only(weight):
    """total = nll + λ commitment; the logged commitment is unweighted."""
    latents, log_dets = batch()
    free = loss_terms(latents, log_dets, torch.tensor(0.4), weight=0.0)
    terms = loss_terms(latents, log_dets, torch.tensor(0.4), weight)

    assert_close(terms.total - free.total, torch.tensor(0.4 * weight, dtype=torch.float64))
    assert terms.nll == free.nll
    assert terms.commitment == pytest.approx(0.4)


def test_gradients_in_closed_form():
    """∂/∂z = z / B, ∂/∂log|det| = −1 / B, ∂/∂commitment = λ; the logged parts carry none."""
    latents, log_dets = batch(size=4)
    commitment = torch.tensor(0.4, requires_grad=True)
    for part in (*latents, *log_dets):
        part.requires_grad_()
    terms = loss_terms(latents, log_dets, commitment, weight=0.5)
    terms.total.backward()

    for z in latents:
        assert_close(z.grad, z.detach() / 4)
    for log_det in log_dets:
        assert_close(log_det.grad, torch.full_like(log_det, -0.25))
    assert commitment.grad == 0.5
    assert not any(part.requires_grad for part in (terms.nll, terms.log_det, terms.commitment))


def test_the_tail_is_the_mean_over_the_least_likely_tenth_of_the_cells():
    """Of each level, times its cells; the logged likelihood is that of all cells."""
    latents, log_dets = [torch.randn(4, 3, 5, 6), torch.randn(4, 2, 5, 1)], [torch.randn(4, 5, 6), torch.randn(4, 5, 1)]
    plain = loss_terms(latents, log_dets, torch.zeros(()))
    terms = loss_terms(latents, log_dets, torch.zeros(()), tail_weight=0.25)
    cells = [0.5 * z.square().sum(dim=1) - log_det for z, log_det in zip(latents, log_dets, strict=True)]
    fine, coarse = (level.flatten().sort(descending=True).values for level in cells)

    tail = 30 * fine[:12].mean() + 5 * coarse[:2].mean()
    assert_close(terms.total, 0.75 * plain.total + 0.25 * tail)
    assert terms.nll == plain.nll


def test_a_tail_of_equal_cells_is_their_mean():
    """Whatever the weight, and with a gradient for each of them."""
    latents, log_dets = [torch.ones(2, 3, 4, 4, requires_grad=True)], [torch.zeros(2, 4, 4)]
    terms = loss_terms(latents, log_dets, torch.zeros(()), tail_weight=1.0)
    assert_close(terms.total, torch.tensor(24.0))
    terms.total.backward()
    assert_close(latents[0].grad, torch.full((2, 3, 4, 4), 0.5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("half_log_det", [False, True])
def test_half_precision_is_summed_in_float32(dtype, half_log_det):
    """Squares beyond half precision's range do not overflow, and small ones are not lost in large sums."""
    latents = [torch.full((2, 4, 64, 64), 300.0, dtype=dtype)]
    log_dets = [torch.zeros(2, 64, 64, dtype=dtype if half_log_det else torch.float32)]
    terms = loss_terms(latents, log_dets, torch.zeros(()))
    exact = 0.5 * float(latents[0][0, 0, 0, 0]) ** 2

    assert terms.total.dtype == torch.float32
    assert terms.nll.item() == pytest.approx(exact, rel=1e-5)
    with torch.autocast("cpu", dtype):
        assert loss_terms(latents, log_dets, torch.zeros(())).nll.item() == pytest.approx(exact, rel=1e-5)


def test_float64_stays_float64():
    """A reference computation keeps its precision."""
    assert loss_terms(*batch(), torch.zeros(())).total.dtype == torch.float64


def test_negative_weight_is_refused():
    """It would push the encoders away from their codes."""
    with pytest.raises(ValueError, match=r"commitment_weight must not be negative, got -0\.5"):
        VQFlowLoss(commitment_weight=-0.5, tail_weight=0.0)


@pytest.mark.parametrize("weight", [-0.1, 1.5])
def test_a_tail_weight_that_is_no_share_is_refused(weight):
    """The likelihood of all cells would have a negative weight."""
    with pytest.raises(ValueError, match=rf"tail_weight must lie in \[0, 1\], got {weight}"):
        VQFlowLoss(commitment_weight=1.0, tail_weight=weight)
