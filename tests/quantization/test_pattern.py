# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from anomalib_vqflow.quantization import PatternQuantizer, SemanticContext, sinusoidal_encoding
from anomalib_vqflow.quantization.pattern import concept_anchor
from tests.gradients import parameters_without_gradient

CHANNELS, CONCEPT_DIM, POSITION_DIM, NUM_PATTERNS = 7, 6, 8, 5
PATTERN_DIM = POSITION_DIM + CONCEPT_DIM


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def trained_quantizer(*, use_context=False, residual=True, position_dim=POSITION_DIM) -> PatternQuantizer:
    quantizer = PatternQuantizer(CHANNELS, CONCEPT_DIM, position_dim, NUM_PATTERNS, use_context, residual)
    for _ in range(3):
        context = torch.randn(4, position_dim + CONCEPT_DIM, 2, 3) if use_context else None
        quantizer(torch.randn(4, CHANNELS, 4, 6), torch.randn(4, CONCEPT_DIM), context)
    return quantizer.eval()


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("position_dim", [0, 8])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5), (4, 6)])
def test_shapes(residual, position_dim, height, width):
    """One pattern of width P + D and one index per cell, on any grid, with and without position."""
    quantizer = PatternQuantizer(CHANNELS, CONCEPT_DIM, position_dim, NUM_PATTERNS, residual=residual)
    codes, indices, commitment = quantizer(torch.randn(3, CHANNELS, height, width), torch.randn(3, CONCEPT_DIM))

    assert codes.shape == (3, position_dim + CONCEPT_DIM, height, width)
    assert indices.shape == (3, height, width)
    assert commitment.shape == ()


def test_anchor_is_position_and_prototype():
    """⟨PE, ŷ⟩ holds the position encoding in the first P channels and the prototype, spread out, in the others."""
    prototype = torch.randn(3, CONCEPT_DIM)
    anchor = concept_anchor(prototype, POSITION_DIM, 4, 6)

    for image in range(3):
        assert torch.equal(anchor[image, :POSITION_DIM], sinusoidal_encoding(POSITION_DIM, 4, 6))
        for row, column in ((0, 0), (2, 5), (3, 1)):
            assert torch.equal(anchor[image, POSITION_DIM:, row, column], prototype[image])


def test_residual_formula():
    """ĥ' = ⟨PE, ŷ⟩ + nearest code of h' − ⟨PE, ŷ⟩."""
    quantizer = trained_quantizer()
    features, prototype = torch.randn(2, CHANNELS, 4, 6), torch.randn(2, CONCEPT_DIM)
    anchor = concept_anchor(prototype, POSITION_DIM, 4, 6)
    residual = (quantizer.encoder(features) - anchor).permute(0, 2, 3, 1)
    nearest = torch.cdist(residual.reshape(-1, PATTERN_DIM), quantizer.codebook.codes).argmin(dim=1).view(2, 4, 6)
    pattern = quantizer(features, prototype)

    assert torch.equal(pattern.indices, nearest)
    assert_close(pattern.codes, anchor + quantizer.codebook.codes[nearest].permute(0, 3, 1, 2))


def test_independent_patterns_ignore_the_prototype():
    """Without residual, ĥ' is the nearest code of h', whatever the concept."""
    quantizer = trained_quantizer(residual=False)
    features = torch.randn(2, CHANNELS, 4, 6)
    query = quantizer.encoder(features).permute(0, 2, 3, 1)
    first, second = (quantizer(features, torch.randn(2, CONCEPT_DIM)) for _ in range(2))

    assert torch.equal(first.codes, second.codes)
    assert torch.equal(first.codes.permute(0, 2, 3, 1), quantizer.codebook.codes[first.indices])
    assert torch.equal(first.indices, quantizer.codebook.nearest(query))


def test_residual_patterns_know_the_prototype():
    """With residual, another concept gives another pattern for the same features."""
    quantizer = trained_quantizer()
    features = torch.randn(2, CHANNELS, 4, 6)

    assert not torch.equal(*(quantizer(features, torch.randn(2, CONCEPT_DIM)).codes for _ in range(2)))


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

    assert_close(quantizer.query(features, context), published)


