# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from anomalib_vqflow.quantization import Codebook
from anomalib_vqflow.quantization import codebook as codebook_module


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make_codebook(num_codes: int, code_dim: int, novelty: float = 0.0, **options: float) -> Codebook:
    return Codebook(num_codes, code_dim, novelty=novelty, **options)


def used_codebook(num_codes: int = 6, code_dim: int = 5, **options: float) -> Codebook:
    """Build a codebook whose codes all are initialized and in use, with consistent sums and counts."""
    codebook = make_codebook(num_codes, code_dim, **options)
    codebook.codes.copy_(torch.randn(num_codes, code_dim))
    codebook.code_counts.copy_(torch.rand(num_codes) + 0.5)
    codebook.code_sums.copy_(codebook.codes * codebook.code_counts[:, None])
    return codebook


def clusters(num_clusters: int, code_dim: int, spread: float = 10.0) -> Tensor:
    return spread * torch.randn(num_clusters, code_dim)


def state(codebook: Codebook) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in codebook.state_dict().items()}


def test_nearest_is_the_argmin_of_the_distances():
    """The expanded square finds the same code as explicit distances."""
    codebook = used_codebook(num_codes=50, code_dim=16).double()
    x = torch.randn(3, 7, 16, dtype=torch.float64)

    assert torch.equal(codebook.nearest(x), torch.cdist(x.flatten(0, 1), codebook.codes).argmin(dim=1).view(3, 7))


def test_codes_are_the_nearest_ones():
    """In eval, the output is the chosen row of the codebook, bit by bit."""
    codebook = used_codebook().eval()
    quantized = codebook(torch.randn(2, 4, 5))

    assert torch.equal(quantized.codes, codebook.codes[quantized.indices])
    assert quantized.indices.dtype == torch.int64
    assert quantized.commitment == 0


def test_codes_are_fixed_points():
    """Quantizing a code returns it."""
    codebook = used_codebook().eval()

    assert torch.equal(codebook(codebook.codes).indices, torch.arange(6))


def test_gradient_passes_straight_through():
    """The gradient to the codes arrives at the input unchanged, and the value is the code's."""
    codebook = used_codebook(novelty=9.0)
    x, upstream = torch.randn(4, 3, 5, requires_grad=True), torch.randn(4, 3, 5)
    quantized = codebook(x)
    quantized.codes.backward(upstream)

    assert_close(x.grad, upstream, rtol=0, atol=0)
    assert_close(quantized.codes, codebook.codes[quantized.indices])


def test_commitment_and_its_gradient_in_closed_form():
    """The commitment is the mean squared distance to fixed codes, so its gradient is 2 (x − c) / n."""
    codebook = used_codebook()
    x = torch.randn(4, 3, 5, requires_grad=True)
    quantized = codebook(x)
    quantized.commitment.backward()
    residual = x.detach() - codebook.codes[quantized.indices]

    assert_close(quantized.commitment.detach(), residual.square().mean())
    assert_close(x.grad, 2 * residual / x.numel())


def test_no_gradient_reaches_the_buffers():
    """Codes learn by averaging, never by gradient."""
    codebook = used_codebook()
    quantized = codebook(torch.randn(8, 5, requires_grad=True))
    (quantized.commitment + quantized.codes.sum()).backward()

    assert all(not buffer.requires_grad and buffer.grad is None for buffer in codebook.buffers())
    assert not list(codebook.parameters())


def test_moving_averages_follow_the_closed_form():
    """Counts, sums and codes after several steps equal a plain loop over vectors."""
    decay = 0.9
    codebook = used_codebook(num_codes=4, code_dim=3, decay=decay, dead_below=1e-9).double()
    codes = [list(map(float, row)) for row in codebook.codes]
    counts = [float(count) for count in codebook.code_counts]
    sums = [[c * n for c in row] for row, n in zip(codes, counts, strict=True)]
    for _ in range(5):
        x = torch.randn(20, 3, dtype=torch.float64)
        codebook(x)
        new_counts, new_sums = [0.0] * 4, [[0.0] * 3 for _ in range(4)]
        for vector in x.tolist():
            chosen = min(range(4), key=lambda k: math.dist(vector, codes[k]))
            new_counts[chosen] += 1
            new_sums[chosen] = [s + v for s, v in zip(new_sums[chosen], vector, strict=True)]
        for k in range(4):
            counts[k] = decay * counts[k] + (1 - decay) * new_counts[k]
            sums[k] = [decay * s + (1 - decay) * n for s, n in zip(sums[k], new_sums[k], strict=True)]
            codes[k] = [s / counts[k] for s in sums[k]]

    assert_close(codebook.code_counts.tolist(), counts)
    assert_close(codebook.code_sums.tolist(), sums)
    assert_close(codebook.codes.tolist(), codes)


