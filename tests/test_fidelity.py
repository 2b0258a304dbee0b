# SPDX-License-Identifier: Apache-2.0
"""Every module, loaded with the recorded state of the paper's release, reproduces its recorded output."""

import pytest
import torch

from anomalib_vqflow.anomaly_map import AnomalyMapGenerator
from anomalib_vqflow.condition import ConditionEncoder
from anomalib_vqflow.flows import ConceptGaussian, ConditionalCoupling, FusionCoupling, MultiScaleFlow
from anomalib_vqflow.quantization import ConceptQuantizer, PatternQuantizer, SemanticContext, make_anchor

from .flows.bijection import image_log_det
from .quantization.concepts import make_concept
from .reference import CHANNELS, STEPS, Reference, needs_reference

pytestmark = needs_reference
LEVELS = range(len(CHANNELS))


@pytest.fixture(scope="module", params=[torch.float64, torch.float32], ids=["float64", "float32"])
def reference(request):
    previous = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    with torch.no_grad():
        yield Reference(request.param)
    torch.set_default_dtype(previous)


def test_position(reference):
    for level, size in enumerate((12, 6, 3)):
        anchor = make_anchor(make_concept(reference.prototype), 8, (size, size))
        reference.check(anchor.map[0, :8], f"pe{level}")


def test_concept(reference):
    concept = ConceptQuantizer(channels=32, concept_dim=16, num_concepts=4, novelty=0.0).eval()
    reference.load_concept(concept)
    prototype, indices, *_ = concept(reference.semantic)
    reference.check(concept.mlp(reference.semantic.mean(dim=(2, 3))), "semantic_vector")
    assert torch.equal(indices, reference.outputs["cpc_ind"])
    reference.check(prototype, "conceptual_prototype")


@pytest.mark.parametrize("level", range(4))
def test_pattern(reference, level):
    context = SemanticContext(channels=32, pattern_dim=24).eval()
    context.load_state_dict(reference.sub("semantic_encoder."))
    reference.check(context(reference.semantic), "semantic_encoder_out")
    features = [*reference.details(), reference.semantic][level]
    quantizer = PatternQuantizer(
        channels=features.shape[1], pattern_dim=24, num_patterns=8, use_context=level < 3, residual=True
    ).eval()
    reference.load_pattern(quantizer, level)
    reference.check(quantizer.encoder(features), f"feature_mlp{level}_out")
    anchor = make_anchor(make_concept(reference.prototype), 8, features.shape[-2:])
    inputs = (features, anchor, context(reference.semantic) if level < 3 else None)
    assert torch.equal(quantizer(*inputs).indices, reference.outputs[f"cspc{level}_ind"])


def test_conditions(reference):
    encoder = ConditionEncoder(
        detail_channels=CHANNELS,
        semantic_channels=32,
        concept_dim=16,
        position_dim=8,
        num_patterns=8,
        residual=True,
        use_patterns=True,
        use_semantic=True,
    ).eval()
    reference.load_conditions(encoder)
    conditions = encoder(reference.details(), reference.semantic, make_concept(reference.prototype))
    for level in LEVELS:
        reference.check(conditions.details[level].dense(), f"pf{level}_cond")
    reference.check(conditions.semantic.dense(), "fusion_cond")


@pytest.mark.parametrize("level", LEVELS)
def test_scale_flow(reference, level):
    z = reference.details()[level]
    reference.check(z, f"pf{level}_x")
    condition, log_det = reference.outputs[f"pf{level}_cond"], 0.0
    for step in range(STEPS[level]):
        published = {"hidden_dim": None, "second_kernel_size": 3, "affine_clamp": 1.9}
        coupling = ConditionalCoupling([z.shape[1:]], [condition.shape[1:]], **published)
        reference.load_coupling(coupling, level, step)
        (z,), step_log_det = coupling([z], [condition])
        log_det = log_det + step_log_det
    reference.check(z, f"pf{level}_z")
    reference.check(image_log_det(log_det, [z]), f"pf{level}_jac")


@pytest.mark.parametrize("level", LEVELS)
def test_gaussian_differs_by_its_log_determinant_only(reference, level):
    z = reference.outputs[f"pf{level}_z"]
    gaussian = ConceptGaussian([z.shape[1:]], [(16,)])
    reference.load_gaussian(gaussian, level)
    (standardized,), log_det = gaussian([z], [reference.prototype])
    reference.check(standardized, f"fusion_in{level}")
    # Recorded "sigma" is the raw scale s, which the release uses as sqrt(s² + 1e-8).
    std = (reference.outputs[f"sigma{level}"].square() + 1e-8).sqrt()
    expected = -z.shape[-2] * z.shape[-1] * std.log().sum(dim=(1, 2, 3))
    torch.testing.assert_close(image_log_det(log_det, [z]), expected)
    assert expected.abs().min() > 1, "the records would not tell whether the term is there"


def test_fusion(reference):
    latents = [reference.outputs[f"fusion_in{level}"] for level in LEVELS]
    condition = reference.outputs["fusion_cond"]
    fusion = FusionCoupling([z.shape[1:] for z in latents], [condition.shape[1:]], affine_clamp=1.9)
    reference.load_fusion(fusion)
    fused, log_dets = fusion(latents, [condition])
    for level in LEVELS:
        reference.check(fused[level], f"z{level}")
    reference.check(image_log_det(log_dets, fused), "fusion_jac")


def test_whole_flow_adds_the_missing_log_determinant(reference):
    details = reference.details()
    conditions = [reference.outputs[name] for name in (*(f"pf{level}_cond" for level in LEVELS), "fusion_cond")]
    flow = MultiScaleFlow(
        [h.shape[1:] for h in details],
        [*(condition.shape[1:] for condition in conditions), (16,)],
        flow_steps=STEPS,
        hidden_dim=None,
        second_kernel_size=3,
        affine_clamp=1.9,
        use_concept_gaussian=True,
        use_fusion=True,
        use_whitening=False,
        whitening_noise=0.0,
    )
    reference.load_flow(flow)
    latents, log_dets = flow(details, [*conditions, reference.prototype])
    missing = sum(
        -h.shape[-2] * h.shape[-1] * 0.5 * (reference.outputs[f"sigma{i}"].square() + 1e-8).log().sum(dim=(1, 2, 3))
        for i, h in enumerate(details)
    )
    for level in LEVELS:
        reference.check(latents[level], f"z{level}")
    reference.check(image_log_det(log_dets, latents) - missing, "jac")


@pytest.mark.parametrize(("score_map", "name", "levels"), [("multiplicative", "mul", 1), ("additive", "add", 3)])
def test_maps(reference, score_map, name, levels):
    latents = [reference.outputs[f"z{level}"] for level in LEVELS]
    generator = AnomalyMapGenerator(
        num_levels=3,
        num_concepts=1,
        score_map=score_map,
        top_k_ratio=0.03,
        map_levels=[0, 1, 2],
        score_levels=[0, 1, 2],
        map_log_det_weight=1.0,
    )
    scores = generator(latents, [], torch.zeros(len(latents[0]), dtype=torch.long), (96, 96))
    # Ours divides the additive map by the number of levels, to stay in [0, 1].
    reference.check(levels * scores.anomaly_map[:, 0], f"anomaly_score_map_{name}")
    if score_map == "multiplicative":
        reference.check(scores.pred_score, "anomaly_score")