def test_context_is_used():
    """Another context gives another query."""
    quantizer = trained_quantizer(use_context=True)
    features = torch.randn(2, CHANNELS, 4, 6)
    first, second = (quantizer.query(features, torch.randn(2, PATTERN_DIM, 2, 3)) for _ in range(2))

    assert not torch.allclose(first, second)


@pytest.mark.parametrize(("use_context", "context"), [(True, None), (False, torch.zeros(2, PATTERN_DIM, 2, 3))])
def test_context_must_be_there_exactly_where_it_is_used(use_context, context):
    """Neither a forgotten context nor one that would be ignored passes silently."""
    quantizer = trained_quantizer(use_context=use_context)
    with pytest.raises(ValueError, match="context, as use_context says, got"):
        quantizer(torch.randn(2, CHANNELS, 4, 6), torch.randn(2, CONCEPT_DIM), context)


def test_batch_of_two_equals_two_batches_of_one():
    """In eval, images do not see each other."""
    quantizer = trained_quantizer(use_context=True)
    inputs = (torch.randn(2, CHANNELS, 4, 6), torch.randn(2, CONCEPT_DIM), torch.randn(2, PATTERN_DIM, 2, 3))
    together = quantizer(*inputs)
    alone = [quantizer(*(x[i : i + 1] for x in inputs)) for i in range(2)]

    assert_close(together.codes, torch.cat([one.codes for one in alone]))
    assert torch.equal(together.indices, torch.cat([one.indices for one in alone]))


@pytest.mark.parametrize("residual", [True, False])
def test_straight_through_gradient(residual):
    """The gradient to ĥ' reaches h' unchanged; ⟨PE, ŷ⟩ cancels, so the prototype gets none through the pattern."""
    quantizer = PatternQuantizer(CHANNELS, CONCEPT_DIM, POSITION_DIM, NUM_PATTERNS, residual=residual)
    quantizer.encoder = torch.nn.Identity()
    query = torch.randn(4, PATTERN_DIM, 4, 6, requires_grad=True)
    prototype, upstream = torch.randn(4, CONCEPT_DIM, requires_grad=True), torch.randn(4, PATTERN_DIM, 4, 6)
    quantizer(query, prototype).codes.backward(upstream)

    assert_close(query.grad, upstream)
    assert prototype.grad is None or prototype.grad.abs().max() < 1e-5


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("part", ["codes", "commitment"])
def test_every_parameter_gets_a_gradient(residual, part):
    """Patterns and commitment both train encoder, mixer and semantic context."""
    context = SemanticContext(9, PATTERN_DIM)
    quantizer = PatternQuantizer(CHANNELS, CONCEPT_DIM, POSITION_DIM, NUM_PATTERNS, use_context=True, residual=residual)
    semantic, features = torch.randn(4, 9, 2, 3), torch.randn(4, CHANNELS, 4, 6)
    result = getattr(quantizer(features, torch.randn(4, CONCEPT_DIM), context(semantic)), part)
    (result * torch.randn_like(result)).sum().backward()

    assert parameters_without_gradient(quantizer) == []
    assert parameters_without_gradient(context) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_quantizes_in_float32(dtype):
    """Under autocast the patterns come out finite and in float32, and the codebook stays in it."""
    quantizer = PatternQuantizer(CHANNELS, CONCEPT_DIM, POSITION_DIM, NUM_PATTERNS, use_context=True)
    with torch.autocast("cpu", dtype):
        pattern = quantizer(
            torch.randn(2, CHANNELS, 4, 6), torch.randn(2, CONCEPT_DIM), torch.randn(2, PATTERN_DIM, 2, 3)
        )

    assert pattern.codes.dtype == torch.float32
    assert pattern.codes.isfinite().all()
    assert quantizer.codebook.codes.dtype == torch.float32


@pytest.mark.parametrize("position_dim", [2, -4, 7])
def test_wrong_position_width_is_refused(position_dim):
    """The first forward pass names the argument."""
    quantizer = PatternQuantizer(CHANNELS, 10, position_dim, NUM_PATTERNS)
    with pytest.raises(ValueError, match="position_dim must be a non-negative multiple of 4"):
        quantizer(torch.randn(2, CHANNELS, 4, 6), torch.randn(2, 10))
