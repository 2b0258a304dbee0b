# SPDX-License-Identifier: Apache-2.0
"""How good the scores and labels of test images are: per category, as their mean, and over all images."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from .pipeline import Result

DASH = "\N{EN DASH}"
MACRO, POOLED = "macro", "pooled"
NAN = float("nan")
COLUMNS = ("good", "bad", "image AUROC", "F1", "false alarms", "misses")


class Quality(NamedTuple):
    """How well images are told apart; NaN where that cannot be said.

    Attributes:
        normal: Number of normal images.
        anomalous: Number of anomalous images.
        auroc: Area under the ROC curve of the scores.
        f1_score: F1 score of the labels.
        false_alarm_rate: Share of the normal images that are called anomalous.
        miss_rate: Share of the anomalous images that are called normal.
    """

    normal: int
    anomalous: int
    auroc: float
    f1_score: float
    false_alarm_rate: float
    miss_rate: float


def evaluate(results: Iterable[Result]) -> dict[str, Quality]:
    """Judge the predictions of images whose truth is known; those that were left out don't count.

    Args:
        results: Results.

    Returns:
        The quality of each category, of their mean as ``macro``, and of all images as ``pooled``.
    """
    by_category: dict[str, list[Result]] = {}
    for result in results:
        if result.failure is None:
            by_category.setdefault(result.source.category, []).append(result)
    qualities = {category: judge(by_category[category]) for category in sorted(by_category)}
    if not qualities:
        return {}
    columns = list(zip(*qualities.values(), strict=True))
    means = [float(np.nanmean(values)) if not np.isnan(values).all() else NAN for values in columns[2:]]
    pooled = judge([result for members in by_category.values() for result in members])
    return {**qualities, MACRO: Quality(sum(columns[0]), sum(columns[1]), *means), POOLED: pooled}


def judge(results: list[Result]) -> Quality:
    """Judge predictions of any images together."""
    is_anomalous = np.array([result.source.is_anomalous for result in results], dtype=bool)
    positives = int(is_anomalous.sum())
    negatives = len(results) - positives
    area = auroc(np.array([result.score for result in results]), is_anomalous)
    if any(result.label is None for result in results):
        return Quality(negatives, positives, area, NAN, NAN, NAN)
    is_called = np.array([result.label for result in results], dtype=bool)
    alarms, misses = int((is_called & ~is_anomalous).sum()), int((~is_called & is_anomalous).sum())
    hits = positives - misses
    return Quality(
        negatives,
        positives,
        area,
        2 * hits / (2 * hits + alarms + misses) if positives else NAN,
        alarms / negatives if negatives else NAN,
        misses / positives if positives else NAN,
    )


def auroc(scores: np.ndarray, is_anomalous: np.ndarray) -> float:
    """Compute the share of pairs of a normal and an anomalous image in which the latter scores higher; ties are half.

    Args:
        scores: Scores of shape ``(n,)``.
        is_anomalous: Booleans of shape ``(n,)``.

    Returns:
        The area under the ROC curve, 0 to 1; NaN without normal or without anomalous images.

    Example:
        >>> auroc(np.array([0.1, 0.4, 0.4]), np.array([False, False, True]))
        0.75
    """
    normal, anomalous = np.sort(scores[~is_anomalous]), scores[is_anomalous]
    if not (len(normal) and len(anomalous)):
        return NAN
    lower = np.searchsorted(normal, anomalous, side="left") + np.searchsorted(normal, anomalous, side="right")
    return float(lower.sum() / (2 * len(normal) * len(anomalous)))


def format_table(qualities: Mapping[str, Quality]) -> str:
    """Put qualities into a table for a terminal; of one category without its mean and pool, which equal it.

    Args:
        qualities: What :func:`evaluate` gives.

    Returns:
        Lines. Of false alarms and misses it gives numbers and shares, of their means shares only.
    """
    shown = qualities if len(qualities) > 3 else dict(list(qualities.items())[:1])
    rows = [("category", *COLUMNS), *((name, *_cells(name, quality)) for name, quality in shown.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))])
        for name, *cells in rows
    ]
    rule = "-" * len(lines[0])
    lines.insert(1, rule)
    if len(shown) > 1:
        lines.insert(-2, rule)
    return "\n".join(lines)


def _cells(name: str, quality: Quality) -> list[str]:
    counts = (quality.normal, quality.anomalous)
    measures = [DASH if value != value else f"{value:.3f}" for value in (quality.auroc, quality.f1_score)]
    rates = zip((quality.false_alarm_rate, quality.miss_rate), counts, strict=True)
    shares = [
        DASH if rate != rate else f"{rate:.1%}" if name == MACRO else f"{round(rate * count)} ({rate:.1%})"
        for rate, count in rates
    ]
    return [*map(str, counts), *measures, *shares]
