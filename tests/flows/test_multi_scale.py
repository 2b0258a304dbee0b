# SPDX-License-Identifier: Apache-2.0
import itertools
import os
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from anomalib_vqflow.flows import ConditionalCoupling, FusionCoupling, MultiScaleFlow
from tests.gradients import parameters_without_gradient

from .bijection import jacobian_log_det, randomize_

CONDITION_DIM, CONCEPT_DIM = 17, 4
DIMS = {
    "pyramid": ((4, 2, 4), (5, 1, 2)),
    "three levels": ((2, 4, 2), (3, 2, 1), (5, 1, 1)),
    "one level": ((5, 2, 3),),
    "1 x N": ((2, 1, 7), (3, 1, 4)),
}
ABLATIONS = [
    {"use_concept_gaussian": gaussian, "use_fusion": fusion}
    for gaussian, fusion in itertools.product((True, False), repeat=2)
]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make_flow(dims, *, randomize=True, **options) -> MultiScaleFlow:
    flow = MultiScaleFlow(dims, CONDITION_DIM, CONCEPT_DIM, flow_steps=tuple(range(1, len(dims) + 1)), **options)
    if randomize:
        randomize_(flow)
    return flow


def inputs(dims, batch=2, dtype=torch.float32):
    details = [torch.randn(batch, *shape, dtype=dtype) for shape in dims]
    conditions = [torch.randn(batch, CONDITION_DIM, *shape[1:], dtype=dtype) for shape in dims]
    semantic = torch.randn(batch, CONDITION_DIM, *dims[-1][1:], dtype=dtype)
    return details, conditions, semantic, torch.randn(batch, CONCEPT_DIM, dtype=dtype)


def invert(flow, latents, conditions, semantic, prototype):
    """Walk back through the rooms; the log-determinant of the inverse comes along."""
    log_det = prototype.new_zeros(prototype.shape[0])
    if flow.fusion is not None:
        latents, log_det = flow.fusion(latents, [semantic], rev=True)
    details = []
    for level, (z, condition) in enumerate(zip(latents, conditions, strict=True)):
        x = z
        if len(flow.gaussians):
            (x,), step = flow.gaussians[level]([x], [prototype], rev=True)
            log_det = log_det + step
        for coupling in reversed(flow.scale_flows[level]):
            (x,), step = coupling([x], [condition], rev=True)
            log_det = log_det + step
        details.append(x)
    return details, log_det


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
@pytest.mark.parametrize("dims", DIMS.values(), ids=DIMS.keys())
def test_bijection(dims, options):
    """Under every ablation the rooms invert the flow, and its log-determinant is that of autograd's Jacobian."""
    flow = make_flow(dims, **options).double()
    details, conditions, semantic, prototype = inputs(dims, dtype=torch.float64)
    latents, log_det, _ = flow(details, conditions, semantic, prototype)
    restored, inverse_log_det = invert(flow, latents, conditions, semantic, prototype)

    assert log_det.shape == (2,)
    for ours, theirs in zip(restored, details, strict=True):
        assert_close(ours, theirs, atol=1e-8, rtol=0)
    assert_close(inverse_log_det, -log_det, atol=1e-8, rtol=0)
    for image in range(2):
        (*given,) = (
            [t[image : image + 1] for t in conditions],
            semantic[image : image + 1],
            prototype[image : image + 1],
        )
        expected = jacobian_log_det(
            lambda parts, given=given: flow(parts, *given).latents, [h[image : image + 1] for h in details]
        )
        assert_close(log_det[image], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_jac_off_gives_the_same_latents(options):
    """Scores need no log-determinant; zeros stand in for it."""
    flow, given = make_flow(DIMS["pyramid"], **options), inputs(DIMS["pyramid"])
    latents, without = flow(*given).latents, flow(*given, jac=False)

    assert all(torch.equal(a, b) for a, b in zip(latents, without.latents, strict=True))
    assert torch.equal(without.log_det, torch.zeros(2))


def test_jac_off_reaches_every_coupling(monkeypatch):
    """No coupling computes a log-determinant that nobody asked for."""
    asked = []
    for cls in (ConditionalCoupling, FusionCoupling):

        def record(self, x, condition, jac=True, transform=cls.transform):
            asked.append(jac)
            return transform(self, x, condition, jac)

        monkeypatch.setattr(cls, "transform", record)
    make_flow(DIMS["three levels"])(*inputs(DIMS["three levels"]), jac=False)

    assert asked == [False] * (1 + 2 + 3 + 1)


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_cells_share_the_log_determinant(options):
    """The log-determinant is the sum of what its cells contribute, and each level tells its own cells apart."""
    dims = DIMS["pyramid"]
    latents, log_det, cell_log_dets = make_flow(dims, **options)(*inputs(dims))

    assert [tuple(level.shape) for level in cell_log_dets] == [(2, *z.shape[2:]) for z in latents]
    assert_close(sum(level.sum(dim=(1, 2)) for level in cell_log_dets), log_det)
    assert all(level.flatten(1).std(dim=1).min() > 0 for level in cell_log_dets)


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_new_flow_is_a_permutation(options):
    """Before training, each level's latents are its features in another order, and volume is kept."""
    dims = DIMS["three levels"]
    flow, given = make_flow(dims, randomize=False, **options), inputs(dims)
    latents, log_det, _ = flow(*given)

    for z, h in zip(latents, given[0], strict=True):
        assert_close(z.sort(dim=1).values, h.sort(dim=1).values, atol=1e-5, rtol=1e-5)
    assert_close(log_det, torch.zeros(2), atol=1e-3, rtol=0)


def test_levels_mix_in_the_fusion_only():
    """Without fusion a level sees nothing of the others."""
    dims = DIMS["pyramid"]
    for use_fusion in (True, False):
        flow, (details, *given) = make_flow(dims, use_fusion=use_fusion), inputs(dims)
        z = flow(details, *given).latents
        other = flow([details[0] + 1, details[1]], *given).latents
        assert torch.equal(z[1], other[1]) is not use_fusion


def test_batch_of_two_equals_two_batches_of_one():
    """Images do not see each other, in their latents and in their log-determinants."""
    dims = DIMS["three levels"]
    flow, (details, conditions, semantic, prototype) = make_flow(dims), inputs(dims)
    together = flow(details, conditions, semantic, prototype)
    alone = [
        flow([h[i, None] for h in details], [c[i, None] for c in conditions], semantic[i, None], prototype[i, None])
        for i in range(2)
    ]

    for level, z in enumerate(together.latents):
        assert_close(z, torch.cat([one.latents[level] for one in alone]))
    assert_close(together.log_det, torch.cat([one.log_det for one in alone]))


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_every_parameter_gets_a_gradient_after_one_step(options):
    """At the zero initialization only the last layers learn; one step later all do."""
    dims = ((6, 4, 4), (7, 2, 2))
    flow = make_flow(dims, randomize=False, **options)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        latents, log_det, _ = flow(*inputs(dims, batch=8))
        (sum(0.5 * z.square().flatten(1).sum(dim=1) for z in latents) - log_det).mean().backward()
        optimizer.step()

    assert parameters_without_gradient(flow) == []


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_ablations_have_no_spare_parameters(options):
    """What is switched off is not built."""
    names = {name.split(".")[0] for name, _ in make_flow(DIMS["pyramid"], **options).named_parameters()}
    expected = {"scale_flows"}
    expected |= {"gaussians"} if options["use_concept_gaussian"] else set()
    expected |= {"fusion"} if options["use_fusion"] else set()

    assert names == expected


@pytest.mark.parametrize("magnitude", [1e4, -1e4])
def test_large_inputs_stay_finite(magnitude):
    """Features and conditions of 1e4 give finite latents, log-determinants and gradients."""
    dims = DIMS["pyramid"]
    flow, (details, conditions, semantic, prototype) = make_flow(dims), inputs(dims)
    latents, log_det, _ = flow(
        [magnitude * h for h in details], [magnitude * c for c in conditions], magnitude * semantic, prototype
    )
    (sum(z.square().mean() for z in latents) - log_det.mean()).backward()

    assert all(z.isfinite().all() for z in latents)
    assert log_det.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in flow.parameters())


