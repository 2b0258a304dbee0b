# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from torch.distributions import Normal
from torch.testing import assert_close

from anomalib_vqflow.flows import ConceptGaussian
from tests.gradients import parameters_without_gradient

from .bijection import assert_bijection, image_log_det, randomize_


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make_gaussian(channels=5, size=(2, 3), concept_dim=4) -> ConceptGaussian:
    gaussian = ConceptGaussian([(channels, *size)], [(concept_dim,)])
    randomize_(gaussian)
    return gaussian.double()


def inputs(channels=5, size=(2, 3), batch=2, concept_dim=4):
    return (
        [torch.randn(batch, channels, *size, dtype=torch.float64)],
        [torch.randn(batch, concept_dim, dtype=torch.float64)],
    )


@pytest.mark.parametrize("size", [(2, 3), (1, 1), (1, 6)])
@pytest.mark.parametrize("channels", [1, 4, 5])
def test_bijection(channels, size):
    """Inverse, sign and log-determinant, for odd channels and tiny or non-square maps."""
    assert_bijection(make_gaussian(channels, size), *inputs(channels, size))


def test_likelihood_is_that_of_the_concepts_gaussian():
    """log N(z'; 0, 1) + log|det J| = log N(z; μ(ŷ), σ(ŷ)²)."""
    gaussian, (z,), (prototype,) = make_gaussian(), *inputs(batch=3)
    (standardized,), log_det = gaussian([z], [prototype])
    standard = Normal(torch.zeros((), dtype=z.dtype), 1.0)
    ours = standard.log_prob(standardized).flatten(1).sum(dim=1) + image_log_det(log_det, [z])
    mean, std = gaussian.mean(prototype)[..., None, None], gaussian.log_std(prototype).exp()[..., None, None]

    assert_close(ours, Normal(mean, std).log_prob(z).flatten(1).sum(dim=1))


def test_log_det_in_closed_form():
    """−Σ_c log σ_c in every cell."""
    gaussian, x, (prototype,) = make_gaussian(), *inputs()
    _, log_det = gaussian(x, [prototype])

    assert_close(log_det, -gaussian.log_std(prototype).sum(dim=1)[:, None, None])


def test_starts_at_the_standard_normal():
    """A new Gaussian changes nothing."""
    (x,), c = inputs()
    (z,), log_det = ConceptGaussian([(5, 2, 3)], [(4,)]).double()([x], c)

    assert torch.equal(z, x)
    assert not log_det.any()


def test_a_wider_gaussian_is_punished():
    """Growing σ without need raises the loss: it is bounded below, unlike in the paper's release."""
    x, c = inputs(batch=8)
    gaussian = ConceptGaussian([(5, 2, 3)], [(4,)]).double()
    losses = []
    for log_std in (0.0, 1.0, 4.0, 14.0):
        gaussian.log_std.bias.data.fill_(log_std)
        (z,), log_det = gaussian(x, c)
        losses.append((0.5 * z.square().sum(dim=1) - log_det).sum(dim=(1, 2)).mean().item())

    assert losses == sorted(losses)
    assert losses[-1] > losses[0] + 300


def test_maximum_likelihood_finds_mean_and_deviation_of_each_concept():
    """Trained on two concepts, the generators find the moments of each."""
    moments = {0: (1.5, 0.5), 1: (-2.0, 2.0)}
    gaussian = ConceptGaussian([(1, 8, 8)], [(2,)])
    optimizer = torch.optim.Adam(gaussian.parameters(), lr=0.05)
    prototypes = torch.eye(2)
    for _ in range(300):
        x = torch.stack([m + s * torch.randn(1, 8, 8) for m, s in moments.values()])
        (z,), log_det = gaussian([x], [prototypes])
        optimizer.zero_grad()
        (0.5 * z.square().sum(dim=1) - log_det).sum(dim=(1, 2)).mean().backward()
        optimizer.step()

    for concept, (mean, std) in moments.items():
        assert gaussian.mean(prototypes)[concept].item() == pytest.approx(mean, abs=0.3)
        assert gaussian.log_std(prototypes)[concept].item() == pytest.approx(math.log(std), abs=0.15)


@pytest.mark.parametrize("magnitude", [1e4, -1e4])
def test_large_inputs_stay_finite(magnitude):
    """Latents of 1e4 give finite values and gradients everywhere."""
    gaussian, (x,), c = make_gaussian().float(), *inputs()
    (z,), log_det = gaussian([magnitude * x.float()], [c[0].float()])
    (z.square().mean() - log_det.mean()).backward()

    assert z.isfinite().all()
    assert parameters_without_gradient(gaussian) == []


@pytest.mark.parametrize(
    ("dims_in", "dims_c"), [([(4, 2, 2)], []), ([(4, 2, 2)] * 2, [(3,)]), ([(4, 2, 2)], [(3,)] * 2)]
)
def test_wrong_shapes_are_refused(dims_in, dims_c):
    """One latent, one prototype."""
    with pytest.raises(ValueError, match="Expected one latent and one condition"):
        ConceptGaussian(dims_in, dims_c)
