# SPDX-License-Identifier: Apache-2.0
"""Whether the images of a run still are what the held-out normal images of the training were.

Three tests share a rate of false alarms (Bonferroni). All are Monte-Carlo tests: a p-value is the share of draws under
the null hypothesis that are no less extreme than the run, the run included, so rates hold for any number of images and
any distribution of scores. That of the shares is approximate, because the same held-out images set the threshold by
which images are called normal.

- **Scores are higher**, and **scores are lower**: one-sided Kolmogorov-Smirnov tests of where each score lies among the
  held-out ones of its concept, so that another mix of products is no drift of scores. Defects score high, so the null
  hypothesis of the former allows a tenth of the images to be anything; the latter is not moved by them.
- **Concepts have other shares**: a chi-square test of the images that are called normal against the held-out ones that
  would be, with draws from both together (a permutation test).

Sources: Barnard, discussion of Bartlett, 1963, and Besag and Clifford, "Generalized Monte Carlo significance tests",
1989, for the p-values; Huber, "A robust version of the probability ratio test", 1965, for a share that may be anything.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalib_vqflow.held_out import HeldOut

from .pipeline import Result
from .scales import Scale

USUAL_RATE = 0.01
SMALLEST_RATE = 0.001
DRAWS_PER_RATE = 30
"""Draws in units of the inverse rate, so that some are beyond the limit of each test."""

DEFECTS = 0.1
"""Share of a run's images that may be defects."""

MOST_CELLS = 100
"""Intervals between held-out scores that are looked at, for each concept."""

CHUNK = 250
"""Draws at a time, which bounds memory."""


class Drift(NamedTuple):
    """What the tests found.

    Attributes:
        p_values: p-value of each test, by what it would say.
        rate: Rate of false alarms of all tests together.
        num_images: Images of the run.
        num_held_out: Held-out normal images.
    """

    p_values: dict[str, float]
    rate: float
    num_images: int
    num_held_out: int

    @property
    def found(self) -> list[str]:
        """What the run differs by."""
        return [text for text, p in self.p_values.items() if p <= self.rate / len(self.p_values)]

    def describe(self) -> str:
        """Say it in a sentence."""
        how = f"{len(self.p_values)} tests, false alarms in at most {self.rate:.2g} of runs"
        if self.found:
            named = "; ".join(f"{text} (p = {self.p_values[text]:.2g})" for text in self.found)
            them = f"{self.num_images} images, compared with {self.num_held_out} held-out normal ones"
            return f"Drift in {them}: {named} ({how})."
        whom = f"those of {self.num_held_out} held-out normal ones"
        return f"No drift: scores and concepts of {self.num_images} images are like {whom} ({how})."


class Cells(NamedTuple):
    """Intervals between held-out scores of a concept, and the run's images in each.

    Attributes:
        weights: Held-out scores that end in each, one more in the last, shape ``(m,)``.
        counts: Images of the run, shape ``(m,)``.
    """

    weights: NDArray[np.integer]
    counts: NDArray[np.integer]

    @property
    def shares(self) -> NDArray[np.floating]:
        """Chance of a new normal image to lie in each."""
        return self.weights / self.weights.sum()


def find_drift(
    results: Iterable[Result],
    held_out: Mapping[int, HeldOut],
    scale: Scale,
    rate: float = USUAL_RATE,
    products: Mapping[int, str] | None = None,
) -> Drift:
    """Compare a run with held-out normal images.

    Args:
        results: Results of a run, with raw scores and concepts.
        held_out: Held-out scores by concept.
        scale: How scores are told, and from which on images are anomalous.
        rate: Rate of false alarms of all tests together.
        products: Usual product of each concept, to name it.

    Returns:
        What was found.
    """
    known = [result for result in results if result.failure is None]
    concepts = np.array([result.concept for result in known], dtype=int)
    scores = np.array([result.raw_score for result in known], dtype=np.float32)
    cells = [cells_of(group, scores[concepts == concept]) for concept, group in held_out.items()]
    rng, draws = np.random.default_rng(0), round(DRAWS_PER_RATE / rate)
    higher, lower = compare_scores([cell for cell in cells if cell.counts.any()], rng, draws)
    normal = np.array([result.label is not True for result in known], dtype=bool)
    now = np.bincount(concepts[normal], minlength=max(held_out) + 1)
    before = np.zeros(len(now), dtype=int)
    for concept, group in held_out.items():
        told = scale.tell(group.whole("score"), concept)
        before[concept] = len(told) if scale.told is None else (told <= scale.told).sum()
    p_values = {
        "scores are higher": higher,
        "scores are lower": lower,
        _largest_change(now, before, products or {}): compare_shares(now, before, rng, draws),
    }
    return Drift(p_values, rate, len(known), sum(group.num_images for group in held_out.values()))


