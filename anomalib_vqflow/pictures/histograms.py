# SPDX-License-Identifier: Apache-2.0
"""Picture of the scores of normal and anomalous test images, per category and together."""

import math
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from anomalib_vqflow.evaluation.curves import count_scores, detection_metrics

from .collect import Collected
from .figures import ANOMALOUS, INK, NORMAL, Picture, label, new_figure, to_picture

WIDTH, PANEL_HEIGHT, TOP, BOTTOM = 7.2, 0.95, 1.05, 0.45  # inches
HEADING = 0.68  # inches from the top
NUM_BINS = 40
ALPHA = 0.65
TOGETHER = "all images"


class Column(NamedTuple):
    """One way to score images.

    Attributes:
        name: Column of the table of test images.
        title: Heading.
        threshold: Score to draw a line at; NaN for none.
        line: Style of that line.
        meaning: What the line means.
    """

    name: str
    title: str
    threshold: float
    line: Literal["--", ":"]
    meaning: str


def draw_scores(collected: Collected) -> Picture:
    """Draw histograms of the scores, before and after concept calibration if the model has one, and its threshold.

    Args:
        collected: The images; some are labeled.

    Returns:
        The picture.
    """
    labeled = collected.test[collected.test["anomalous"].notna()]
    groups = {name: images for name in collected.categories if len(images := labeled[labeled["category"] == name])}
    if len(groups) != 1:
        groups[TOGETHER] = labeled
    columns = _columns(labeled, collected.threshold)
    height = PANEL_HEIGHT * len(groups) + TOP + BOTTOM
    figure = new_figure(WIDTH, height)
    axes = figure.subplots(len(groups), len(columns), squeeze=False, sharex="col")
    figure.subplots_adjust(left=0.02, right=0.98, top=1 - TOP / height, bottom=BOTTOM / height, hspace=0.8, wspace=0.08)
    for column, column_axes in zip(columns, axes.T, strict=True):
        edges = _edges(labeled[column.name].to_numpy(), column.threshold)
        for axis, images in zip(column_axes, groups.values(), strict=True):
            _draw_histogram(axis, images, column, edges)
        column_axes[-1].set_xlabel("score", fontsize=9, color=INK)
        figure.text(column_axes[0].get_position().x0, 1 - HEADING / height, column.title, fontsize=10, color=INK)
    for axis, (name, images) in zip(axes[:, 0], groups.items(), strict=True):
        axis.set_title(label(name), fontsize=9, loc="left", color=INK, weight="bold")
        num_anomalous = int(images["anomalous"].sum())
        text = f"{len(images) - num_anomalous} normal, {num_anomalous} anomalous"
        where = axes[list(groups).index(name), -1]
        where.set_title(text, fontsize=8, loc="center" if len(columns) == 1 else "left", color=INK)
    figure.legend(
        handles=_legend(columns), loc="upper left", bbox_to_anchor=(0.01, 1), ncols=2, frameon=False, fontsize=8.5
    )
    return to_picture(figure, "scores", "Histograms of the scores of normal and anomalous test images")


def best_threshold(scores: NDArray[np.float32], anomalous: NDArray[np.bool_]) -> float:
    """Find the threshold with the highest F1 score.

    Args:
        scores: Scores, shape ``(N,)``.
        anomalous: Whether the images are, shape ``(N,)``; at least one.

    Returns:
        The lowest score to call anomalous.

    Example:
        >>> best_threshold(np.array([0.1, 0.4, 0.3, 0.9]), np.array([False, True, False, True]))
        0.4
    """
    values = np.unique(scores)[::-1]
    hits = (scores[anomalous] >= values[:, None]).sum(axis=1)
    alarms = (scores >= values[:, None]).sum(axis=1)
    return float(values[np.argmax(hits / (alarms + anomalous.sum()))])


def _columns(labeled: pd.DataFrame, threshold: float) -> list[Column]:
    own = "threshold of the model"
    if labeled["plain"].isna().all():
        return [Column("score", "", threshold, "--", own)]
    anomalous = labeled["anomalous"].to_numpy() == 1
    best = best_threshold(labeled["plain"].to_numpy(), anomalous) if anomalous.any() else float("nan")
    return [
        Column("plain", "Before concept calibration", best, ":", "best single threshold (highest F1)"),
        Column("score", "After concept calibration", threshold, "--", own),
    ]


def _edges(scores: NDArray[np.float32], threshold: float) -> NDArray[np.float64]:
    """Divide the range of the scores, and of the threshold if there is one, into bins."""
    values = scores if math.isnan(threshold) else np.append(scores, threshold)
    margin = 0.02 * float(np.ptp(values)) or 0.01
    return np.linspace(values.min() - margin, values.max() + margin, NUM_BINS + 1)


def _draw_histogram(axis: Axes, images: pd.DataFrame, column: Column, edges: NDArray[np.float64]) -> None:
    scores, anomalous = images[column.name].to_numpy(), images["anomalous"].to_numpy() == 1
    for chosen, color, filled in ((~anomalous, NORMAL, True), (anomalous, ANOMALOUS, False)):
        share = np.histogram(scores[chosen], edges)[0] / max(chosen.sum(), 1)
        axis.stairs(share, edges, color=color, fill=filled, alpha=ALPHA if filled else 1, linewidth=1.4)
    if not math.isnan(column.threshold):
        axis.axvline(column.threshold, color=INK, linewidth=1.2, linestyle=column.line)
    auroc = detection_metrics(count_scores(scores, anomalous)).auroc
    text = "" if math.isnan(auroc) else f"AUROC {auroc:.3f}"
    axis.set_title(text, fontsize=8, loc="right", color=INK)
    axis.set_yticks([])
    axis.tick_params(labelsize=8, colors=INK)
    axis.spines[["top", "left", "right"]].set_visible(False)


def _legend(columns: list[Column]) -> list[Patch | Line2D]:
    lines = [
        Line2D([], [], color=INK, linewidth=1.2, linestyle=column.line, label=column.meaning)
        for column in columns
        if not math.isnan(column.threshold)
    ]
    kinds: list[Patch | Line2D] = [
        Patch(color=NORMAL, alpha=ALPHA, label="normal images"),
        Line2D([], [], color=ANOMALOUS, linewidth=1.4, label="anomalous images"),
    ]
    return kinds + lines
