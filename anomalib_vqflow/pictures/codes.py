# SPDX-License-Identifier: Apache-2.0
"""Picture of how evenly the codes of each codebook are used."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from anomalib_vqflow.quantization import Codebook
from anomalib_vqflow.torch_model import VQFlowModel

from .figures import FAINT, INK, NORMAL, Picture, new_figure, to_picture

WIDTH, PANEL_HEIGHT = 7.2, 1.25


def draw_codes(model: VQFlowModel) -> Picture:
    """Draw the share of vectors that each code stands for, most used first, for every codebook.

    Args:
        model: A trained model.

    Returns:
        The picture.
    """
    books = named_codebooks(model)
    figure = new_figure(WIDTH, PANEL_HEIGHT * len(books) + 0.4)
    axes = figure.subplots(len(books), 1, squeeze=False)[:, 0]
    for (name, codebook), axis in zip(books.items(), axes, strict=True):
        _draw_codebook(axis, name, codebook)
    axes[-1].set_xlabel("code, most used first", fontsize=9, color=INK)
    figure.subplots_adjust(left=0.1, right=0.98, top=1 - 0.3 / figure.get_figheight(), bottom=0.08, hspace=0.95)
    return to_picture(figure, "codes", "Share of vectors per code, sorted, for each codebook")


def named_codebooks(model: VQFlowModel) -> dict[str, Codebook]:
    """Name the codebooks of a model.

    Args:
        model: The model.

    Returns:
        Concepts first, then the patterns, fine to coarse, the semantic level's last.
    """
    books = {"concepts": model.concept.codebook}
    for level, codebook in enumerate(model.pattern_codebooks):
        semantic = level == len(model.features.detail_shapes)
        books["patterns, semantic level" if semantic else f"patterns, level {level + 1}"] = codebook
    if "patterns, level 1" in books:
        books = {name.replace("level 1", "level 1 (finest)"): codebook for name, codebook in books.items()}
    return books


def _draw_codebook(axis: Axes, name: str, codebook: Codebook) -> None:
    counts = codebook.code_counts.detach().cpu().double().numpy()
    share = np.sort(counts)[::-1] / max(counts.sum(), 1e-12)
    live = round(codebook.live_ratio.item() * codebook.num_codes)
    axis.bar(np.arange(1, len(share) + 1), share, width=1.0 if len(share) > 64 else 0.8, color=NORMAL, linewidth=0)
    axis.axhline(1 / len(share), color=FAINT, linewidth=0.8, linestyle="--")
    axis.set_xlim(0.4, len(share) + 0.6)
    axis.set_ylim(0, max(share.max(), 1 / len(share)) * 1.08)
    title = f"{name}: {live} of {len(share)} codes live, perplexity {codebook.perplexity.item():.1f}"
    axis.set_title(title, fontsize=9, loc="left", color=INK)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(3))
    axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    axis.tick_params(labelsize=8, colors=INK)
    axis.spines[["top", "right"]].set_visible(False)
