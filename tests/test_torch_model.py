# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from anomalib.data import InferenceBatch
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from anomalib_vqflow import VQFlowLoss

from .flows.bijection import image_log_det
from .quantization.concepts import make_concept
from .tiny import tiny_torch_model

ROOT = Path(__file__).resolve().parents[1]


def build(*, seed=0, steps=2, **arguments):
    """Build a model whose codebooks are initialized and whose subnets are away from zero, in eval mode."""
    torch.manual_seed(seed)
    model = tiny_torch_model(**arguments)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    with torch.no_grad():
        for _ in range(steps):
            model(images(8))
    return model.eval()


def images(count=2, height=64, width=64, seed=1):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def features(model, count=2, seed=2):
    """Random features of the shapes that the model's flows and encoders take."""
    generator = torch.Generator().manual_seed(seed)
    details = [torch.randn(count, *shape, generator=generator) for shape in model.features.detail_shapes]
    semantic = torch.randn(count, *model.features.semantic_shape, generator=generator)
    return details, semantic, torch.randn(count, 16, generator=generator)


def encode(model, details, semantic, prototype):
    """The conditions of the flow: of each level, of the semantic level, and the prototype."""
    conditions = model.conditions(details, semantic, make_concept(prototype))
    return [*conditions.details, conditions.semantic, prototype]


def loss(output):
    return VQFlowLoss(commitment_weight=1.0, tail_weight=0.3)(output.latents, output.log_dets, output.commitment).total


def test_training_and_evaluation_give_their_own_outputs():
    """Training returns what the loss needs, evaluation scores in [0, 1]."""
    model = build()
    prediction = model(images(3))
    output = model.train()(images(3))

    assert set(InferenceBatch._fields) | {"concept", "raw_map", "raw_score_map"} == set(prediction._fields)
    assert prediction.concept.shape == (3,)
    assert prediction.pred_score.shape == (3,)
    assert prediction.anomaly_map.shape == (3, 1, 64, 64)
    assert ((prediction.anomaly_map >= 0) & (prediction.anomaly_map <= 1)).all()
    assert [tuple(z.shape) for z in output.latents] == [(3, 64, 8, 8), (3, 96, 4, 4), (3, 128, 2, 2)]
    assert [log_det.shape for log_det in output.log_dets] == [z[:, 0].shape for z in output.latents]
    assert output.commitment.shape == ()
    assert output.concept_indices.shape == (3,)


def test_evaluation_is_pure():
    """Evaluation changes no weight, code or batch statistic, and gives the same result twice."""
    model = build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = model(images()), model(images())

    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(first.anomaly_map, second.anomaly_map)
    assert torch.equal(first.pred_score, second.pred_score)


def test_a_batch_of_two_equals_two_batches_of_one():
    """In evaluation, images do not influence each other."""
    model = build()
    both = model(images(2))

    for index in range(2):
        alone = model(images(2)[index : index + 1])
        assert_close(alone.anomaly_map[0], both.anomaly_map[index])
        assert_close(alone.pred_score[0], both.pred_score[index])


def test_every_parameter_gets_a_gradient():
    """All trainable parameters, and none of the frozen backbone, receive a gradient that is not zero."""
    model = build().train()
    output = model(images(4))
    loss(output).backward()

    for name, parameter in model.named_parameters():
        if name.startswith("features."):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


@pytest.mark.parametrize("training", [True, False])
def test_hooks_see_every_module_once(training):
    """Forward hooks on all of the flow, the conditions and the codebooks fire once per batch: they are what runs."""
    model, calls = build(use_whitening=True).train(training), Counter()
    parts = {"flow": model.flow, "conditions": model.conditions, "concept": model.concept}
    called = []
    for part, whole in parts.items():
        for name, module in whole.named_modules(prefix=part):
            module.register_forward_hook(lambda *_, name=name: calls.update([name]))
            called += [] if isinstance(module, torch.nn.ModuleList) else [name]
    model(images(4))

    assert calls == dict.fromkeys(called, 1)


