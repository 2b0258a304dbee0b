# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from anomalib_vqflow.quantization import Anchor, PatternQuantizer, SemanticContext, make_anchor
from tests.gradients import parameters_without_gradient

from .concepts import make_concept

CHANNELS, CONCEPT_DIM, POSITION_DIM, NUM_PATTERNS = 7, 6, 8, 5
PATTERN_DIM = POSITION_DIM + CONCEPT_DIM


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make_quantizer(**options) -> PatternQuantizer:
    sizes = {"channels": CHANNELS, "pattern_dim": PATTERN_DIM, "num_patterns": NUM_PATTERNS}
    return PatternQuantizer(**{**sizes, "use_context": False, "residual": True, **options})


def any_anchor(batch=2, size=(4, 6), position_dim=POSITION_DIM) -> Anchor:
    return make_anchor(make_concept(torch.randn(batch, PATTERN_DIM - position_dim)), position_dim, size)


def trained_quantizer(*, use_context=False, residual=True) -> PatternQuantizer:
    quantizer = make_quantizer(use_context=use_context, residual=residual)
    for _ in range(3):
        context = torch.randn(4, PATTERN_DIM, 2, 3) if use_context else None
        quantizer(torch.randn(4, CHANNELS, 4, 6), any_anchor(4), context)
    return quantizer.eval()


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("position_dim", [0, 8])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 6)])
def test_shapes(residual, position_dim, size):
    """One code of width P + D and one index per cell, on any grid, with and without position."""
    quantizer = make_quantizer(residual=residual)
    anchor = any_anchor(3, size, position_dim)
    codes, indices, commitment, codebook = quantizer(torch.randn(3, CHANNELS, *size), anchor, None)

    assert codes.shape == (3, PATTERN_DIM, *size)
    assert indices.shape == (3, *size)
    assert commitment.shape == ()
    assert codebook.shape == (NUM_PATTERNS, PATTERN_DIM)


def test_residual_formula():
    """The nearest code of h' − ⟨PE, ŷ⟩."""
    quantizer, anchor = trained_quantizer(), any_anchor()
    features = torch.randn(2, CHANNELS, 4, 6)
    residual = (quantizer.encoder(features) - anchor.map).permute(0, 2, 3, 1)
    nearest = torch.cdist(residual.reshape(-1, PATTERN_DIM), quantizer.codebook.codes).argmin(dim=1).view(2, 4, 6)
    patterns = quantizer(features, anchor, None)

    assert torch.equal(patterns.indices, nearest)
    assert torch.equal(patterns.codes, quantizer.codebook.codes[nearest].permute(0, 3, 1, 2))


@pytest.mark.parametrize("training", [True, False])
def test_codes_chosen_from_stay_those_of_the_batch(training):
    """In training the codebook moves on, so the patterns hold a copy; in inference they hold the codebook itself."""
    quantizer = trained_quantizer().train(training)
    features = torch.randn(2, CHANNELS, 4, 6)
    patterns = quantizer(features, any_anchor(), None)
    before = patterns.codebook.clone()
    quantizer(torch.randn(2, CHANNELS, 4, 6), any_anchor(), None)

    assert torch.equal(patterns.codebook, before)
    assert (patterns.codebook is quantizer.codebook.codes) is not training
    assert_close(patterns.codes, patterns.codebook[patterns.indices].permute(0, 3, 1, 2))


def test_independent_patterns_ignore_the_prototype():
    """Without residual, the code is the nearest of h', whatever the concept."""
    quantizer = trained_quantizer(residual=False)
    features = torch.randn(2, CHANNELS, 4, 6)
    query = quantizer.encoder(features).permute(0, 2, 3, 1)
    first, second = (quantizer(features, any_anchor(), None) for _ in range(2))

    assert torch.equal(first.codes, second.codes)
    assert torch.equal(first.codes.permute(0, 2, 3, 1), quantizer.codebook.codes[first.indices])
    assert torch.equal(first.indices, quantizer.codebook.nearest(query))


def test_residual_patterns_know_the_prototype():
    """With residual, another concept gives another pattern for the same features."""
    quantizer = trained_quantizer()
    features = torch.randn(2, CHANNELS, 4, 6)

    assert not torch.equal(*(quantizer(features, any_anchor(), None).codes for _ in range(2)))


