# SPDX-License-Identifier: Apache-2.0
"""Results per category as a DataFrame, and from there as a printed table, files and scalars.

The frame has one row per category, then ``"macro"`` and ``"pooled"``; its columns are ``normal`` and ``anomalous``, the
numbers of images, then metrics as ``image_AUROC``, NaN where not evaluable.
"""

import logging
from collections.abc import Mapping
from itertools import count
from pathlib import Path

from pandas import DataFrame, Index
from rich import box
from rich.console import Console
from rich.table import Table

from anomalib_vqflow.whole_file import whole_file

logger = logging.getLogger(__name__)

DASH = "\N{EN DASH}"
NO_LIMIT = 1000  # columns; a terminal that has fewer wraps lines, where rich would cut names and numbers
FILE_STEM = "category_metrics"
MACRO, POOLED = "macro", "pooled"
COUNTS = ["normal", "anomalous"]
HEADINGS = {"F1Max": "F1max", "F1Score": "F1", "AUPIMO": "PIMO"}


def to_frame(categories: Mapping[str, Mapping[str, float]], pooled: Mapping[str, float]) -> DataFrame:
    """Put rows together, with the mean of the categories: of each metric, over those where it is evaluable."""
    rows = DataFrame(list(categories.values()))
    macro = {**rows.mean(), **rows[COUNTS].sum()}
    return DataFrame([*categories.values(), macro, pooled], Index([*categories, MACRO, POOLED], name="category"))


def print_results(results: DataFrame) -> None:
    """Print results for a terminal of 80 columns: a dash means not evaluable, a line sets the mean and pool apart.

    Args:
        results: The frame; of one category without its mean and pool, which equal it.
    """
    rows = results if len(results) > 3 else results.head(1)
    metrics = rows.drop(columns=COUNTS)
    table = Table(title="Results per category", box=box.SIMPLE_HEAD, show_edge=False, padding=0, title_justify="left")
    table.add_column("category", no_wrap=True)
    table.add_column("images\ngood+bad", justify="right", no_wrap=True)
    for level, metric in (name.split("_") for name in metrics):
        table.add_column(f"{level}\n{HEADINGS.get(metric, metric)}", justify="right", no_wrap=True)
    for category, values in metrics.iterrows():
        if category == MACRO:
            table.add_section()
        cells = [DASH if value != value else f"{value:.3f}" for value in values]
        table.add_row(str(category), "+".join(map(str, rows.loc[category, COUNTS].astype(int))), *cells)
    Console(width=NO_LIMIT).print(table)
    if rows.isna().any(axis=None):
        _print_line(f"{DASH} not evaluable: no normal images, no anomalous images, or no masks")


def save_results(results: DataFrame, folder: Path) -> None:
    """Write results as ``category_metrics.csv`` and ``category_metrics.json``, and print where.

    Results of another run are never overwritten: the next ones are called ``category_metrics-v1.csv`` and so on, as
    Lightning names checkpoints. A full disk must not end a test whose results are printed: if writing is not possible,
    a warning is logged.

    Args:
        results: The frame; what is not evaluable becomes an empty cell or null.
        folder: Where to write; made if missing.
    """
    stems = (f"{FILE_STEM}-v{version}" if version else FILE_STEM for version in count())
    stem = next(stem for stem in stems if not any((folder / f"{stem}.{suffix}").exists() for suffix in ("csv", "json")))
    csv_file, json_file = folder / f"{stem}.csv", folder / f"{stem}.json"
    try:
        with whole_file(csv_file) as file:
            file.write(results.to_csv().encode())
        with whole_file(json_file) as file:
            file.write(results.to_json(orient="index", indent=2, double_precision=15).encode())
    except OSError as error:
        logger.warning("Could not write the results per category to %s: %s", folder, error)
    else:
        _print_line(f"Written to {csv_file} and {json_file}")


def to_scalars(results: DataFrame, drop: bool = True) -> dict[str, float]:
    """Name every metric of the frame like ``bottle/image_AUROC``.

    Args:
        results: The frame.
        drop: Whether to leave out what is not evaluable.

    Returns:
        Values by name.
    """
    return {
        f"{category}/{metric}": value
        for category, values in results.drop(columns=COUNTS).iterrows()
        for metric, value in (values.dropna() if drop else values).items()
    }


def _print_line(text: str) -> None:
    Console().print(text, soft_wrap=True, markup=False, highlight=False)  # not wrapped, so that paths can be copied
