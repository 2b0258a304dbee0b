# SPDX-License-Identifier: Apache-2.0
"""Tables of predictions: CSV, or lines of JSON, written as the predictions come."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TextIO, cast

from anomalib_vqflow.whole_file import whole_file

from .pipeline import Result
from .predictions import CONCEPT

PRODUCT = "product"
JSON_LINES, CSV = ".jsonl", ".csv"
SUFFIXES = (CSV, JSON_LINES)
LABELS = {True: "anomalous", False: "normal", None: None}  # None where the model has no threshold
DIGITS = 6


@contextmanager
def open_table(path: Path) -> Iterator[TextIO]:
    """Write a table, which is there when it is complete, and make its folder; names in it may be no valid Unicode."""
    with (
        whole_file(path) as file,
        io.TextIOWrapper(cast("IO[bytes]", file), "utf-8", errors="surrogateescape", newline="") as text,
    ):
        yield text


def table_writer(
    file: TextIO, suffix: str, tells_concept: bool, products: Mapping[int, str] | None = None
) -> Callable[[Result], None]:
    """Begin a table.

    Args:
        file: Where to write.
        suffix: ``.csv`` or ``.jsonl``.
        tells_concept: Whether concepts are known.
        products: Usual product of each concept; none if it is not known of any.

    Returns:
        A function that adds a prediction.
    """

    def kind_of(result: Result) -> dict[str, object]:
        product = {PRODUCT: products.get(result.concept)} if products and result.concept is not None else {}
        return {CONCEPT: result.concept, **product} if tells_concept else {}

    if suffix == JSON_LINES:
        return lambda result: print(json.dumps(_json_of(result, kind_of(result))), file=file)
    writer = csv.writer(file)
    kinds = [CONCEPT, *([PRODUCT] if products else [])] if tells_concept else []
    writer.writerow(["path", "score", "label", "threshold", *kinds, "regions", "area"])
    return lambda result: writer.writerow(_cells_of(result, kind_of(result)))


def _cells_of(result: Result, kind: Mapping[str, object]) -> list[object]:
    regions = result.regions
    counts = [None, None] if regions is None else [len(regions), sum(region.area for region in regions)]
    threshold = None if result.threshold is None else f"{result.threshold:.{DIGITS}g}"
    score = f"{result.score:.{DIGITS}f}"
    return [result.source.path, score, LABELS[result.label], threshold, *kind.values(), *counts]


def _json_of(result: Result, kind: Mapping[str, object]) -> dict[str, object]:
    regions = result.regions
    if regions is not None:
        regions = [region._replace(peak=round(region.peak, DIGITS)) for region in regions]
    return {
        "path": str(result.source.path),
        "score": round(result.score, DIGITS),
        "label": LABELS[result.label],
        "threshold": None if result.threshold is None else round(result.threshold, DIGITS),
        **kind,
        "regions": None if regions is None else [region._asdict() for region in regions],
    }
