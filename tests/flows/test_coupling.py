# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from FrEIA.modules import AllInOneBlock
from torch import nn
from torch.testing import assert_close

from anomalib_vqflow.flows import ConditionalCoupling
from tests.gradients import parameters_without_gradient

from .bijection import assert_bijection, image_log_det, randomize_

CONDITION_DIM = 3
PUBLISHED = {"hidden_dim": None, "second_kernel_size": 3, "affine_clamp": 1.9}
SIZES = [(2, 3), (1, 1), (1, 5), (4, 1)]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make_coupling(channels, size, *, randomize=True, **options) -> ConditionalCoupling:
    coupling = ConditionalCoupling([(channels, *size)], [(CONDITION_DIM, *size)], **{**PUBLISHED, **options})
    if randomize:
        randomize_(coupling)
    return coupling


def inputs(channels, size, batch=2, dtype=torch.float32):
    return [torch.randn(batch, channels, *size, dtype=dtype)], [torch.randn(batch, CONDITION_DIM, *size, dtype=dtype)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [2, 3, 6, 7])
def test_bijection(channels, size):
    """Inverse, sign and log-determinant, for even and odd channels and tiny or non-square maps."""
    assert_bijection(make_coupling(channels, size).double(), *inputs(channels, size, dtype=torch.float64))


@pytest.mark.parametrize("options", [{"hidden_dim": 1}, {"hidden_dim": 20}, {"affine_clamp": 0.5}])
def test_bijection_with_options(options):
    """Width and clamp change the function, not that it is one-to-one."""
    assert_bijection(make_coupling(5, (2, 3), **options).double(), *inputs(5, (2, 3), dtype=torch.float64))


class Joined(nn.Module):
    """A coupling's subnet, for FrEIA, which joins its input and its condition."""

    def __init__(self, coupling) -> None:
        super().__init__()
        self.subnet, self.sizes = coupling.subnet, (coupling.split[0], CONDITION_DIM)

    def forward(self, x):
        return self.subnet(*x.split(self.sizes, dim=1))


