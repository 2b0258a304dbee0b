# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from anomalib_vqflow.flows import FusionCoupling
from anomalib_vqflow.flows.fusion import FusionSubnet
from tests.gradients import parameters_without_gradient

from .bijection import assert_bijection, image_log_det, randomize_

CONDITION_DIM = 17  # a quarter of all channels is hidden, and a layer norm over one channel is blind
GRIDS = {
    "pyramid": ((4, 4, 4), (5, 2, 2)),
    "odd channels": ((3, 2, 4), (5, 1, 2), (2, 1, 1)),
    "non-square": ((2, 5, 3), (3, 3, 2)),
    "one level": ((5, 2, 3),),
    "1 x 1": ((3, 1, 1), (4, 1, 1)),
    "1 x N": ((2, 1, 7), (3, 1, 4)),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make_fusion(dims, *, randomize=True, **options) -> FusionCoupling:
    fusion = FusionCoupling(dims, [(CONDITION_DIM, *dims[-1][1:])], **{"affine_clamp": 1.9, **options})
    if randomize:
        randomize_(fusion)
    return fusion


def inputs(dims, batch=2, dtype=torch.float32):
    condition = torch.randn(batch, CONDITION_DIM, *dims[-1][1:], dtype=dtype)
    return [torch.randn(batch, *shape, dtype=dtype) for shape in dims], [condition]


@pytest.mark.parametrize("dims", GRIDS.values(), ids=GRIDS.keys())
def test_bijection(dims):
    """Inverse, sign and log-determinant, for any number of levels, odd channels, tiny and non-square maps."""
    assert_bijection(make_fusion(dims).double(), *inputs(dims, dtype=torch.float64))


@pytest.mark.parametrize("size", [(5, 3), (2, 2), (1, 1)])
def test_bijection_with_a_condition_on_another_grid(size):
    """A condition finer or coarser than the coarsest level is averaged or spread to its grid."""
    dims = GRIDS["pyramid"]
    x, _ = inputs(dims, dtype=torch.float64)
    assert_bijection(make_fusion(dims).double(), x, [torch.randn(2, CONDITION_DIM, *size, dtype=torch.float64)])


def test_finer_condition_is_averaged():
    """A condition on twice the grid acts as its 2 × 2 means."""
    dims = GRIDS["pyramid"]
    fusion, (x, _) = make_fusion(dims), inputs(dims)
    condition = torch.randn(2, CONDITION_DIM, 4, 4)
    fine, coarse = fusion(x, [condition]), fusion(x, [F.avg_pool2d(condition, 2)])

    for ours, theirs in zip(fine[0], coarse[0], strict=True):
        assert_close(ours, theirs)


def test_new_fusion_is_a_permutation():
    """The zero-initialized last convolutions leave the values as they are, each level in its own order."""
    dims = GRIDS["odd channels"]
    fusion, (x, c) = make_fusion(dims, randomize=False), inputs(dims)
    z, log_dets = fusion(x, c)

    for level, order in enumerate(fusion.permutations):
        assert torch.equal(z[level], x[level][:, order])
    assert not any(log_det.any() for log_det in log_dets)


def test_every_level_depends_on_every_other():
    """Information crosses the scales in both directions, and the condition reaches all."""
    dims = GRIDS["pyramid"]
    fusion, (x, c) = make_fusion(dims), inputs(dims)
    z, _ = fusion(x, c)
    for changed in range(2):
        other = [level + (torch.randn_like(level) if i == changed else 0.0) for i, level in enumerate(x)]
        z_other, _ = fusion(other, c)
        assert all(not torch.allclose(a, b) for a, b in zip(z, z_other, strict=True))
    z_other, _ = fusion(x, [torch.randn_like(c[0])])
    assert all(not torch.allclose(a, b) for a, b in zip(z, z_other, strict=True))


@pytest.mark.parametrize("raw_scale", [0.2, -3.0, 1e9])
def test_log_scale_in_closed_form(raw_scale):
    """A raw scale s everywhere gives α · 0.636 · atan(s / α) per dimension, at most 0.999 α."""
    dims, alpha = GRIDS["pyramid"], 0.5
    fusion = make_fusion(dims, randomize=False, affine_clamp=alpha)
    for conv in (*fusion.first_subnet.scale_convs, *fusion.second_subnet.scale_convs):
        conv.bias.data.fill_(raw_scale)
    _, log_dets = fusion(*inputs(dims))
    expected = alpha * 0.636 * math.atan(raw_scale / alpha)

    for log_det, (channels, *size) in zip(log_dets, dims, strict=True):
        assert_close(log_det, torch.full((2, *size), channels * expected))
    assert abs(expected) < alpha


def test_subnet_in_plain_steps():
    """Mean down to the coarsest grid, mix, resize back linearly between the corners, add, predict."""
    subnet = FusionSubnet([3, 2], [2, 2], CONDITION_DIM).double()
    randomize_(subnet)
    fine, coarse = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 2, 2, 2, dtype=torch.float64)
    condition = torch.randn(2, CONDITION_DIM, 2, 2, dtype=torch.float64)
    means = fine.reshape(2, 3, 2, 2, 2, 2).mean(dim=(3, 5))
    mixed = subnet.conv1(torch.cat((means, coarse), dim=1), condition)
    shared = subnet.conv2(subnet.norm(mixed).relu()).relu()
    between = torch.tensor([[1, 0], [2 / 3, 1 / 3], [1 / 3, 2 / 3], [0, 1]], dtype=torch.float64)
    joined = [fine + between @ shared[:, :3] @ between.T, coarse + shared[:, 3:]]
    predicted = subnet([fine, coarse], condition)

    for level in range(2):
        assert_close(predicted.raw_scales[level], subnet.scale_convs[level](joined[level]))
        assert_close(predicted.shifts[level], subnet.shift_convs[level](joined[level]))


