# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch.testing import assert_close

from anomalib_vqflow.flows import Noise

from .bijection import assert_bijection

DIMS = [(5, 4, 6)]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_identity_in_eval_mode():
    """Nothing changes, in both directions, and no volume."""
    assert_bijection(Noise(DIMS, std=0.3).eval(), [torch.randn(2, 5, 4, 6, dtype=torch.float64)])


def test_noise_in_training_has_the_deviation_asked_for():
    """New noise in every step."""
    noise, x = Noise(DIMS, std=0.3), torch.randn(64, 5, 4, 6)
    (first,), log_det = noise([x])
    (second,), _ = noise([x])

    assert_close((first - x).std(), torch.tensor(0.3), rtol=0.05, atol=0)
    assert_close((first - second).std(), torch.tensor(0.3 * 2**0.5), rtol=0.05, atol=0)
    assert not log_det.any()


def test_reverse_takes_no_noise_away():
    """Nobody knows which noise was added."""
    x = torch.randn(2, 5, 4, 6)
    (y,), _ = Noise(DIMS, std=0.3)([x], rev=True)

    assert torch.equal(y, x)


@pytest.mark.parametrize(("dims", "std"), [(DIMS, -0.1), (DIMS * 2, 0.1)])
def test_wrong_arguments_are_refused(dims, std):
    """A standard deviation is not negative, and there is one input."""
    with pytest.raises(ValueError, match="whitening_noise"):
        Noise(dims, std=std)


def test_printing_tells_the_deviation():
    """A printed model shows how it was trained."""
    assert repr(Noise(DIMS, std=0.3)) == "Noise(std=0.3)"
