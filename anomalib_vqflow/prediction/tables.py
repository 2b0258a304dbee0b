# SPDX-License-Identifier: Apache-2.0
"""Tables of predictions: CSV, or lines of JSON, written as the predictions come."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from .pipeline import Result
from .predictions import CONCEPT

JSON_LINES, CSV = ".jsonl", ".csv"
SUFFIXES = (CSV, JSON_LINES)
LABELS = {True: "anomalous", False: "normal", None: None}  # None where the model has no threshold
DIGITS = 6


def open_table(path: Path) -> TextIO:
    """Open a file to write a table to, and make its folder; names in it may be no valid Unicode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("w", newline="", encoding="utf-8", errors="surrogateescape")


def table_writer(file: TextIO, suffix: str, tells_concept: bool) -> Callable[[Result], None]:
    """Begin a table.

    Args:
        file: Where to write.
        suffix: ``.csv`` or ``.jsonl``.
        tells_concept: Whether concepts are known.

    Returns:
        A function that adds a prediction.
    """
    if suffix == JSON_LINES:
        return lambda result: print(json.dumps(_json_of(result, tells_concept)), file=file)
    writer = csv.writer(file)
    writer.writerow(["path", "score", "label", "threshold", *([CONCEPT] if tells_concept else []), "regions", "area"])
    return lambda result: writer.writerow(_cells_of(result, tells_concept))


def _cells_of(result: Result, tells_concept: bool) -> list[object]:
    regions = result.regions
    counts = [None, None] if regions is None else [len(regions), sum(region.area for region in regions)]
    concept = [result.concept] if tells_concept else []
    threshold = None if result.threshold is None else f"{result.threshold:.{DIGITS}g}"
    score = f"{result.score:.{DIGITS}f}"
    return [result.source.path, score, LABELS[result.label], threshold, *concept, *counts]


def _json_of(result: Result, tells_concept: bool) -> dict[str, object]:
    regions = result.regions
    if regions is not None:
        regions = [region._replace(peak=round(region.peak, DIGITS)) for region in regions]
    return {
        "path": str(result.source.path),
        "score": round(result.score, DIGITS),
        "label": LABELS[result.label],
        "threshold": None if result.threshold is None else round(result.threshold, DIGITS),
        **({CONCEPT: result.concept} if tells_concept else {}),
        "regions": None if regions is None else [region._asdict() for region in regions],
    }
