# SPDX-License-Identifier: Apache-2.0
import itertools
from collections import Counter

import pytest
import torch
from torch.testing import assert_close

from anomalib_vqflow.condition import ConditionEncoder
from anomalib_vqflow.quantization import Codebook, make_anchor
from anomalib_vqflow.quantization import anchor as anchor_module
from tests.gradients import parameters_without_gradient
from tests.quantization.concepts import make_concept

CHANNELS, SIZES, SEMANTIC_CHANNELS, SEMANTIC_SIZE = (7, 9), ((4, 6), (2, 3)), 11, (2, 3)
CONCEPT_DIM, NUM_PATTERNS = 6, 5
SWITCHES = ("residual", "use_patterns", "use_semantic")
ABLATIONS = [
    dict(zip(SWITCHES, values, strict=True)) for values in itertools.product((True, False), repeat=len(SWITCHES))
]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def inputs(batch=4):
    details = [torch.randn(batch, c, *size) for c, size in zip(CHANNELS, SIZES, strict=True)]
    concept = make_concept(torch.randn(batch, CONCEPT_DIM))
    return details, torch.randn(batch, SEMANTIC_CHANNELS, *SEMANTIC_SIZE), concept


def make_encoder(position_dim=4, **options) -> ConditionEncoder:
    sizes = {
        "detail_channels": CHANNELS,
        "semantic_channels": SEMANTIC_CHANNELS,
        "concept_dim": CONCEPT_DIM,
        "position_dim": position_dim,
        "num_patterns": NUM_PATTERNS,
    }
    return ConditionEncoder(**{**sizes, **dict.fromkeys(SWITCHES, True), **options})


def trained_encoder(**options) -> ConditionEncoder:
    encoder = make_encoder(**options)
    for _ in range(3):
        encoder(*inputs())
    return encoder.eval()


def dense(conditions) -> list[torch.Tensor]:
    return [condition.dense() for condition in (*conditions.details, conditions.semantic)]


@pytest.mark.parametrize("position_dim", [0, 4])
@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_shapes(options, position_dim):
    """Every condition has the announced width and its level's grid, under every ablation."""
    encoder = make_encoder(position_dim, **options)
    conditions = encoder(*inputs())

    levels = (*conditions.details, conditions.semantic)
    for condition, size in zip(levels, (*SIZES, SEMANTIC_SIZE), strict=True):
        assert condition.shape == condition.dense().shape == (4, encoder.condition_dim, *size)
    assert conditions.commitment.shape == ()


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_width_is_documented(options):
    """P + 2 D with patterns, P + D without."""
    expected = 4 + (2 if options["use_patterns"] else 1) * CONCEPT_DIM

    assert make_encoder(**options).condition_dim == expected


def test_condition_is_pattern_and_prototype():
    """[ĥ'_i; ŷ] with ĥ' = ⟨PE, ŷ⟩ + code: the level's pattern first, then the prototype in every cell."""
    encoder = trained_encoder()
    details, semantic, concept = inputs()
    conditions = encoder(details, semantic, concept)
    context = encoder.context(semantic)
    levels = [*zip(encoder.quantizers, details, strict=True), (encoder.semantic_quantizer, semantic)]

    for condition, (quantizer, h) in zip(dense(conditions), levels, strict=True):
        anchor = make_anchor(concept, 4, h.shape[-2:])
        codes = quantizer(h, anchor, None if quantizer is encoder.semantic_quantizer else context).codes
        assert torch.equal(condition[:, :-CONCEPT_DIM], anchor.map + codes)
        spread = concept.prototype[..., None, None].expand(-1, -1, *condition.shape[-2:])
        assert torch.equal(condition[:, -CONCEPT_DIM:], spread)


def test_without_patterns_the_condition_is_position_and_prototype():
    """The features do not matter, nothing is learned and nothing is committed."""
    encoder = make_encoder(use_patterns=False)
    details, semantic, concept = inputs()
    conditions = encoder(details, semantic, concept)

    for condition in dense(conditions):
        assert torch.equal(condition, make_anchor(concept, 4, condition.shape[-2:]).map)
    assert conditions.commitment == 0
    assert not list(encoder.parameters())