def test_a_flop_counter_sees_the_flow():
    """Counted per module, a coupling is most of its level, and the levels and the fusion are all of the flow."""
    model = build()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images())
    counts = {name: sum(by_operator.values()) for name, by_operator in counter.get_flop_counts().items()}
    flow = "VQFlowModel.flow"
    levels = [counts[f"{flow}.levels.{level}"] for level in range(3)]

    assert sum(levels) + counts[f"{flow}.fusion"] == counts[flow]
    assert counts[f"{flow}.levels.0.module_list.0"] > 0.9 * levels[0] > 0


LOAD = """
import sys
import torch
from tests.test_torch_model import build

saved = torch.load(sys.argv[1], weights_only=True)
model = build(seed=99, steps=0)
model.load_state_dict(saved["state"])
prediction = model(saved["images"])
assert torch.equal(prediction.anomaly_map, saved["map"])
assert torch.equal(prediction.pred_score, saved["score"])
"""


@pytest.mark.slow
def test_a_saved_model_gives_the_same_output_in_a_new_process(tmp_path):
    """All that the output depends on is in the state dict: built under another seed and loaded, it is bit-equal."""
    model, batch = build(), images()
    prediction = model(batch)
    saved = {
        "state": model.state_dict(),
        "images": batch,
        "map": prediction.anomaly_map.detach(),
        "score": prediction.pred_score.detach(),
    }
    torch.save(saved, tmp_path / "saved.pt")

    command = [sys.executable, "-W", "ignore", "-c", LOAD, str(tmp_path / "saved.pt")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr


def test_loaded_weights_undo_the_seed():
    """A model built under another seed gives the same output once it has the weights, permutations included."""
    model, other = build(), build(seed=5)
    assert not torch.equal(other(images()).anomaly_map, model(images()).anomaly_map)

    other.load_state_dict(model.state_dict())

    assert torch.equal(other(images()).anomaly_map, model(images()).anomaly_map)


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (64, 160), (70, 90), (33, 47)])
def test_any_image_size_trains_and_predicts(size):
    """Non-square sizes, and sizes that are no multiples of 32, work without resizing by the user."""
    model = build(input_size=size, steps=0).train()
    output = model(images(4, *size))
    loss(output).backward()

    assert all(log_det.isfinite().all() for log_det in output.log_dets)
    assert [tuple(z.shape[1:]) for z in output.latents] == [tuple(shape) for shape in model.features.detail_shapes]
    assert model.eval()(images(2, *size)).anomaly_map.shape == (2, 1, *size)


def test_images_may_have_another_size_than_the_nominal_one():
    """A model made for one size scores images of another."""
    model = build()

    assert model(images(2, 96, 128)).anomaly_map.shape == (2, 1, 96, 128)


@pytest.mark.parametrize(
    ("backbone", "layers", "channels"),
    [
        ("test_convnext2", [2, 3], [96]),
        ("test_convnext2", [0, -1], [32]),
        ("test_convnext2", [1, 2, 3], [64, 96]),
        ("test_convnext2", ["stages.0", "stages.1", "stages.3"], [32, 64]),
        ("test_convnext2", None, [32, 64, 96]),
        ("resnet18", [0, 1, 2, 3, 4], [64, 64, 128, 256]),
    ],
)
def test_any_number_of_detail_levels(backbone, layers, channels):
    """One detail level or four: the last chosen layer is semantic, the others are detail levels, as published."""
    model = build(
        backbone=backbone,
        layers=layers,
        flow_steps=[1] * len(channels),
        semantic_level=False,
        detail_pooling="stride_2",
    )

    assert [z.shape[1] for z in model.train()(images(2)).latents] == channels
    assert len(model.pattern_codebooks) == len(channels) + 1
    assert model.eval()(images(2)).anomaly_map.shape == (2, 1, 64, 64)