def test_without_memory_codes_are_the_cluster_means():
    """With decay 0 a step is one step of k-means."""
    codebook = used_codebook(num_codes=3, code_dim=4, decay=0.0)
    x = torch.randn(60, 4)
    chosen = codebook.nearest(x)
    codebook(x)

    for code in range(3):
        assert_close(codebook.codes[code], x[chosen == code].mean(dim=0))


def test_unused_codes_stay_where_they_are():
    """A code that no vector chooses stays as it is, and its sum and count shrink together."""
    codebook = used_codebook(novelty=100.0)
    codebook.codes[5] += 1e3
    codebook.code_sums[5] = codebook.codes[5] * codebook.code_counts[5]
    before = codebook.codes[5].clone()
    for _ in range(100):
        codebook(torch.randn(50, 5))
        assert codebook.codes.abs().max() < 1.1e3
        assert_close(codebook.codes[5], before)
        assert_close(codebook.code_sums[5], before * codebook.code_counts[5], rtol=1e-4, atol=0)


def test_unused_codes_stay_bounded_when_they_die():
    """Codes stay inside the range of the data long after their counts are used up."""
    codebook = used_codebook(num_codes=40)
    for _ in range(600):
        codebook(torch.randn(3, 5).clamp(-2, 2))

    assert codebook.codes.abs().max() <= 4


def test_uninitialized_codes_are_never_chosen():
    """A zero vector in the buffer is not a code: it waits for its initialization."""
    codebook = used_codebook(num_codes=4).eval()
    codebook.codes[2:] = 0
    codebook.code_counts[2:] = 0

    assert codebook(1e-3 * torch.randn(100, 5)).indices.max() <= 1


@pytest.mark.parametrize("seed", range(5))
def test_separated_clusters_get_a_code_each_in_the_first_step(seed):
    """k-means++ with novelty initializes 15 codes on 15 clusters at once, and no more of the 32."""
    torch.manual_seed(seed)
    centers = clusters(15, 64)
    labels = torch.arange(15).repeat(8)
    codebook = make_codebook(32, 64, novelty=0.1)
    indices = codebook(centers[labels] + torch.randn(120, 64)).indices

    assert len({(int(label), int(index)) for label, index in zip(labels, indices, strict=True)}) == 15
    assert len(set(indices.tolist())) == 15
    assert codebook.usage == pytest.approx(15 / 32)


def test_as_many_codes_as_clusters_are_enough():
    """Without novelty, 15 codes find 15 far clusters, too."""
    centers, labels = clusters(15, 64, spread=100.0), torch.arange(15).repeat(8)
    indices = make_codebook(15, 64)(centers[labels] + torch.randn(120, 64)).indices

    assert len({(int(label), int(index)) for label, index in zip(labels, indices, strict=True)}) == 15


def test_clusters_that_appear_later_find_a_free_code():
    """A product that the first batches lacked gets a code of its own, and the others keep theirs."""
    centers = clusters(6, 32)
    codebook = make_codebook(16, 32, novelty=0.1)
    for _ in range(5):
        early = codebook(centers[:3].repeat(4, 1) + torch.randn(12, 32)).indices[:3]
    late = codebook(centers.repeat(4, 1) + torch.randn(24, 32)).indices[:6]

    assert torch.equal(late[:3], early)
    assert len(set(late.tolist())) == 6


