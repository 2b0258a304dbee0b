# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch.testing import assert_close

from anomalib_vqflow.flows.subnets import ChannelNorm, ConvSubnet

from .bijection import randomize_


@pytest.mark.parametrize("size", [(3, 4), (1, 1), (1, 5)])
def test_channel_norm_standardizes_each_cell(size):
    """Over its channels every cell has mean 0 and variance 1, before weight and bias."""
    torch.manual_seed(0)
    x = 5 + 3 * torch.randn(2, 64, *size)
    y = ChannelNorm(64)(x)

    assert_close(y.mean(dim=1), torch.zeros(2, *size), atol=1e-5, rtol=0)
    assert_close(y.var(dim=1, correction=0), torch.ones(2, *size), atol=1e-3, rtol=0)


def test_channel_norm_weighs_channels():
    """Weight and bias belong to channels."""
    norm = ChannelNorm(4)
    norm.weight.data.copy_(torch.tensor([1.0, 2.0, 3.0, 0.0]))
    norm.bias.data.copy_(torch.tensor([0.0, 0.0, 0.0, 7.0]))
    x = torch.randn(2, 4, 3, 5)
    plain = ChannelNorm(4)(x)

    assert_close(norm(x)[:, 1], 2 * plain[:, 1])
    assert_close(norm(x)[:, 3], torch.full((2, 3, 5), 7.0))


def test_new_subnet_predicts_zero():
    """A new coupling is the identity up to its permutation."""
    subnet = ConvSubnet(6, 4, hidden_dim=5, second_kernel_size=1)
    assert not subnet(torch.randn(2, 4, 3, 3), torch.randn(2, 2, 3, 3)).any()


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("size", [(3, 4), (1, 1), (1, 5)])
def test_subnet_keeps_the_grid(size, kernel_size):
    """Padding keeps the size of the map."""
    subnet = ConvSubnet(6, 4, hidden_dim=5, second_kernel_size=kernel_size)
    assert subnet(torch.randn(2, 4, *size), torch.randn(2, 2, *size)).shape == (2, 4, *size)


@pytest.mark.parametrize(("kernel_size", "reach"), [(1, 1), (3, 2), (5, 3)])
def test_subnet_sees_as_far_as_its_kernels(kernel_size, reach):
    """With two 3 × 3 convolutions, a change reaches a 5 × 5 neighborhood, no further."""
    torch.manual_seed(0)
    subnet = ConvSubnet(6, 4, hidden_dim=32, second_kernel_size=kernel_size)
    x, condition = torch.randn(1, 4, 9, 9), torch.randn(1, 2, 9, 9)
    randomize_(subnet)
    other = x.clone()
    other[:, :, 4, 4] += 5
    rows, columns = (subnet(x, condition) != subnet(other, condition)).any(dim=1)[0].nonzero().T

    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4 - reach, 4 + reach) * 2