@pytest.mark.parametrize("channels", [4, 7])
def test_equals_freia(channels):
    """With FrEIA's weights copied, the outputs, the inverse and the log-determinants are FrEIA's AllInOneBlock's."""
    size, coupling = (3, 4), make_coupling(channels, (3, 4)).double()

    def subnet(in_channels: int, out_channels: int) -> nn.Module:
        assert in_channels == coupling.split[0] + CONDITION_DIM
        assert out_channels == 2 * coupling.split[1]
        return Joined(coupling)

    block = AllInOneBlock(
        [(channels, *size)],
        [(CONDITION_DIM, *size)],
        subnet_constructor=subnet,
        affine_clamping=1.9,
        global_affine_type="SOFTPLUS",
        permute_soft=False,
    ).double()
    block.global_scale.data.copy_(coupling.global_scale)
    block.global_offset.data.copy_(coupling.global_offset)
    coupling.permutation.copy_(block.w_perm[:, :, 0, 0].argmax(dim=1))
    x, c = inputs(channels, size, dtype=torch.float64)
    for rev in (False, True):
        (ours,), our_log_det = coupling(x, c, rev=rev)
        (theirs,), their_log_det = block(x, c, rev=rev)
        assert_close(ours, theirs, atol=1e-10, rtol=1e-10)
        assert_close(image_log_det(our_log_det, [ours]), their_log_det, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("channels", [2, 5])
def test_new_coupling_is_a_permutation(channels):
    """The zero-initialized subnet and the unit scale leave the values as they are."""
    coupling = make_coupling(channels, (2, 3), randomize=False)
    (x,), c = inputs(channels, (2, 3))
    (z,), log_det = coupling([x], c)

    assert_close(z, x[:, coupling.permutation])
    assert_close(log_det, torch.zeros(2, 2, 3), atol=1e-4, rtol=0)


def test_log_det_in_closed_form():
    """Without a subnet, every cell contributes Σ log scale."""
    coupling = make_coupling(5, (2, 3), randomize=False).double()
    coupling.global_scale.data.normal_()
    _, log_det = coupling(*inputs(5, (2, 3), dtype=torch.float64))
    scale = 0.1 * 2 * (1 + (0.5 * coupling.global_scale).exp()).log()

    assert_close(log_det, scale.log().sum().expand(2, 2, 3).detach())


def test_first_part_is_untouched_up_to_the_affine():
    """Channels of the first half see only the global scale and offset; the others depend on the condition."""
    coupling = make_coupling(6, (2, 3))
    x, c = inputs(6, (2, 3))
    (first,), _ = coupling(x, c)
    (second,), _ = coupling(x, [torch.randn_like(c[0])])
    changed = (first != second).any(dim=0).flatten(1).any(dim=1)[coupling.permutation.argsort()]

    assert changed.tolist() == [False] * 3 + [True] * 3


def test_log_scale_is_bounded():
    """Whatever the subnet says, a coupling scales by at most exp(±α) beyond its global scale."""
    coupling = make_coupling(4, (1, 1), affine_clamp=0.7).double()
    coupling.subnet.conv2.weight.data.mul_(1e6)
    scale = 0.1 * nn.functional.softplus(coupling.global_scale, beta=0.5)
    for _ in range(20):
        _, log_det = coupling(*inputs(4, (1, 1), dtype=torch.float64))
        assert ((log_det - scale.log().sum()).abs() <= 2 * 0.7 + 1e-9).all()


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("magnitude", [1e4, -1e4])
def test_large_inputs_stay_finite(magnitude, autocast):
    """Inputs and conditions of 1e4 give finite outputs, log-determinants and gradients, in bfloat16, too."""
    coupling = make_coupling(6, (4, 4))
    (x,), (c,) = inputs(6, (4, 4))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        (z,), log_det = coupling([magnitude * x], [magnitude * c])
        (z.square().mean() - log_det.mean()).backward()

    assert z.isfinite().all()
    assert log_det.isfinite().all()
    assert parameters_without_gradient(coupling) == []


def test_every_parameter_gets_a_gradient_after_one_step():
    """At the zero initialization only the last layers learn; one step later all do."""
    coupling = make_coupling(6, (4, 4), randomize=False)
    optimizer = torch.optim.Adam(coupling.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        (z,), log_det = coupling(*inputs(6, (4, 4), batch=4))
        (0.5 * z.square().sum(dim=1) - log_det).sum(dim=(1, 2)).mean().backward()
        optimizer.step()

    assert parameters_without_gradient(coupling) == []


def test_gradients_reach_input_and_condition():
    """Both the features' side and the codebooks' side are trained through the coupling."""
    coupling = make_coupling(6, (4, 4))
    (x,), (c,) = inputs(6, (4, 4))
    (z,), _ = coupling([x.requires_grad_()], [c.requires_grad_()])
    (z * torch.randn_like(z)).sum().backward()

    assert x.grad.abs().flatten(1).amax(dim=1).min() > 0
    assert c.grad.abs().flatten(1).amax(dim=1).min() > 0


def test_permutation_travels_with_the_state():
    """A coupling built under another seed becomes the same after loading."""
    first, second = make_coupling(16, (2, 2)), make_coupling(16, (2, 2))
    assert not torch.equal(first.permutation, second.permutation)
    second.load_state_dict(first.state_dict())
    x, c = inputs(16, (2, 2))

    assert torch.equal(first(x, c)[0][0], second(x, c)[0][0])


def test_other_sizes_than_announced():
    """A convolution does not care about the size of the map."""
    assert_bijection(make_coupling(4, (2, 2)).double(), *inputs(4, (3, 2), dtype=torch.float64))


@pytest.mark.parametrize(
    ("dims_in", "dims_c"),
    [([(1, 2, 2)], [(3, 2, 2)]), ([(4, 2, 2)], []), ([(4, 2, 2)] * 2, [(3, 2, 2)]), ([(4, 2, 2)], [(3, 2, 2)] * 2)],
)
def test_wrong_shapes_are_refused(dims_in, dims_c):
    """One input of two channels or more, one condition."""
    with pytest.raises(ValueError, match="Expected one input of at least two channels and one condition"):
        ConditionalCoupling(dims_in, dims_c, **PUBLISHED)


@pytest.mark.parametrize("options", [{"affine_clamp": 0.0}, {"affine_clamp": -1.0}, {"hidden_dim": 0}])
def test_useless_sizes_are_refused(options):
    """A clamp or a width of zero would silently switch the condition off."""
    with pytest.raises(ValueError, match="positive affine_clamp"):
        make_coupling(4, (2, 2), **options)