def cells_of(group: HeldOut, scores: NDArray[np.floating]) -> Cells:
    """Count scores between the held-out ones of their concept.

    Args:
        group: Held-out scores.
        scores: Scores of the run, shape ``(n,)``.

    Returns:
        The counts; a score that equals a held-out one counts below it.
    """
    chosen = np.unique(np.linspace(0, len(group.ranks) - 1, min(len(group.ranks), MOST_CELLS)).round().astype(int))
    ranks = group.ranks[chosen]
    counts = np.bincount(np.searchsorted(group.score[chosen], scores), minlength=len(chosen) + 1)
    return Cells(np.diff(ranks, prepend=0, append=group.num_images + 1), counts)


def compare_scores(cells: list[Cells], rng: np.random.Generator, draws: int) -> tuple[float, float]:
    """Test whether scores are higher, or lower, than held-out ones of the same concepts.

    Args:
        cells: Those of each concept of the run.
        rng: Where draws come from.
        draws: Number of draws.

    Returns:
        p-values of both; 1 if the run has none of the concepts.
    """
    if not cells:
        return 1.0, 1.0
    total = sum(cell.counts.sum() for cell in cells)
    expected = np.concatenate([cell.shares * cell.counts.sum() / total for cell in cells])
    order = np.argsort(np.concatenate([np.cumsum(cell.shares) - cell.shares / 2 for cell in cells]), kind="stable")

    def gap(counts: Sequence[NDArray[np.integer]]) -> NDArray[np.floating]:
        """How many more images one expects up to each place among the held-out scores than there are."""
        return np.cumsum((expected - np.concatenate(counts, axis=-1) / total)[..., order], axis=-1)

    found = gap([cell.counts for cell in cells])
    beyond = np.ones(2)
    for start in range(0, draws, CHUNK):
        size = (min(CHUNK, draws - start),)
        pure, mixed = [], []
        for cell in cells:
            # A new normal score falls between held-out ones with chances that are those of gaps of uniform values.
            gaps = rng.standard_gamma(cell.weights, (*size, len(cell.weights)))
            chances = gaps / gaps.sum(axis=1, keepdims=True)
            pure.append(rng.multinomial(cell.counts.sum(), chances))
            defects = np.eye(len(cell.weights))[-1]  # above all others, where they raise the scores most
            mixed.append(rng.multinomial(cell.counts.sum(), (1 - DEFECTS) * chances + DEFECTS * defects))
        beyond[0] += (gap(mixed).max(axis=1) >= found.max() - 1e-9).sum()
        beyond[1] += (gap(pure).min(axis=1) <= found.min() + 1e-9).sum()
    higher, lower = beyond / (draws + 1)
    return float(higher), float(lower)


def compare_shares(
    now: NDArray[np.integer], before: NDArray[np.integer], rng: np.random.Generator, draws: int
) -> float:
    """Test whether two samples have the same shares of each kind.

    Args:
        now: Number of each kind in one, shape ``(K,)``.
        before: The same in the other.
        rng: Where draws come from.
        draws: Number of draws.

    Returns:
        p-value; 1 if one of them is empty.
    """
    together = now + before
    kinds = together > 0
    expected = together[kinds] * now.sum() / max(together.sum(), 1)
    if not (now.any() and before.any()):
        return 1.0
    drawn = rng.multivariate_hypergeometric(together[kinds], now.sum(), draws)
    statistics = ((drawn - expected) ** 2 / expected).sum(axis=1)
    found = ((now[kinds] - expected) ** 2 / expected).sum()
    return float((1 + (statistics >= found - 1e-9).sum()) / (draws + 1))


def _largest_change(now: NDArray[np.integer], before: NDArray[np.integer], products: Mapping[int, str]) -> str:
    shares = [counts / max(counts.sum(), 1) for counts in (now, before)]
    concept = int(np.abs(shares[0] - shares[1]).argmax())
    name = f"concept {concept}" + (f" ({products[concept]})" if concept in products else "")
    return f"{name} has a share of {shares[0][concept]:.0%}, not {shares[1][concept]:.0%}"
