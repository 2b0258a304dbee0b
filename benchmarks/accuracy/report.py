# SPDX-License-Identifier: Apache-2.0
"""Tables and plots of rows."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

from matplotlib import pyplot as plt

from anomalib_vqflow.evaluation.results import HEADINGS
from benchmarks.measuring import NOT_EVALUABLE, mean_and_deviation

from .bootstrap import METRICS
from .store import Row

MEANS = ("macro", "pooled")
PLOTTED = ("image_AUROC", "pixel_AP")
TRAINING, TEST = "training, min", "test, ms per image"
SCALES = {TRAINING: "log", TEST: "linear"}
Groups = dict[tuple[str, str], list[Row]]


def tables(rows: Iterable[Row], per_category: bool = False, categories: Sequence[str] | None = None) -> str:
    """Write Markdown tables: mean and deviation over seeds of every method, macro and pooled, for each data set.

    Args:
        rows: Rows of any runs.
        per_category: Whether to add, for each metric, a table with all categories.
        categories: Categories that macro is the mean of; the pooled table, which is of all, is left out. None for all.

    Raises:
        ValueError: If a row lacks a category.

    Returns:
        The tables, with the versions and the hardware that the rows tell of, and what was skipped.
    """
    rows = list(rows) if categories is None else [_of_categories(row, categories) for row in rows]
    means = MEANS if categories is None else MEANS[:1]
    parts = []
    for data in sorted({row["data"] for row in rows}):
        groups = _groups(row for row in rows if row["data"] == data)
        if groups:
            parts += [f"**{data}**: {_origin([row for runs in groups.values() for row in runs])}", ""]
            for mean in means:
                parts += _table(f"{data}, {mean}", groups, mean)
            parts += _concepts(f"{data}, concepts", groups)
            for metric in METRICS if per_category else ():
                parts += _categories(groups, metric, means)
    parts += sorted({f"Skipped: {_label(row)} on {row['data']}: {row['skipped']}." for row in rows if "skipped" in row})
    return "\n".join(parts).strip() + "\n"


def plot(rows: Iterable[Row], path: Path) -> None:
    """Draw the accuracy of methods beside their time for training and testing, a line of panels for each data set.

    Args:
        rows: Rows of any runs.
        path: Image file.

    Raises:
        ValueError: If no row has results.
    """
    rows = [row for row in rows if "skipped" not in row]
    names = sorted({row["data"] for row in rows})
    if not names:
        msg = "Expected rows with results, got none; do the runs first."
        raise ValueError(msg)
    times = {TRAINING: _training_minutes, TEST: _test_milliseconds}
    panels = [(metric, time) for metric in PLOTTED for time in times]
    figure, axes = plt.subplots(len(names), len(panels), figsize=(4 * len(panels), 4 * len(names)), squeeze=False)
    for line, data in zip(axes, names, strict=True):
        groups = _groups(row for row in rows if row["data"] == data)
        for panel, (metric, time) in zip(line, panels, strict=True):
            for number, (group, runs) in enumerate(groups.items()):
                values = [value for run in runs if (value := run["metrics"]["macro"][metric]) is not None]
                if values:
                    marker, color = "os^D"[number // 10 % 4], f"C{number % 10}"
                    place = fmean(map(times[time], runs)), fmean(values)
                    panel.plot(*place, marker, color=color, label="/".join(group))
            panel.set(xscale=SCALES[time], xlabel=time, ylabel=f"macro {metric.replace('_', ' ')}", title=data)
        line[-1].legend(*line[0].get_legend_handles_labels(), loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _groups(rows: Iterable[Row]) -> Groups:
    """Put the seeds of each method and backbone together."""
    groups: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if "skipped" not in row:
            groups[row["method"], row["backbone"]].append(row)
    return dict(groups)


def _table(title: str, groups: Groups, mean: str) -> list[str]:
    lines = _header([title, "backbone", "seeds", *map(_heading, METRICS), TRAINING, TEST, "MB"])
    for (method, backbone), runs in groups.items():
        values = [_over_seeds(runs, mean, metric) for metric in METRICS]
        costs = fmean(map(_training_minutes, runs)), fmean(map(_test_milliseconds, runs))
        memory = fmean(run["peak_gpu_memory_mb"] or run["peak_memory_mb"] for run in runs)
        cells = [method, backbone, str(len(runs)), *values, *(f"{cost:.1f}" for cost in costs), f"{memory:.0f}"]
        lines.append(_line(cells))
    return [*lines, ""]


def _concepts(title: str, groups: Groups) -> list[str]:
    """Tell how the concepts that one model found agree with the categories; nothing where no row has any."""
    told = {group: [run["concepts"] for run in runs if run.get("concepts")] for group, runs in groups.items()}
    known = {group: found for group, found in told.items() if found}
    if not known:
        return []
    lines = _header([title, "backbone", "seeds", "in use", "purity", "NMI"])
    for (method, backbone), found in known.items():
        in_use = f"{fmean(one['in_use'] for one in found):.1f}"
        agreement = [mean_and_deviation([one[name] for one in found]) for name in ("purity", "NMI")]
        lines.append(_line([method, backbone, str(len(found)), in_use, *agreement]))
    return [*lines, ""]


def _categories(groups: Groups, metric: str, means: Sequence[str]) -> list[str]:
    """Write a table of one metric, with a line per category and a column per method."""
    names = sorted({name for runs in groups.values() for run in runs for name in run["metrics"]} - set(MEANS))
    lines = _header([_heading(metric), *("/".join(group) for group in groups)])
    for name in [*names, *means]:
        lines.append(_line([name, *(_over_seeds(runs, name, metric) for runs in groups.values())]))
    return [*lines, ""]


def _of_categories(row: Row, categories: Sequence[str]) -> Row:
    """Leave only some categories in a row, and their mean."""
    if "skipped" in row:
        return row
    if lacking := set(categories) - row["metrics"].keys():
        msg = f"Expected categories of {_label(row)} on {row['data']}, got {sorted(lacking)}, which it lacks."
        raise ValueError(msg)
    metrics = {name: row["metrics"][name] for name in categories}
    macro = {}
    for metric in METRICS:
        known = [values[metric] for values in metrics.values() if values[metric] is not None]
        macro[metric] = fmean(known) if known else None
    return {**row, "metrics": {**metrics, "macro": macro}}


def _over_seeds(runs: Sequence[Row], row: str, metric: str) -> str:
    values = [run["metrics"].get(row, {}).get(metric) for run in runs]
    return NOT_EVALUABLE if None in values else mean_and_deviation(values)


def _origin(rows: Sequence[Row]) -> str:
    """Tell where rows come from; several of a kind are all named, as their numbers may not compare."""
    versions = sorted({", ".join(f"{name} {value}" for name, value in row["versions"].items()) for row in rows})
    hardware = sorted({f"{row['hardware']['gpu'] or row['hardware']['cpu']}" for row in rows})
    threads = sorted({row["hardware"]["threads"] for row in rows})
    commits = len({row["commit"] for row in rows})
    several = f"; rows of {commits} commits" if commits > 1 else ""
    return f"{'; '.join(versions)}; {'; '.join(hardware)}, {' or '.join(map(str, threads))} threads{several}."


def _training_minutes(row: Row) -> float:
    return row["train_seconds"] / 60


def _test_milliseconds(row: Row) -> float:
    return 1e3 * row["test_seconds"] / row["test_images"]


def _label(row: Row) -> str:
    return f"{row['method']}/{row['backbone']}"


def _heading(metric: str) -> str:
    level, name = metric.split("_")
    return f"{level} {HEADINGS.get(name, name)}"


def _header(names: Sequence[str]) -> list[str]:
    return [_line(names), "|---" * len(names) + "|"]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