def test_jac_off_in_both_directions():
    """No log-determinant when none is asked for."""
    dims = GRIDS["pyramid"]
    fusion, (x, c) = make_fusion(dims), inputs(dims)
    for rev in (False, True):
        _, log_dets = fusion(x, c, rev=rev, jac=False)
        assert all(torch.equal(log_det, torch.zeros(1, 1, 1)) for log_det in log_dets)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("magnitude", [1e4, -1e4])
def test_large_inputs_stay_finite(magnitude, autocast):
    """Latents and conditions of 1e4 give finite outputs, log-determinants and gradients, in bfloat16, too."""
    dims = GRIDS["pyramid"]
    fusion, (x, c) = make_fusion(dims), inputs(dims)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        z, log_dets = fusion([magnitude * level for level in x], [magnitude * c[0]])
        log_det = image_log_det(log_dets, z)
        (sum(level.square().mean() for level in z) - log_det.mean()).backward()

    assert all(level.isfinite().all() for level in z)
    assert log_det.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in fusion.parameters())


@pytest.mark.parametrize("dims", GRIDS.values(), ids=GRIDS.keys())
def test_every_parameter_gets_a_gradient_after_one_step(dims):
    """At the zero initialization only the last layers learn; one step later all do."""
    fusion = make_fusion(dims, randomize=False)
    for conv in (
        fusion.first_subnet.conv2,
        fusion.second_subnet.conv2,
        fusion.first_subnet.norm,
        fusion.second_subnet.norm,
    ):
        conv.bias.data.fill_(0.5)  # tiny maps leave too few cells to keep every ReLU alive by chance
    optimizer = torch.optim.Adam(fusion.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        z, log_dets = fusion(*inputs(dims, batch=16))
        energy = sum(0.5 * level.square().flatten(1).sum(dim=1) for level in z)
        (energy - image_log_det(log_dets, z)).mean().backward()
        optimizer.step()

    assert parameters_without_gradient(fusion) == []


def test_permutations_travel_with_the_state():
    """A fusion built under another seed becomes the same after loading."""
    dims = ((16, 2, 2), (17, 1, 1))
    first, second = make_fusion(dims), make_fusion(dims)
    second.load_state_dict(first.state_dict())
    x, c = inputs(dims)

    assert all(torch.equal(a, b) for a, b in zip(first(x, c)[0], second(x, c)[0], strict=True))


@pytest.mark.parametrize(
    ("dims_in", "dims_c"),
    [([(1, 2, 2)], [(3, 2, 2)]), ([(4, 2, 2)], []), ([], [(3, 2, 2)]), ([(4, 2, 2)], [(3, 2, 2)] * 2)],
)
def test_wrong_shapes_are_refused(dims_in, dims_c):
    """At least one scale of two channels or more, one condition."""
    with pytest.raises(ValueError, match="Expected scales of at least two channels and one condition"):
        FusionCoupling(dims_in, dims_c, affine_clamp=1.9)


def test_a_clamp_of_zero_is_refused():
    """It would divide by zero."""
    with pytest.raises(ValueError, match=r"affine_clamp.* must be positive, got 0"):
        make_fusion(GRIDS["pyramid"], affine_clamp=0.0)