@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 1, 64, 64), (2, 4, 64, 64), (2, 3, 64, 64, 1)])
def test_other_shapes_than_batches_of_rgb_are_refused(shape):
    """Images without a batch, grayscale and with alpha are an error that tells the shape."""
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\), got"):
        build(steps=0)(torch.zeros(shape))


def test_training_on_one_image_is_refused():
    """A training batch of one image is an error, a prediction on one is not."""
    model = build()
    assert model(images(1)).pred_score.shape == (1,)

    with pytest.raises(ValueError, match="train_batch_size of 2 or more"):
        model.train()(images(1))


def test_patterns_are_residual_or_independent_of_the_concept():
    """With ``residual`` the pattern follows the prototype that was subtracted; ``independent`` knows nothing of it."""
    same = {}
    for quantization in ("residual", "independent"):
        model = build(quantization=quantization)
        details, semantic, prototype = features(model)
        first = encode(model, details, semantic, prototype)[0].dense()[:, : 8 + 16]
        second = encode(model, details, semantic, prototype + 0.1)[0].dense()[:, : 8 + 16]
        same[quantization] = torch.equal(first, second)

    assert same == {"residual": False, "independent": True}


def test_quantization_knows_two_words():
    """Anything but ``residual`` and ``independent`` is refused."""
    with pytest.raises(ValueError, match=r"one of \['independent', 'residual'\], got 'vector'"):
        build(quantization="vector")


@pytest.mark.parametrize("use_patterns", [True, False])
@pytest.mark.parametrize("position_dim", [0, 8])
def test_position_can_be_left_out(position_dim, use_patterns):
    """On features that are equal everywhere, the condition varies over the cells only if it has a position."""
    model = build(position_dim=position_dim, use_patterns=use_patterns)
    details, semantic, prototype = features(model)
    flat = [h.mean(dim=(2, 3), keepdim=True).expand_as(h) for h in details]
    semantic = semantic.mean(dim=(2, 3), keepdim=True).expand_as(semantic)

    condition = encode(model, flat, semantic, prototype)[0].dense()
    varies = bool((condition - condition[..., :1, :1]).abs().max() > 1e-4)

    assert varies == (position_dim > 0)


def test_patterns_can_be_left_out():
    """Without patterns, the condition does not see the features, and there are no pattern codebooks."""
    conditions = {}
    for use_patterns in (True, False):
        model = build(use_patterns=use_patterns)
        details, semantic, prototype = features(model)
        first = encode(model, details, semantic, prototype)[0].dense()
        second = encode(model, [h.flip(0) for h in details], semantic, prototype)[0].dense()
        conditions[use_patterns] = torch.equal(first, second)
        assert len(model.pattern_codebooks) == (4 if use_patterns else 0)

    assert conditions == {True: False, False: True}


def test_the_concept_aware_gaussian_can_be_left_out():
    """The base distribution moves with the concept only if it is concept-aware."""
    for use_concept_gaussian in (True, False):
        model = build(use_concept_gaussian=use_concept_gaussian, use_fusion=False)
        details, semantic, prototype = features(model)
        conditions = encode(model, details, semantic, prototype)
        first, second = model.flow(details, conditions), model.flow(details, [*conditions[:-1], prototype + 1])

        for part in range(2):  # latents and log-determinants
            assert torch.equal(first[part][0], second[part][0]) == (not use_concept_gaussian)


def test_the_fusion_can_be_left_out():
    """A level's latents depend on the other levels, and on the semantic condition, only with fusion."""
    for use_fusion in (True, False):
        model = build(use_fusion=use_fusion)
        details, semantic, prototype = features(model)
        *conditions, semantic_condition, _ = encode(model, details, semantic, prototype)
        whole = model.flow(details, [*conditions, semantic_condition, prototype])[0][0]
        changed = [details[0], *(h.flip(0) for h in details[1:])]
        other_level = model.flow(changed, [*conditions, semantic_condition, prototype])[0][0]
        flipped = semantic_condition.dense().flip(0)
        other_semantic = model.flow(details, [*conditions, flipped, prototype])[0][0]

        assert torch.equal(whole, other_level) == (not use_fusion)
        assert torch.equal(whole, other_semantic) == (not use_fusion)