def test_novelty_does_not_split_clusters():
    """A large book stays small over many batches of few clusters; without novelty it fills."""
    centers, indices = clusters(5, 32), set()
    thrifty, greedy = make_codebook(32, 32, novelty=0.1), make_codebook(32, 32)
    for _ in range(100):
        x = centers[torch.randint(5, (16,))] + torch.randn(16, 32)
        indices.update(thrifty(x).indices.tolist())
        greedy(x)

    assert len(indices) == 5
    assert greedy.usage == 1


def test_a_cluster_that_was_away_comes_back_to_its_code():
    """A code whose count ran out still stands for its cluster, which gets no second one."""
    centers = clusters(4, 32)
    codebook = make_codebook(16, 32, novelty=0.1)
    first = codebook(centers.repeat(4, 1) + torch.randn(16, 32)).indices[:4]
    for _ in range(700):
        codebook(centers[1:].repeat(4, 1) + torch.randn(12, 32))
    assert codebook.code_counts[first[0]] < codebook.dead_below
    again = codebook(centers.repeat(4, 1) + torch.randn(16, 32)).indices[:4]

    assert torch.equal(again, first)
    assert (codebook.code_counts > 0).sum() == 4


def test_never_used_codes_are_initialized_before_dead_ones():
    """A new cluster takes a fresh code while there is one, and does not push out an old cluster."""
    centers = clusters(4, 32)
    codebook = make_codebook(8, 32, novelty=0.1)
    first = codebook(centers[:3].repeat(4, 1) + torch.randn(12, 32)).indices[:3]
    for _ in range(700):
        codebook(centers[1:3].repeat(4, 1) + torch.randn(8, 32))
    codebook(centers[1:].repeat(4, 1) + torch.randn(12, 32))

    assert_close(codebook.codes[first], centers[:3], atol=5, rtol=0)  # noise moves a code by far less than its cluster
    assert (codebook.code_counts > 0).sum() == 4


def test_revival_resets_code_sum_and_count_together_and_lasts():
    """A dead code moves to a vector of the batch, and the next update does not undo it."""
    codebook = used_codebook(num_codes=3, code_dim=4)
    codebook.codes[2] = 50.0
    codebook.code_counts[2] = codebook.dead_below / 2
    codebook.code_sums[2] = codebook.codes[2] * codebook.code_counts[2]
    x = torch.randn(30, 4)
    codebook(x)
    revived = codebook.codes[2].clone()
    assert revived.abs().max() < 5
    assert_close(codebook.code_sums[2] / codebook.code_counts[2], revived)
    assert codebook.code_counts[2] > 0.9

    codebook(x)
    assert_close(codebook.codes[2], revived, atol=0.5, rtol=0)
    assert_close(codebook.code_sums[2] / codebook.code_counts[2], codebook.codes[2])


def test_more_codes_than_vectors():
    """A codebook larger than the data initializes one code per distinct vector and leaves the rest free."""
    codebook = make_codebook(64, 8)
    x = torch.randn(5, 8)
    for _ in range(3):
        quantized = codebook(x)

    assert_close(quantized.codes, x)
    assert len(set(quantized.indices.tolist())) == 5
    assert codebook.usage == pytest.approx(5 / 64)
    assert len(set(codebook.eval()(torch.randn(100, 8)).indices.tolist())) <= 5


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("code_dim", [1, 4, 16, 576])
def test_identical_vectors_get_one_code(code_dim, offset):
    """Rounding in the distances does not pass for novelty, however often the same vector comes."""
    codebook = make_codebook(16, code_dim)
    x = (torch.randn(code_dim) + offset).expand(100, code_dim)
    for _ in range(30):
        quantized = codebook(x)

    assert (codebook.code_counts > 0).sum() == 1
    assert_close(quantized.codes, x, rtol=1e-5, atol=1e-5)


def test_zero_vectors_get_a_code():
    """Dead inputs (after a ReLU) are a cluster as any other."""
    codebook = make_codebook(4, 8)
    quantized = codebook(torch.zeros(10, 8))

    assert (codebook.code_counts > 0).sum() == 1
    assert quantized.commitment == 0


