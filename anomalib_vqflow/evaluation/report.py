# SPDX-License-Identifier: Apache-2.0
"""Results per category as a table, CSV, JSON and scalars."""

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

NOT_EVALUABLE = "\N{EN DASH}"
MAX_WIDTH = 1000
FILE_STEM = "category_metrics"
MACRO, POOLED = "macro", "pooled"
SHORT_NAMES = {
    "image_AUROC": "image\nAUROC",
    "image_AP": "image\nAP",
    "image_F1Max": "image\nF1max",
    "image_F1Score": "image\nF1",
    "pixel_AUROC": "pixel\nAUROC",
    "pixel_AP": "pixel\nAP",
    "pixel_F1Max": "pixel\nF1max",
    "pixel_F1Score": "pixel\nF1",
    "pixel_AUPRO": "pixel\nAUPRO",
    "pixel_AUPIMO": "pixel\nPIMO",
}


class CategoryRow(NamedTuple):
    """Results of one category, of the mean of categories, or of all images; NaN where not evaluable.

    Attributes:
        normal: Number of normal images.
        anomalous: Number of anomalous images.
        metrics: Value of each metric, by name.
    """

    normal: int
    anomalous: int
    metrics: dict[str, float]


def macro_row(rows: Mapping[str, CategoryRow]) -> CategoryRow:
    """Average the categories, each metric over those where it is evaluable.

    Args:
        rows: Results per category.

    Returns:
        The mean, with images summed.
    """
    rows_list = list(rows.values())
    metrics = {}
    for name in rows_list[0].metrics:
        values = [row.metrics[name] for row in rows_list if not math.isnan(row.metrics[name])]
        metrics[name] = sum(values) / len(values) if values else float("nan")
    return CategoryRow(sum(row.normal for row in rows_list), sum(row.anomalous for row in rows_list), metrics)


def to_table(rows: Mapping[str, CategoryRow], title: str) -> Table:
    """Lay out results for a terminal of 80 columns; a dash means not evaluable.

    Args:
        rows: Results by name; a line sets ``"macro"`` and what follows apart.
        title: Heading.

    Returns:
        The table.
    """
    metrics = list(next(iter(rows.values())).metrics)
    table = Table(title=title, box=box.SIMPLE_HEAD, show_edge=False, padding=0, title_justify="left")
    table.add_column("category", no_wrap=True)
    table.add_column("images\ngood+bad", justify="right", no_wrap=True)
    for metric in metrics:
        table.add_column(SHORT_NAMES.get(metric, metric), justify="right", no_wrap=True)
    for name, row in rows.items():
        if name == MACRO:
            table.add_section()
        values = [row.metrics[metric] for metric in metrics]
        cells = [NOT_EVALUABLE if math.isnan(value) else f"{value:.3f}" for value in values]
        table.add_row(name, f"{row.normal}+{row.anomalous}", *cells)
    return table


def print_table(rows: Mapping[str, CategoryRow], title: str) -> None:
    """Print results to the terminal, never cut off, and what a dash means if there is one.

    Args:
        rows: Results by name.
        title: Heading.
    """
    console, table = Console(), to_table(rows, title)
    natural_width = console.measure(table, options=console.options.update(width=MAX_WIDTH)).maximum
    console.width = max(console.width, natural_width)
    console.print(table)
    if any(math.isnan(value) for row in rows.values() for value in row.metrics.values()):
        print_line(f"{NOT_EVALUABLE} not evaluable: no normal images, no anomalous images, or no masks")


def print_line(text: str) -> None:
    """Print one line to the terminal, not wrapped, so that paths can be copied.

    Args:
        text: The line.
    """
    Console().print(text, soft_wrap=True, markup=False, highlight=False)


def write_report(rows: Mapping[str, CategoryRow], folder: Path) -> list[Path]:
    """Write results as ``category_metrics.csv`` and ``category_metrics.json``.

    Args:
        rows: Results by name; what is not evaluable becomes an empty cell or null.
        folder: Where to write; made if missing.

    Returns:
        Paths of the two files.
    """
    csv_file, json_file = folder / f"{FILE_STEM}.csv", folder / f"{FILE_STEM}.json"
    folder.mkdir(parents=True, exist_ok=True)
    metrics = list(next(iter(rows.values())).metrics)
    records = [
        {"category": name, "normal": row.normal, "anomalous": row.anomalous}
        | {metric: None if math.isnan(row.metrics[metric]) else row.metrics[metric] for metric in metrics}
        for name, row in rows.items()
    ]
    with csv_file.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(records[0]))
        writer.writeheader()
        writer.writerows(records)
    text = json.dumps({str(record.pop("category")): record for record in records}, indent=2)
    json_file.write_text(text + "\n", encoding="utf-8")
    return [csv_file, json_file]


def to_scalars(rows: Mapping[str, CategoryRow]) -> dict[str, float]:
    """Name every evaluable result like ``bottle/image_AUROC``.

    Args:
        rows: Results by name.

    Returns:
        Values by name.
    """
    return {
        f"{name}/{metric}": value
        for name, row in rows.items()
        for metric, value in row.metrics.items()
        if not math.isnan(value)
    }
