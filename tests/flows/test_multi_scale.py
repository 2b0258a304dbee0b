# SPDX-License-Identifier: Apache-2.0
import itertools
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from anomalib_vqflow.flows import ConditionalCoupling, FusionCoupling, MultiScaleFlow, Whitening
from tests.gradients import parameters_without_gradient

from .bijection import assert_bijection, image_log_det, randomize_

CONDITION_DIM, CONCEPT_DIM = 17, 4
DIMS = {
    "pyramid": ((4, 2, 4), (5, 1, 2)),
    "three levels": ((2, 4, 2), (3, 2, 1), (5, 1, 1)),
    "one level": ((5, 2, 3),),
    "1 x N": ((2, 1, 7), (3, 1, 4)),
}
OPTIONS = {
    "hidden_dim": None,
    "second_kernel_size": 1,
    "affine_clamp": 1.9,
    "use_concept_gaussian": True,
    "use_fusion": True,
    "use_whitening": False,
    "whitening_noise": 0.15,
}
SWITCHES = ("use_concept_gaussian", "use_fusion", "use_whitening")
ABLATIONS = [dict(zip(SWITCHES, values, strict=True)) for values in itertools.product((True, False), repeat=3)]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make_flow(dims, *, randomize=True, flow_steps=None, dtype=torch.float32, **options) -> MultiScaleFlow:
    dims_c = [*((CONDITION_DIM, *shape[1:]) for shape in (*dims, dims[-1])), (CONCEPT_DIM,)]
    steps = tuple(range(1, len(dims) + 1)) if flow_steps is None else flow_steps
    flow = MultiScaleFlow(dims, dims_c, flow_steps=steps, **{**OPTIONS, **options}).to(dtype)
    if randomize:
        randomize_(flow)
    for whitening in whitenings(flow):
        channels = len(whitening.mean)
        root = torch.randn(channels, channels, dtype=dtype)
        whitening.fit_(torch.randn(channels, dtype=dtype), root @ root.T + torch.eye(channels, dtype=dtype))
    return flow


def whitenings(flow) -> list[Whitening]:
    return [module for module in flow.modules() if isinstance(module, Whitening)]


def inputs(dims, batch=2, dtype=torch.float32):
    details = [torch.randn(batch, *shape, dtype=dtype) for shape in dims]
    conditions = [torch.randn(batch, CONDITION_DIM, *shape[1:], dtype=dtype) for shape in (*dims, dims[-1])]
    return details, [*conditions, torch.randn(batch, CONCEPT_DIM, dtype=dtype)]


def loss_of(flow, details, c):
    latents, log_dets = flow(details, c)
    return (sum(0.5 * z.square().flatten(1).sum(dim=1) for z in latents) - image_log_det(log_dets, latents)).mean()


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
@pytest.mark.parametrize("dims", DIMS.values(), ids=DIMS.keys())
def test_bijection(dims, options):
    """The whole flow inverts, and its log-determinant is that of autograd's Jacobian, under every switch."""
    flow = make_flow(dims, dtype=torch.float64, **options).eval()  # in training, noise follows the whitening
    assert_bijection(flow, *inputs(dims, dtype=torch.float64))


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
@pytest.mark.parametrize("rev", [False, True])
def test_jac_off_means_zeros(options, rev):
    """No coupling computes a log-determinant that nobody asked for; zeros that broadcast stand in for it."""
    dims = DIMS["three levels"]
    flow, asked = make_flow(dims, **{**options, "use_concept_gaussian": False, "use_whitening": False}), []
    for module in flow.modules():
        if isinstance(module, (ConditionalCoupling, FusionCoupling)):
            module.register_forward_hook(lambda _m, _x, output: asked.append(output[1]))
    details, c = inputs(dims)
    _, log_dets = flow(details, c, rev=rev, jac=False)

    assert len(asked) == 1 + 2 + 3 + options["use_fusion"]
    assert not any(log_det.any() for log_det in log_dets)


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_every_module_is_called_once(options):
    """What hooks, profilers and FLOP counters see is what runs, in training and in inference, in both directions."""
    dims = DIMS["three levels"]
    flow, calls = make_flow(dims, **options), Counter()
    for name, module in flow.named_modules():
        module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    called = {n for n, module in flow.named_modules() if not isinstance(module, torch.nn.ModuleList)}
    details, c = inputs(dims)
    for training, rev in itertools.product((True, False), repeat=2):
        calls.clear()
        flow.train(training)(details, c, rev=rev)
        assert calls == dict.fromkeys(called, 1)


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_cells_share_the_log_determinant(options):
    """Each level tells its own cells apart."""
    dims = DIMS["pyramid"]
    latents, log_dets = make_flow(dims, **options)(*inputs(dims))

    assert [tuple(level.shape) for level in log_dets] == [(2, *z.shape[2:]) for z in latents]
    assert all(level.flatten(1).std(dim=1).min() > 0 for level in log_dets)


@pytest.mark.parametrize("options", [o for o in ABLATIONS if not o["use_whitening"]], ids=str)
def test_new_flow_is_a_permutation(options):
    """Before training, each level's latents are its features in another order, and volume is kept."""
    dims = DIMS["three levels"]
    flow, (details, c) = make_flow(dims, randomize=False, **options), inputs(dims)
    latents, log_dets = flow(details, c)

    for z, h in zip(latents, details, strict=True):
        assert_close(z.sort(dim=1).values, h.sort(dim=1).values, atol=1e-5, rtol=1e-5)
    for log_det in log_dets:
        assert_close(log_det, torch.zeros_like(log_det), atol=1e-3, rtol=0)