def test_the_first_code_is_drawn_uniformly():
    """No vector of the first batch is more likely than another to get the first code."""
    x, hits = torch.arange(50.0)[:, None], torch.zeros(50)
    for _ in range(2000):
        codebook = make_codebook(1, 1)
        codebook._reinitialize_(x)
        hits[int(codebook.codes)] += 1
    first_half = hits[:25].sum().item()

    assert abs(first_half - 1000) < 5 * math.sqrt(500)  # five standard deviations of a fair draw


def test_later_codes_are_drawn_by_squared_distance():
    """With codes at 0, vectors at 1 and 3 become codes in the proportion 1 to 9."""
    x, hits = torch.tensor([[0.0], [1.0], [3.0]]), 0
    for _ in range(2000):
        codebook = make_codebook(2, 1)
        codebook.code_counts[0] = 1.0
        codebook._reinitialize_(x)
        hits += int(codebook.codes[1] == 3.0)

    assert abs(hits - 1800) < 5 * math.sqrt(2000 * 0.9 * 0.1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38, 1e25])
def test_broken_vectors_do_not_poison(bad):
    """NaN, infinity, and values whose square overflows leave codes, sums and counts as if they had not been there."""
    x = torch.randn(20, 5)
    broken = x.clone()
    broken[::4, 2] = bad
    clean, poisoned = used_codebook(), make_codebook(6, 5)
    poisoned.load_state_dict(clean.state_dict())
    clean(torch.cat([x[i : i + 1] for i in range(20) if i % 4]))
    poisoned(broken)

    for name, tensor in state(clean).items():
        assert_close(poisoned.get_buffer(name), tensor)


def test_a_batch_of_broken_vectors_initializes_nothing():
    """A wholly broken first batch leaves the book empty; the next good one initializes it."""
    codebook = make_codebook(4, 5)
    codebook(torch.full((10, 5), torch.nan))
    assert codebook.code_counts.sum() == 0
    codebook(torch.randn(10, 5))

    assert codebook.usage == 1
    assert codebook.codes.isfinite().all()


@pytest.mark.parametrize("scale", [1e-16, 1e-6, 1e6, 1e16])
def test_scale_does_not_matter(scale):
    """Placement works at any scale that float32 can square."""
    centers, labels = clusters(8, 16), torch.arange(8).repeat(4)
    x = scale * (centers[labels] + torch.randn(32, 16))
    indices = make_codebook(16, 16, novelty=0.1)(x).indices

    assert len(set(indices.tolist())) == 8
    assert torch.equal(indices[:8], indices[8:16])


def test_eval_is_pure():
    """Eval changes no buffer and repeats itself."""
    codebook = make_codebook(8, 5)
    codebook(torch.randn(30, 5))
    codebook.eval()
    before, x = state(codebook), torch.randn(30, 5)
    first, second = codebook(x), codebook(x)

    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    for name, tensor in state(codebook).items():
        assert torch.equal(tensor, before[name])


def test_eval_of_an_untrained_book_is_finite():
    """Sanity checks run before the first training step."""
    quantized = make_codebook(4, 5).eval()(torch.randn(3, 5))

    assert quantized.codes.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_keep_float32_statistics(dtype):
    """Under autocast, distances, codes and statistics stay in float32."""
    codebook, reference = make_codebook(8, 16), make_codebook(8, 16)
    x = (10 + torch.randn(40, 16)).to(
        dtype
    )  # squared distances far below the squares that half precision would subtract
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype):
        quantized = codebook(x)
        nearest = codebook.eval()(x).indices
    torch.manual_seed(1)
    expected = reference(x.float())

    assert quantized.codes.dtype == quantized.commitment.dtype == torch.float32
    assert_close(quantized.codes, expected.codes, rtol=0, atol=0)
    assert torch.equal(nearest, reference.eval()(x.float()).indices)
    for name, tensor in state(reference).items():
        assert codebook.get_buffer(name).dtype == torch.float32
        assert torch.equal(codebook.get_buffer(name), tensor)


