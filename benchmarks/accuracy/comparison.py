# SPDX-License-Identifier: Apache-2.0
"""The command that compares two methods: their runs, seed by seed, and a table of differences."""

from collections.abc import Sequence

import numpy as np

from benchmarks.measuring import print_header, print_row

from .bootstrap import METRICS, Difference, paired_bootstrap
from .store import Row, Store


def print_comparison(
    store: Store,
    first: str,
    second: str,
    data: str | None = None,
    resamples: int = 2000,
    categories: Sequence[str] | None = None,
) -> None:
    """Print a table of differences for each data set on which both methods have runs of the same seeds.

    Args:
        store: The runs.
        first: A method, or ``method/backbone`` where it has several.
        second: The method to compare it with.
        data: Name of the data; None for all.
        resamples: Number of resamples.
        categories: Categories that count; None for all.

    Raises:
        ValueError: If there are no such runs, or those of one method are on several backbones.
    """
    rows = [row for row in store.finished().values() if data in (None, row["data"])]
    names = sorted({row["data"] for row in rows})
    compared = 0
    for name in names:
        chosen = [{row["seed"]: row for row in _runs_of(method, rows, name)} for method in (first, second)]
        seeds = sorted(set(chosen[0]) & set(chosen[1]))
        if not seeds:
            continue
        compared += 1
        scores = [[_scores(store, method[seed]) for seed in seeds] for method in chosen]
        print(f"\n{name}: {first} − {second}, seeds {', '.join(map(str, seeds))}, {resamples} resamples\n")
        _print_table(paired_bootstrap(*scores, resamples=resamples, categories=categories), first, second)
    if not compared:
        found = sorted({f"{row['method']}/{row['backbone']}" for row in rows})
        msg = f"Expected runs of {first} and {second} with a seed in common, got those of {found}."
        raise ValueError(msg)


def _runs_of(method: str, rows: list[Row], data: str) -> list[Row]:
    found = [row for row in rows if row["data"] == data and method in (row["method"], _label(row))]
    if len(backbones := {row["backbone"] for row in found}) > 1:
        msg = f"{method} ran on the backbones {sorted(backbones)}; name one of them, as {method}/{min(backbones)}."
        raise ValueError(msg)
    return found


def _label(row: Row) -> str:
    return f"{row['method']}/{row['backbone']}"


def _scores(store: Store, row: Row) -> dict[str, np.ndarray]:
    with np.load(store.scores_file(row["key"])) as arrays:
        return dict(arrays)


def _print_table(differences: dict[tuple[str, str], Difference], first: str, second: str) -> None:
    print_header("", first, second, "difference", "95 % interval", "share of resamples with first better")
    for rows in ("macro", "pooled"):
        for metric in METRICS:
            if (rows, metric) in differences:
                one = differences[rows, metric]
                interval = f"{one.low:+.4f} to {one.high:+.4f}"
                cells = f"{one.first:.4f}", f"{one.second:.4f}", f"{one.first - one.second:+.4f}", interval
                print_row(f"{rows} {metric.replace('_', ' ')}", *cells, f"{one.share:.3f}")