def test_a_single_category_needs_one_concept():
    """With ``num_concepts=1`` every image has the same concept, and the model trains."""
    model = build(num_concepts=1)
    output = model.train()(images(6))

    assert not output.concept_indices.any()
    assert model.concept.codebook.perplexity == 1


@pytest.mark.parametrize(("hidden_dim", "widths"), [(12, [12, 12, 12]), (None, [72, 88, 104])])
def test_the_width_of_the_subnets_can_be_chosen(hidden_dim, widths):
    """Subnets are as wide as asked for, or as their input: half the channels and the condition."""
    model = build(hidden_dim=hidden_dim)

    assert [flow[0].subnet.conv1.out_channels for flow in model.flow.levels] == widths


def test_the_number_of_couplings_can_be_chosen_per_level():
    """Every detail level has as many couplings as ``flow_steps`` says; any other number of levels is refused."""
    levels = build(flow_steps=(1, 3, 2), use_concept_gaussian=False).flow.levels
    assert [len(level) for level in levels] == [1, 3, 2]
    with pytest.raises(ValueError, match="flow_steps needs one positive number for each of the 3 levels"):
        build(flow_steps=(1, 3), layers=[1, 2, 3])


def test_the_clamp_bounds_the_scale():
    """Whatever the subnets predict, a coupling scales no dimension by more than exp(affine_clamp)."""
    model = build(affine_clamp=0.3, use_fusion=False, use_concept_gaussian=False)
    couplings = [level[0] for level in model.flow.levels]
    for coupling in couplings:
        coupling.global_scale.data.fill_(couplings[0].global_scale.mean())
        coupling.subnet.conv2.weight.data *= 1e4
    details, semantic, prototype = features(model)
    conditions = encode(model, details, semantic, prototype)
    loud = image_log_det(model.flow(details, conditions)[1], details)
    for coupling in couplings:
        coupling.subnet.conv2.weight.data.zero_()
        coupling.subnet.conv2.bias.data.zero_()
    silent = image_log_det(model.flow(details, conditions)[1], details)

    bound = 0.3 * sum(h[0].numel() / 2 for h in details)
    assert 0 < (loud - silent).abs().max() <= bound


@pytest.mark.parametrize(
    ("score_map", "relative"), [("likelihood", False), ("multiplicative", True), ("additive", True)]
)
def test_the_score_map_is_absolute_or_relative(score_map, relative):
    """The published maps are zero at the best pixel of every image; the default one is zero at the likeliest value."""
    anomaly_map = build(score_map=score_map)(images()).anomaly_map

    assert (anomaly_map.amin(dim=(1, 2, 3)) < 1e-6).all() == relative
    assert anomaly_map.amax() > 0


def test_the_image_score_averages_the_share_of_pixels_asked_for():
    """With a ratio of 1 the score is the mean of the map, with a tiny one its maximum."""
    relative = {"score_map": "additive", "score_levels": [0, 1]}  # an absolute one is averaged before it is in [0, 1)
    whole, top = build(top_k_ratio=1.0, **relative)(images()), build(top_k_ratio=1e-6, **relative)(images())

    assert_close(whole.pred_score, whole.anomaly_map.mean(dim=(1, 2, 3)))
    assert_close(top.pred_score, top.anomaly_map.amax(dim=(1, 2, 3)))


def test_more_concepts_are_founded_the_lower_the_novelty():
    """With a high ``concept_novelty`` images share a concept, with 0 each founds one while there are free ones."""
    few, many = build(concept_novelty=100.0), build(concept_novelty=0.0)

    assert few.concept.codebook.usage < many.concept.codebook.usage == 1
