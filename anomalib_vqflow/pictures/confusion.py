# SPDX-License-Identifier: Apache-2.0
"""Picture of which concepts stand for which categories."""

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .agreement import Agreement
from .figures import INK, Picture, label, new_figure, plural, to_picture

CELL_WIDTH, CELL_HEIGHT, MARGIN = 0.52, 0.27, 1.0
DARK = 0.55
"""Share of a cell from which on its number is written in white."""


def draw_confusion(table: pd.DataFrame, agreement: Agreement, name: str, title: str) -> Picture:
    """Draw how many images of each category fell on each concept, colored by the share of the concept's images.

    Args:
        table: Images of each concept (row) and category (column).
        agreement: Purity and mutual information of the table.
        name: Name of the file.
        title: Which images these are.

    Returns:
        The picture.
    """
    num_rows, num_columns = table.shape
    figure = new_figure(CELL_WIDTH * num_columns + 2 * MARGIN, CELL_HEIGHT * num_rows + 2 * MARGIN)
    numbers = "" if math.isnan(agreement.nmi) else f": purity {agreement.purity:.3f}, NMI {agreement.nmi:.3f}"
    axis = _draw_table(figure, table)
    axis.set_title(title + numbers, fontsize=10, color=INK, loc="left")
    return to_picture(figure, name, f"{title}: number per concept and category")


def _draw_table(figure: Figure, table: pd.DataFrame) -> Axes:
    counts = table.to_numpy()
    num_rows, num_columns = counts.shape
    totals = counts.sum(axis=1)
    share = counts / totals[:, None]
    width, height = figure.get_size_inches()
    box = (MARGIN / width, 0.05, CELL_WIDTH * num_columns / width, CELL_HEIGHT * num_rows / height)
    axis = figure.add_axes(box)
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in zip(*counts.nonzero(), strict=True):
        color = "white" if share[row, column] > DARK else INK
        axis.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=8, color=color)
    axis.set_xticks(range(num_columns), [label(str(name), 24) for name in table.columns], rotation=45, ha="left")
    axis.xaxis.tick_top()
    axis.set_yticks(range(num_rows), [f"concept {concept}" for concept in table.index])
    right = axis.secondary_yaxis("right")
    right.set_yticks(
        range(num_rows),
        [f"{plural(total, 'image')}, {100 * top:.0f} %" for total, top in zip(totals, share.max(axis=1), strict=True)],
    )
    for side in (axis, right):
        side.tick_params(labelsize=8, length=0, colors=INK)
        side.spines[:].set_visible(False)
    axis.set_xticks([column - 0.5 for column in range(1, num_columns)], minor=True)
    axis.set_yticks([row - 0.5 for row in range(1, num_rows)], minor=True)
    axis.grid(which="minor", color="#DDDDDD", linewidth=0.6)
    axis.tick_params(which="minor", length=0)
    return axis
