# SPDX-License-Identifier: Apache-2.0
"""The whole model, with tables, is the whole model with plain convolutions."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from anomalib_vqflow import VQFlow
from anomalib_vqflow.condition import ConditionedConv2d, convolution, dense_condition
from anomalib_vqflow.features import Features
from anomalib_vqflow.quantization import Codebook
from anomalib_vqflow.torch_model import VQFlowModel
from tests.flows.bijection import randomize_

SWITCHES = ("residual", "use_patterns", "use_fusion", "use_concept_gaussian")
ABLATIONS = [dict(zip(SWITCHES, values, strict=True)) for values in itertools.product((True, False), repeat=4)]
SIZES = {"square": ((6, 6), (3, 3), (2, 2)), "thin": ((1, 7), (1, 4), (1, 2)), "single": ((3, 2), (1, 1), (1, 1))}


def build(*, residual=True, position_dim=8, **options) -> VQFlowModel:
    torch.manual_seed(0)
    model = VQFlow(
        "test_convnext2",
        pre_trained=False,
        input_size=(64, 64),
        concept_dim=6,
        position_dim=position_dim,
        num_concepts=3,
        num_patterns=5,
        quantization="residual" if residual else "independent",
        flow_steps=(1, 2, 1),
        **{"hidden_dim": None, "use_whitening": False, **options},
    ).model.double()
    randomize_(model.flow, scale=0.1)
    for module in model.modules():
        if isinstance(module, Codebook):
            module.codes.normal_()
            module.code_sums.copy_(module.codes)
            module.code_counts.fill_(1.0)
    return model


def features(model, sizes, batch=3) -> Features:
    channels = [shape[0] for shape in model.features.detail_shapes]
    details = [
        torch.randn(batch, c, *size, dtype=torch.float64, requires_grad=True)
        for c, size in zip(channels, sizes, strict=True)
    ]
    semantic = torch.rand(batch, model.features.semantic_shape[0], *sizes[-1], dtype=torch.float64)
    return Features(details, semantic.requires_grad_())


def plain(self, x, condition):
    return nn.Conv2d.forward(self, torch.cat((x, dense_condition(condition)), dim=1))


def run(model, given) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs, and the gradients of every parameter and of the encoders' and flows' inputs."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for parameter in model.parameters():
        parameter.grad = None
    inputs = [*given.details, given.semantic]
    for x in inputs:
        x.grad = None
    images = torch.zeros(len(given.semantic), 3, 64, 64, dtype=torch.float64)
    torch.manual_seed(1)  # codebooks and noise draw random numbers
    output = model(images, given)
    weights = [torch.randn_like(z) for z in output.latents]
    loss = sum((w * z).sum() for w, z in zip(weights, output.latents, strict=True))
    log_det = sum(level.sum() for level in output.log_dets)
    (loss + log_det + output.commitment).backward()
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    trained = [p for p in model.parameters() if p.requires_grad]
    return [*output.latents, *output.log_dets], [
        torch.zeros_like(t) if t.grad is None else t.grad for t in trained + inputs
    ]


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize(
    "options", [*ABLATIONS, {"position_dim": 0}, {"hidden_dim": 7}, {"use_whitening": True}], ids=str
)
def test_training_equals_the_plain_form(monkeypatch, options, sizes):
    """Latents, log-determinants and all gradients, to 1e-9 in float64, under every switch, on odd and tiny maps."""
    model = build(**options).train()
    given = features(model, sizes)
    monkeypatch.setattr(convolution, "saves_work", lambda *_: True)
    outputs, gradients = run(model, given)
    monkeypatch.setattr(ConditionedConv2d, "forward", plain)
    expected_outputs, expected_gradients = run(model, given)

    largest = max(float(g.abs().max()) for g in expected_gradients)
    assert largest > 0
    for ours, theirs in zip(outputs, expected_outputs, strict=True):
        assert (ours - theirs).abs().max() <= 1e-9 * theirs.abs().max().clamp_min(1)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        # Biases before a batch normalization have no gradient but for rounding.
        assert (ours - theirs).abs().max() <= 1e-9 * max(float(theirs.abs().max()), 1e-4 * largest)


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_inference_equals_the_plain_form(monkeypatch, options):
    """Scores and maps do not change, nor do they when the weights of the model are changed between two images."""
    model = build(**options).eval()
    given, images = features(model, SIZES["square"]), torch.zeros(3, 3, 64, 64, dtype=torch.float64)
    for _ in range(2):
        with torch.no_grad():
            ours = model(images, given)
            with monkeypatch.context() as patch:
                patch.setattr(ConditionedConv2d, "forward", plain)
                theirs = model(images, given)
            assert (ours.anomaly_map - theirs.anomaly_map).abs().max() <= 1e-9
            assert (ours.pred_score - theirs.pred_score).abs().max() <= 1e-9
        randomize_(model.flow, scale=0.1)