def test_without_the_semantic_codebook_its_condition_is_position_and_prototype():
    """⟨PE, ŷ, ŷ⟩, and the detail levels stay as they are."""
    full, reduced = trained_encoder(), make_encoder(use_semantic=False).eval()
    reduced.load_state_dict({k: v for k, v in full.state_dict().items() if not k.startswith("semantic_quantizer")})
    details, semantic, concept = inputs()
    expected, conditions = full(details, semantic, concept), reduced(details, semantic, concept)

    anchor = make_anchor(concept, 4, SEMANTIC_SIZE).map
    assert torch.equal(conditions.semantic.dense(), torch.cat((anchor, anchor[:, 4:]), dim=1))
    for ours, theirs in zip(dense(conditions)[:-1], dense(expected)[:-1], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_every_module_is_called_once(options):
    """Hooks on codebooks, quantizers and encoders see what runs, in training and in inference."""
    encoder, calls = make_encoder(**options), Counter()
    for name, module in encoder.named_modules():
        module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    called = {n for n, module in encoder.named_modules() if not isinstance(module, torch.nn.ModuleList)}
    for training in (True, False):
        calls.clear()
        encoder.train(training)(*inputs())
        assert calls == dict.fromkeys(called, 1)


def test_position_is_encoded_once_per_level(monkeypatch):
    """Columns and rows of two detail levels and the semantic level, however often the map is asked for."""
    sizes = []

    def record(dim, size, *arguments, encode=anchor_module.axis_encoding):
        sizes.append(size)
        return encode(dim, size, *arguments)

    monkeypatch.setattr(anchor_module, "axis_encoding", record)
    dense(make_encoder()(*inputs()))

    assert sizes == [*SIZES[0], *SIZES[1], *SEMANTIC_SIZE]


@pytest.mark.parametrize("residual", [True, False])
def test_residual_reaches_every_level(residual):
    """Independent patterns do not depend on the prototype on any level; residual ones do on all."""
    encoder = trained_encoder(residual=residual)
    details, semantic, _ = inputs()
    first, second = (encoder(details, semantic, make_concept(torch.randn(4, CONCEPT_DIM))) for _ in range(2))

    for a, b in zip(dense(first), dense(second), strict=True):
        assert torch.equal(a[:, :-CONCEPT_DIM], b[:, :-CONCEPT_DIM]) is not residual


def test_commitment_is_the_sum_over_the_codebooks():
    """Detail levels and the semantic level count once each."""
    encoder, commitments = make_encoder(), []
    for module in encoder.modules():
        if isinstance(module, Codebook):
            module.register_forward_hook(lambda _m, _x, quantized: commitments.append(quantized.commitment))
    commitment = encoder(*inputs()).commitment

    assert len(commitments) == 3
    assert_close(commitment, torch.stack(commitments).sum())


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_every_parameter_gets_a_gradient(options):
    """No ablation leaves a parameter that nothing trains."""
    encoder = make_encoder(**options)
    conditions = encoder(*inputs())
    parts = dense(conditions) if options["use_semantic"] else dense(conditions)[:-1]
    loss = conditions.commitment + sum((part * torch.randn_like(part)).sum() for part in parts)
    if options["use_patterns"]:
        loss.backward()

    assert parameters_without_gradient(encoder) == []


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_batch_of_two_equals_two_batches_of_one(options):
    """In eval, images do not see each other."""
    encoder = trained_encoder(**options)
    details, semantic, concept = inputs(batch=2)
    together = encoder(details, semantic, concept)
    alone = [
        encoder([h[i : i + 1] for h in details], semantic[i : i + 1], make_concept(concept.prototype[i : i + 1]))
        for i in range(2)
    ]

    for level, condition in enumerate(dense(together)):
        assert_close(condition, torch.cat([dense(one)[level] for one in alone]))


def test_other_sizes_and_one_level():
    """A single detail level on a grid that is no multiple of the semantic one."""
    encoder = make_encoder(detail_channels=[7])
    concept = make_concept(torch.randn(3, CONCEPT_DIM))
    for size, semantic_size in (((5, 7), (3, 4)), ((1, 1), (1, 1)), ((1, 9), (1, 5))):
        conditions = encoder([torch.randn(3, 7, *size)], torch.randn(3, SEMANTIC_CHANNELS, *semantic_size), concept)
        assert conditions.details[0].shape == (3, encoder.condition_dim, *size)
        assert conditions.semantic.shape == (3, encoder.condition_dim, *semantic_size)


def test_wrong_number_of_levels_is_refused():
    """A missing level does not pass silently."""
    details, semantic, concept = inputs()
    with pytest.raises(ValueError, match="shorter"):
        make_encoder()(details[:1], semantic, concept)