def test_autocast_hands_the_gradient_back_in_the_input_type():
    """A bfloat16 input gets a bfloat16 gradient, straight through."""
    codebook = used_codebook(novelty=9.0)
    x = torch.randn(4, 5, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        codebook(x).codes.sum().backward()

    assert x.grad.dtype == torch.bfloat16
    assert torch.equal(x.grad, torch.ones_like(x))


def test_perplexity_in_closed_form():
    """One code gives 1, equal use gives K, shares 1/2, 1/4, 1/4 give 2^1.5; nothing initialized gives 1."""
    codebook = make_codebook(4, 2)
    assert codebook.perplexity == 1
    for counts, expected in ([3, 0, 0, 0], 1.0), ([2, 2, 2, 2], 4.0), ([2, 1, 1, 0], 2**1.5):
        codebook.code_counts.copy_(torch.tensor(counts))
        assert codebook.perplexity.item() == pytest.approx(expected)


def test_usage_in_closed_form():
    """The share of codes whose count reaches the limit."""
    codebook = make_codebook(4, 2, dead_below=0.1)
    assert codebook.usage == 0
    codebook.code_counts.copy_(torch.tensor([0.0, 0.05, 0.1, 7.0]))

    assert codebook.usage == 0.5


def test_seed_decides():
    """Two books under one seed are equal; another seed initializes other codes."""
    x, books = torch.randn(100, 5), []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        books.append(make_codebook(8, 5))
        books[-1](x)

    assert torch.equal(books[0].codes, books[1].codes)
    assert not torch.equal(books[0].codes, books[2].codes)


def test_state_dict_round_trip():
    """A reloaded book quantizes and goes on learning as the first one."""
    first, second = make_codebook(8, 5), make_codebook(8, 5)
    first(torch.randn(30, 5))
    second.load_state_dict(first.state_dict())
    x = torch.randn(30, 5)
    torch.manual_seed(7)
    a = first(x)
    torch.manual_seed(7)
    b = second(x)

    assert torch.equal(a.codes, b.codes)
    assert all(torch.equal(tensor, second.get_buffer(name)) for name, tensor in state(first).items())


def test_no_collapse_on_a_drifting_mixture():
    """Over 300 steps, each of 12 slowly moving clusters keeps a code of its own."""
    centers, labels = clusters(12, 32), torch.arange(12).repeat(4)
    drift = torch.randn(12, 32)
    codebook = make_codebook(32, 32, novelty=0.1)
    for _ in range(300):
        centers = centers + 0.05 * drift
        indices = codebook(centers[labels] + torch.randn(48, 32)).indices

    pairs = {(int(label), int(index)) for label, index in zip(labels, indices, strict=True)}
    assert len(pairs) == len({index for _, index in pairs}) == 12
    assert codebook.perplexity > 11


def test_codes_stay_in_use_over_many_steps():
    """A book without novelty on one broad cloud uses nearly all of its codes after 300 steps."""
    codebook = make_codebook(64, 16)
    for _ in range(300):
        codebook(torch.randn(128, 16))

    assert codebook.usage > 0.95
    assert codebook.perplexity > 40


def test_candidates_are_bounded(monkeypatch):
    """Placement looks at a random part of a large batch, not at its beginning only."""
    monkeypatch.setattr(codebook_module, "MAX_CANDIDATES", 50)
    codebook = make_codebook(8, 1)
    codebook._reinitialize_(torch.arange(1000.0)[:, None])

    assert codebook.usage == 1
    assert codebook.codes.max() > 100


def test_wrong_width_is_refused():
    """The message says what was expected and what came."""
    with pytest.raises(ValueError, match=r"Expected vectors of width 5, got shape \(2, 4\)"):
        make_codebook(3, 5)(torch.randn(2, 4))


@pytest.mark.parametrize("sizes", [(0, 4), (4, 0), (-1, 4)])
def test_sizes_must_be_positive(sizes):
    """A codebook needs a code of a dimension."""
    with pytest.raises(ValueError, match="at least one code"):
        make_codebook(*sizes)


@pytest.mark.parametrize(
    "options", [{"decay": 1.0}, {"decay": -0.1}, {"dead_below": 0.0}, {"novelty": -1.0}, {"decay": math.nan}]
)
def test_rates_must_lie_in_their_ranges(options):
    """The message names the ranges and the values."""
    with pytest.raises(ValueError, match="0 <= decay < 1, dead_below > 0 and novelty >= 0"):
        make_codebook(4, 4, **options)
