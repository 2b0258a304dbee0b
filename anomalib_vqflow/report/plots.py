# SPDX-License-Identifier: Apache-2.0
"""The plots of the report, as figures without state in pyplot."""

import math
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from anomalib_vqflow.conformal import conformal_limit
from anomalib_vqflow.quantization import Codebook
from anomalib_vqflow.torch_model import VQFlowModel

from .cards import TILES_PER_ROW, Card
from .measures import best_threshold, count_images, measure_agreement

NORMAL, ANOMALOUS = "#0072B2", "#D55E00"
"""Blue and vermilion of Okabe and Ito's palette, which color-blind readers can tell apart."""

INK = "#222222"
WIDTH = 7.2  # inches
NUM_BINS = 40
MOST_ALARMS, NUM_RATES = 0.5, 60  # false-alarm rates that are plotted
STYLE: Any = {  # matplotlib types its settings by their names
    **dict.fromkeys(("axes.labelcolor", "axes.titlecolor", "text.color", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.spines.right", "axes.spines.top"), False),
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "figure.constrained_layout.use": True,
    "figure.dpi": 150,
    "font.size": 8,
}
SCORE_COLUMNS = {  # heading, what the threshold means, and the style of its line
    "plain": ("Before concept calibration", "best single threshold (highest F1)", ":"),
    "score": ("After concept calibration", "threshold of the model", "--"),
}


@mpl.rc_context(STYLE)
def plot_cards(cards: list[Card]) -> Figure:
    """Plot at least one card, two in a row, each as an image with title and captions."""
    num_rows = math.ceil(len(cards) / 2)
    scale = WIDTH / 2 / cards[0].image.width  # inches per pixel
    height = scale * max(card.image.height for card in cards) + 0.55
    figure = Figure(figsize=(WIDTH, num_rows * height))
    axes = figure.subplots(num_rows, 2, squeeze=False).ravel()
    for axis in axes:
        axis.set(frame_on=False, xticks=[], yticks=[], anchor="NW")
    for axis, card in zip(axes, cards, strict=False):
        axis.imshow(card.image)
        axis.set_title(f"{label(card.title, 56)}\n{label(card.text, 56)}", fontsize=7.5)
        column = card.image.width / TILES_PER_ROW
        axis.set_xticks([(index + 0.5) * column for index in range(len(card.captions))], card.captions)
        axis.tick_params(length=0)
    return figure


@mpl.rc_context(STYLE)
def plot_confusion(images: pd.DataFrame, categories: list[str], title: str) -> Figure:
    """Plot how many images of each category fell on each concept, colored by the share of the concept's images.

    Args:
        images: Columns ``concept`` and ``category``.
        categories: Names of all categories, in order.
        title: Which images these are.
    """
    table, agreement = count_images(images, categories), measure_agreement(images)
    num_rows, num_columns = table.shape
    totals = table.sum(axis=1)
    share = table.div(totals, axis=0).to_numpy()
    figure = Figure(figsize=(0.52 * num_columns + 3.2, 0.27 * num_rows + 1.6))
    axis = figure.subplots()
    axis.pcolormesh(share, cmap="Blues", vmin=0, vmax=1, edgecolors="#DDDDDD", linewidth=0.6)
    for (row, column), count in np.ndenumerate(table.to_numpy()):
        color = "white" if share[row, column] > 0.55 else INK
        axis.text(column + 0.5, row + 0.5, str(count or ""), ha="center", va="center", color=color)
    names = [label(name, 24) for name in categories]
    axis.set_xticks(np.arange(num_columns) + 0.5, names, rotation=45, ha="left")
    rows = zip(table.index, totals, share.max(axis=1), strict=True)
    names = [f"concept {concept} (n = {total}): {100 * top:.0f} %" for concept, total, top in rows]
    axis.set_yticks(np.arange(num_rows) + 0.5, names)
    axis.xaxis.tick_top()
    axis.invert_yaxis()
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    numbers = "" if math.isnan(agreement.nmi) else f": purity {agreement.purity:.3f}, NMI {agreement.nmi:.3f}"
    figure.suptitle(title + numbers, fontsize=10)
    return figure


@mpl.rc_context(STYLE)
def plot_scores(test: pd.DataFrame, categories: list[str], threshold: float) -> Figure:
    """Plot histograms of the scores, before and after concept calibration if the model has one, and its threshold.

    There is a row for each category with labeled images and, unless there is only one, for all images.

    Args:
        test: Test images; see :class:`.Collected`. Some are labeled.
        categories: Names of the categories; empty if unknown.
        threshold: Score above which the model calls an image anomalous; NaN for none.
    """
    labeled = test[test["anomalous"].notna()]
    groups = {name: images for name in categories if len(images := labeled[labeled["category"] == name])}
    if len(groups) != 1:
        groups["all images"] = labeled
    thresholds = {"score": threshold}
    if labeled["plain"].notna().all():
        thresholds = {"plain": best_threshold(labeled["plain"], labeled["anomalous"]), **thresholds}
    figure = Figure(figsize=(WIDTH, 0.85 * len(groups) + 0.9))
    axes = figure.subplots(len(groups), len(thresholds), squeeze=False, sharex="col")
    handles: dict[str, Any] = {}
    for (column, limit), column_axes in zip(thresholds.items(), axes.T, strict=True):
        _plot_column(column_axes, list(groups.values()), column, limit)
        handles |= {name: handle for handle, name in zip(*column_axes[0].get_legend_handles_labels(), strict=True)}
        column_axes[0].set_title(SCORE_COLUMNS[column][0] if len(thresholds) > 1 else "")
    for axis, (name, images) in zip(axes[:, 0], groups.items(), strict=True):
        num_anomalous = int(images["anomalous"].sum())
        text = f"{label(name, 24)}\n{len(images) - num_anomalous} normal, {num_anomalous} anomalous"
        axis.set_ylabel(text, rotation=0, ha="right", va="center")
    figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=2, frameon=False)
    return figure


@mpl.rc_context(STYLE)
def plot_rates(held_out: NDArray[np.float32], test: pd.DataFrame) -> Figure:
    """Plot the share of normal test images above the threshold of each false-alarm rate, beside what is promised.

    Args:
        held_out: Scores of normal images that set the thresholds, shape ``(n,)``.
        test: Test images; see :class:`.Collected`. Some are normal.
    """
    normal = test.loc[test["anomalous"] == 0, "score"].to_numpy()
    rates = np.geomspace(1 / (len(held_out) + 1), MOST_ALARMS, NUM_RATES)
    limits = [conformal_limit(held_out, rate) for rate in rates]
    figure = Figure(figsize=(WIDTH, 0.6 * WIDTH))
    axis = figure.subplots()
    axis.plot(
        rates, rates, color=INK, linestyle="--", linewidth=1.2, label=f"promised by {len(held_out)} images, at most"
    )
    measured = [np.mean(normal > limit.threshold.item()) for limit in limits]
    axis.plot(rates, measured, color=ANOMALOUS, label=f"measured on {len(normal)} normal test images")
    axis.set(
        xscale="log", xlabel="false-alarm rate that is asked for", ylabel="share of normal images above the threshold"
    )
    for formatted in (axis.xaxis, axis.yaxis):
        formatted.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axis.legend(loc="upper left", frameon=False)
    return figure


@mpl.rc_context(STYLE)
def plot_codes(model: VQFlowModel) -> Figure:
    """Plot the share of vectors that each code stands for, most used first: one bar chart per codebook."""
    codebooks = named_codebooks(model)
    figure = Figure(figsize=(WIDTH, 1.25 * len(codebooks) + 0.2))
    axes = figure.subplots(len(codebooks), 1, squeeze=False)[:, 0]
    for (name, codebook), axis in zip(codebooks.items(), axes, strict=True):
        counts = codebook.code_counts.double().cpu().numpy()
        share = np.sort(counts)[::-1] / max(counts.sum(), 1e-12)
        num_used = round(codebook.usage.item() * codebook.num_codes)
        axis.bar(np.arange(1, len(share) + 1), share, width=0.9, color=NORMAL, linewidth=0)
        axis.axhline(1 / len(share), color="gray", linewidth=0.8, linestyle="--")
        axis.set(xlim=(0.4, len(share) + 0.6), ylim=(0, max(share.max(), 1 / len(share)) * 1.08))
        axis.set_title(f"{name}: {num_used} of {len(share)} codes in use, perplexity {codebook.perplexity.item():.1f}")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.yaxis.set_major_locator(MaxNLocator(3))
        axis.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes[-1].set_xlabel("code, most used first")
    return figure


def named_codebooks(model: VQFlowModel) -> dict[str, Codebook]:
    """Name the codebooks of a model: concepts first, then the patterns, fine to coarse, the semantic level's last."""
    coarser = [f"level {level}" for level in range(2, len(model.features.detail_shapes) + 1)]
    names = [f"patterns, {level}" for level in ("level 1 (finest)", *coarser, "semantic level")]
    return {"concepts": model.concept.codebook, **dict(zip(names, model.pattern_codebooks, strict=False))}


def label(text: str, length: int) -> str:
    """Shorten a name in its middle to at most ``length`` characters, and keep it from being taken for a formula.

    Example:
        >>> label("a_very_long_name_of_a_product", 11)
        'a_ver…oduct'
    """
    if len(text) > length:
        tail = (length - 1) // 2
        text = text[: length - 1 - tail] + "\N{HORIZONTAL ELLIPSIS}" + text[len(text) - tail :]
    return text.replace("$", r"\$")


def _plot_column(axes: NDArray[np.object_], groups: list[pd.DataFrame], column: str, threshold: float) -> None:
    """Plot one kind of scores, one histogram for each group of images, on the same bins; the last group has all."""
    _, meaning, line = SCORE_COLUMNS[column]
    edges = np.histogram_bin_edges(np.append(groups[-1][column], [] if math.isnan(threshold) else threshold), NUM_BINS)
    for axis, images in zip(axes, groups, strict=True):
        scores, anomalous = images[column].to_numpy(), images["anomalous"].to_numpy() == 1
        for chosen, name, style in (
            (~anomalous, "normal images", {"color": NORMAL, "fill": True, "alpha": 0.65}),
            (anomalous, "anomalous images", {"color": ANOMALOUS, "linewidth": 1.4}),
        ):
            axis.stairs(np.histogram(scores[chosen], edges)[0] / max(chosen.sum(), 1), edges, label=name, **style)
        if not math.isnan(threshold):
            axis.axvline(threshold, color=INK, linewidth=1.2, linestyle=line, label=meaning)
        if 0 < anomalous.sum() < len(anomalous):
            axis.set_title(f"AUROC {roc_auc_score(anomalous, scores):.3f}", fontsize=8, loc="right")
        axis.set_yticks([])
        axis.spines["left"].set_visible(False)
    axes[-1].set_xlabel("score")