def test_training_raises_the_likelihood():
    """A few steps on shifted and scaled Gaussians lower the negative log-likelihood to near that of the truth."""
    dims = ((4, 4, 4), (4, 2, 2))
    flow = make_flow(dims, randomize=False)
    optimizer, losses = torch.optim.Adam(flow.parameters(), lr=1e-2), []
    for _ in range(80):
        details, conditions, semantic, prototype = inputs(dims, batch=16)
        latents, log_det, _ = flow([2 + 0.5 * h for h in details], conditions, semantic, prototype)
        loss = (sum(0.5 * z.square().flatten(1).sum(dim=1) for z in latents) - log_det).mean() / 80
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    truth = 0.5 + torch.tensor(0.5).log().item()  # per dimension, without ½ log 2π

    assert losses[0] > 2
    assert truth - 0.1 < losses[-1] < truth + 0.25


def test_state_keys_do_not_depend_on_the_process():
    """Names and order of the state are the same under another hash seed, unlike with FrEIA's GraphINN."""
    code = (
        "from anomalib_vqflow.flows import MultiScaleFlow; "
        "print(*MultiScaleFlow([(4, 4, 4), (6, 2, 2), (8, 1, 1)], 3, 4, (1, 2, 3)).state_dict())"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "1"},
    )

    assert process.stdout.split() == list(
        MultiScaleFlow([(4, 4, 4), (6, 2, 2), (8, 1, 1)], 3, 4, (1, 2, 3)).state_dict()
    )


def test_whitened_maps_get_noise_in_training_only():
    """A flow that starts at the identity shows the noise itself: of the deviation asked for, new in every step."""
    options = {"use_whitening": True, "use_concept_gaussian": False, "use_fusion": False}
    dims = DIMS["pyramid"]
    flow = make_flow(dims, randomize=False, whitening_noise=0.3, **options)
    given = inputs(dims, batch=64)

    quiet = flow.eval()(*given).latents
    for z, again in zip(quiet, flow(*given).latents, strict=True):
        assert torch.equal(z, again)
    first, second = (flow.train()(*given).latents for _ in range(2))
    for z, one, other in zip(quiet, first, second, strict=True):
        assert_close((one - z).std(), torch.tensor(0.3), rtol=0.1, atol=0)
        assert_close((one - other).std(), torch.tensor(0.3 * 2**0.5), rtol=0.1, atol=0)


def test_noise_must_not_be_negative():
    """It is a standard deviation."""
    with pytest.raises(ValueError, match="whitening_noise"):
        make_flow(DIMS["pyramid"], use_whitening=True, whitening_noise=-0.1)


@pytest.mark.parametrize("flow_steps", [(1,), (1, 2, 3), (1, 0), (-1, 2), ()])
def test_flow_steps_must_fit_the_levels(flow_steps):
    """The message says how many numbers are wanted and what came."""
    with pytest.raises(ValueError, match="one positive number for each of the 2 detail levels"):
        MultiScaleFlow([(4, 4, 4), (6, 2, 2)], 3, 4, flow_steps)