@pytest.mark.parametrize(
    ("size", "context_size"), [((8, 12), (2, 3)), ((5, 7), (2, 4)), ((3, 3), (3, 3)), ((2, 2), (4, 5))]
)
def test_context_is_mixed_before_it_is_resized(size, context_size):
    """The 1×1 convolution on the small map equals the published order: resize, then convolve."""
    quantizer = trained_quantizer(use_context=True).double()
    features = torch.randn(2, CHANNELS, *size, dtype=torch.float64)
    context = torch.randn(2, PATTERN_DIM, *context_size, dtype=torch.float64)
    published = quantizer.encoder(features) + quantizer.mixer(
        F.interpolate(context, size=size, mode="bilinear", align_corners=False)
    )

    assert_close(quantizer._query(features, context), published)


def test_context_is_used():
    """Another context gives another query."""
    quantizer = trained_quantizer(use_context=True)
    features = torch.randn(2, CHANNELS, 4, 6)
    first, second = (quantizer._query(features, torch.randn(2, PATTERN_DIM, 2, 3)) for _ in range(2))

    assert not torch.allclose(first, second)


@pytest.mark.parametrize(("use_context", "context"), [(True, None), (False, torch.zeros(2, PATTERN_DIM, 2, 3))])
def test_context_must_be_there_exactly_where_it_is_used(use_context, context):
    """Neither a forgotten context nor one that would be ignored passes silently."""
    quantizer = trained_quantizer(use_context=use_context)
    with pytest.raises(ValueError, match="context, as use_context says, got"):
        quantizer(torch.randn(2, CHANNELS, 4, 6), any_anchor(), context)


def test_batch_of_two_equals_two_batches_of_one():
    """In eval, images do not see each other."""
    quantizer = trained_quantizer(use_context=True)
    features, prototype, context = (
        torch.randn(2, CHANNELS, 4, 6),
        torch.randn(2, CONCEPT_DIM),
        torch.randn(2, PATTERN_DIM, 2, 3),
    )

    def quantize(images):
        anchor = make_anchor(make_concept(prototype[images]), POSITION_DIM, (4, 6))
        return quantizer(features[images], anchor, context[images])

    together, alone = quantize(slice(None)), [quantize(slice(i, i + 1)) for i in range(2)]
    assert_close(together.codes, torch.cat([one.codes for one in alone]))
    assert torch.equal(together.indices, torch.cat([one.indices for one in alone]))


@pytest.mark.parametrize("residual", [True, False])
def test_straight_through_gradient(residual):
    """The gradient to the codes reaches h' unchanged."""
    quantizer = make_quantizer(residual=residual)
    quantizer.encoder = torch.nn.Identity()
    query, upstream = torch.randn(4, PATTERN_DIM, 4, 6, requires_grad=True), torch.randn(4, PATTERN_DIM, 4, 6)
    quantizer(query, any_anchor(4), None).codes.backward(upstream)

    assert_close(query.grad, upstream)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("part", ["codes", "commitment"])
def test_every_parameter_gets_a_gradient(residual, part):
    """Patterns and commitment both train encoder, mixer and semantic context."""
    context = SemanticContext(channels=9, pattern_dim=PATTERN_DIM)
    quantizer = make_quantizer(use_context=True, residual=residual)
    semantic, features = torch.randn(4, 9, 2, 3), torch.randn(4, CHANNELS, 4, 6)
    result = getattr(quantizer(features, any_anchor(4), context(semantic)), part)
    (result * torch.randn_like(result)).sum().backward()

    assert parameters_without_gradient(quantizer) == []
    assert parameters_without_gradient(context) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_quantizes_in_float32(dtype):
    """Under autocast the patterns come out finite and in float32, and the codebook stays in it."""
    quantizer = make_quantizer(use_context=True)
    with torch.autocast("cpu", dtype):
        pattern = quantizer(torch.randn(2, CHANNELS, 4, 6), any_anchor(), torch.randn(2, PATTERN_DIM, 2, 3))

    assert pattern.codes.dtype == torch.float32
    assert pattern.codes.isfinite().all()
    assert quantizer.codebook.codes.dtype == torch.float32