def test_levels_mix_in_the_fusion_only():
    """Without fusion a level sees nothing of the others."""
    dims = DIMS["pyramid"]
    for use_fusion in (True, False):
        flow, (details, c) = make_flow(dims, use_fusion=use_fusion), inputs(dims)
        z, _ = flow(details, c)
        other, _ = flow([details[0] + 1, details[1]], c)
        assert torch.equal(z[1], other[1]) is not use_fusion


def test_batch_of_two_equals_two_batches_of_one():
    """Images do not see each other, in their latents and in their log-determinants."""
    dims = DIMS["three levels"]
    flow, (details, c) = make_flow(dims), inputs(dims)
    together = flow(details, c)
    alone = [flow([h[i, None] for h in details], [part[i, None] for part in c]) for i in range(2)]

    for part in range(2):  # latents, log-determinants
        for level, expected in enumerate(together[part]):
            assert_close(expected, torch.cat([one[part][level] for one in alone]))


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_every_parameter_gets_a_gradient_after_one_step(options):
    """At the zero initialization only the last layers learn; one step later all do."""
    dims = ((6, 4, 4), (7, 2, 2))
    flow = make_flow(dims, randomize=False, **options)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(flow, *inputs(dims, batch=8)).backward()
        optimizer.step()

    assert parameters_without_gradient(flow) == []


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_ablations_have_no_spare_modules(options):
    """What is switched off is not built."""
    flow = make_flow(DIMS["pyramid"], **options)
    whitened = ["Whitening", "Noise"] if options["use_whitening"] else []
    gaussian = ["ConceptGaussian"] if options["use_concept_gaussian"] else []

    for steps, level in enumerate(flow.levels, start=1):
        assert [type(step).__name__ for step in level] == [*whitened, *["ConditionalCoupling"] * steps, *gaussian]
    assert (flow.fusion is not None) == options["use_fusion"]


@pytest.mark.parametrize("magnitude", [1e4, -1e4])
def test_large_inputs_stay_finite(magnitude):
    """Features and conditions of 1e4 give finite latents, log-determinants and gradients."""
    dims = DIMS["pyramid"]
    flow, (details, (*conditions, prototype)) = make_flow(dims), inputs(dims)
    latents, log_dets = flow([magnitude * h for h in details], [*(magnitude * c for c in conditions), prototype])
    (sum(z.square().mean() for z in latents) - image_log_det(log_dets, latents).mean()).backward()

    assert all(part.isfinite().all() for part in (*latents, *log_dets))
    assert all(parameter.grad.isfinite().all() for parameter in flow.parameters())


def test_training_raises_the_likelihood():
    """A few steps on shifted and scaled Gaussians lower the negative log-likelihood to near that of the truth."""
    dims = ((4, 4, 4), (4, 2, 2))
    flow = make_flow(dims, randomize=False)
    optimizer, losses = torch.optim.Adam(flow.parameters(), lr=1e-2), []
    for _ in range(80):
        details, c = inputs(dims, batch=16)
        loss = loss_of(flow, [2 + 0.5 * h for h in details], c) / 80
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    truth = 0.5 + torch.tensor(0.5).log().item()  # per dimension, without ½ log 2π

    assert losses[0] > 2
    assert truth - 0.1 < losses[-1] < truth + 0.25


def test_state_keys_do_not_depend_on_the_process():
    """Names and order of the state are the same under another hash seed, unlike with FrEIA's GraphINN."""
    code = "from tests.flows.test_multi_scale import DIMS, make_flow; print(*make_flow(DIMS['pyramid']).state_dict())"
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)

    assert process.stdout.split() == list(make_flow(DIMS["pyramid"]).state_dict())


def test_shrunken_latents_turn_back_into_likelier_features():
    """Turning latents back half-way to zero gives features that the flow finds more normal: a nearest normal image."""
    dims = DIMS["pyramid"]
    flow = make_flow(dims, dtype=torch.float64, use_whitening=True).eval()
    details, c = inputs(dims, dtype=torch.float64)
    latents, _ = flow(details, c)
    repaired, _ = flow([0.5 * z for z in latents], c, rev=True)
    again, _ = flow(repaired, c)

    for z, half in zip(latents, again, strict=True):
        assert_close(half, 0.5 * z, atol=1e-8, rtol=0)


def test_noise_must_not_be_negative():
    """It is a standard deviation."""
    with pytest.raises(ValueError, match="whitening_noise"):
        make_flow(DIMS["pyramid"], use_whitening=True, whitening_noise=-0.1)


@pytest.mark.parametrize("flow_steps", [(1,), (1, 2, 3), (1, 0), (-1, 2), ()])
def test_flow_steps_must_fit_the_levels(flow_steps):
    """The message says how many numbers are wanted and what came."""
    with pytest.raises(ValueError, match="one positive number for each of the 2 levels"):
        make_flow([(4, 4, 4), (6, 2, 2)], flow_steps=flow_steps)
