# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from sklearn.covariance import oas
from torch.distributions import MultivariateNormal
from torch.testing import assert_close

from anomalib_vqflow.flows import Moments, Whitening

from .bijection import assert_bijection, image_log_det


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def moments(channels):
    root = torch.randn(channels, channels, dtype=torch.float64)
    return torch.randn(channels, dtype=torch.float64), root @ root.T + 0.1 * torch.eye(channels)


def make_whitening(channels, size=(2, 3)) -> Whitening:
    whitening = Whitening([(channels, *size)]).double()
    whitening.fit_(*moments(channels))
    return whitening


@pytest.mark.parametrize("size", [(2, 3), (1, 1), (1, 5)])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_bijection(channels, size):
    """Inverse, sign and log-determinant, for odd channels and tiny or non-square maps."""
    assert_bijection(make_whitening(channels, size), [torch.randn(2, channels, *size, dtype=torch.float64)])


def test_is_the_identity_until_fitted():
    """A model that was never fitted computes what it would without."""
    whitening, x = Whitening([(5, 2, 3)]), torch.randn(2, 5, 2, 3)
    (y,), log_det = whitening([x])

    assert_close(y, x)
    assert not log_det.any()
    assert not whitening.fitted


def test_cells_come_out_white():
    """Fitted to the moments of a batch, its cells have mean zero and unit covariance."""
    mixing = 0.3 * torch.randn(5, 5, dtype=torch.float64) + torch.eye(5, dtype=torch.float64)
    x = torch.einsum("ij,bjhw->bihw", mixing, torch.randn(8, 5, 16, 16, dtype=torch.float64)) + 3
    cells = x.movedim(1, -1).flatten(0, -2)
    whitening = Whitening([(5, 16, 16)]).double()
    whitening.fit_(cells.mean(dim=0), cells.T.cov(correction=0))
    (y,), _ = whitening([x])
    white = y.movedim(1, -1).flatten(0, -2)

    assert whitening.fitted
    assert_close(white.mean(dim=0), torch.zeros(5, dtype=torch.float64), atol=1e-9, rtol=0)
    assert_close(white.T.cov(correction=0), torch.eye(5, dtype=torch.float64), atol=1e-9, rtol=0)


def test_likelihood_is_that_of_one_gaussian_per_cell():
    """A standard normal on the output plus the log-determinant is N(x; m, Σ) summed over cells."""
    whitening, (mean, covariance) = Whitening([(4, 2, 3)]).double(), moments(4)
    whitening.fit_(mean, covariance)
    x = torch.randn(3, 4, 2, 3, dtype=torch.float64)
    (y,), log_det = whitening([x])
    standard = MultivariateNormal(torch.zeros(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64))
    ours = standard.log_prob(y.movedim(1, -1)).flatten(1).sum(dim=1) + image_log_det(log_det, [y])

    assert_close(ours, MultivariateNormal(mean, covariance).log_prob(x.movedim(1, -1)).flatten(1).sum(dim=1))


def test_silent_channels_are_not_blown_up():
    """A channel without variance is stretched by at most the root of a thousand, relative to the others."""
    whitening = Whitening([(4, 1, 1)])
    whitening.fit_(torch.zeros(4), torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0])))
    (y,), log_det = whitening([torch.ones(1, 4, 1, 1)])

    assert y.abs().max() < 40
    assert log_det.isfinite().all()


def test_fit_travels_with_the_state():
    """A reloaded map is the fitted one."""
    first, second = make_whitening(5), Whitening([(5, 2, 3)]).double()
    second.load_state_dict(first.state_dict())
    x = torch.randn(2, 5, 2, 3, dtype=torch.float64)

    assert second.fitted
    assert torch.equal(first([x])[0][0], second([x])[0][0])
    assert torch.equal(first([x])[1], second([x])[1])


def moments_of(vectors):
    found = Moments(vectors.shape[1])
    for batch in vectors.split(3):
        found.add_(batch)
    return found


@pytest.mark.parametrize("shape", [(2, 4), (7, 4), (300, 4), (9, 40), (9, 1), (1, 4)])
def test_covariance_is_shrunk_as_by_scikit_learn(shape):
    """Few vectors and many, of more and of less than their number of channels."""
    vectors = torch.randn(shape, dtype=torch.float64) @ torch.diag(torch.linspace(1, 3, shape[1], dtype=torch.float64))
    mean, covariance = moments_of(vectors).mean_and_shrunk_covariance()

    assert_close(mean, vectors.mean(dim=0))
    assert_close(covariance, torch.from_numpy(oas(vectors.numpy())[0]))


def test_few_vectors_do_not_make_outliers_of_all_others():
    """Other vectors of the same distribution come out no longer than white ones would, where they were ten times as."""
    mixing = torch.randn(64, 64) * torch.logspace(0, -1, 64)
    few, others = torch.randn(32, 64) @ mixing.T, torch.randn(1000, 64) @ mixing.T
    plain, shrunk = (Whitening([(64, 1, 1)]) for _ in range(2))
    plain.fit_(*moments_of(few).mean_and_covariance())
    shrunk.fit_(*moments_of(few).mean_and_shrunk_covariance())

    def mean_square(whitening):
        return whitening([others[..., None, None]])[0][0].square().mean()

    assert 0.5 < mean_square(shrunk) < 1.5
    assert mean_square(plain) > 50
