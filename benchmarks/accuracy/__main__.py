# SPDX-License-Identifier: Apache-2.0
"""Measure the accuracy of methods, compare them, and write tables.

    python -m benchmarks.accuracy run benchmarks/accuracy/dev15.yaml
    python -m benchmarks.accuracy compare results/accuracy/dev15 vqflow patchcore_one_bank
    python -m benchmarks.accuracy report results/accuracy/dev15 --into docs/results.md --plot docs/accuracy.png

`run` does the runs of a file that have no result yet, each in a process of its own, and can be stopped and repeated at
any time; started twice, it shares the runs out. Rows are in `rows.jsonl`, scores of test images beside it.
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from .plan import Run, read_plan
from .store import Row, Store


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says.

    Args:
        arguments: Command line; None for that of the process.

    Returns:
        0, or 1 if a run failed or there is none of the name.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands.add_parser("run", help="do the runs that have no result yet"))
    _add_compare(commands.add_parser("compare", help="tell whether one method is better than another"))
    _add_report(commands.add_parser("report", help="write tables and a plot"))
    options = parser.parse_args(arguments)
    options.command = shlex.join(["python", "-m", "benchmarks.accuracy", *arguments])
    return options.function(options)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", type=Path, help="YAML file, see benchmarks/accuracy/plan.py")
    parser.add_argument("--results", type=Path, help="folder of the rows; results/accuracy/NAME by default")
    parser.add_argument("--only", nargs="+", default=[], metavar="PART", help="runs whose names have all these parts")
    parser.add_argument("--key", help="the one run with this key")
    parser.add_argument("--list", action="store_true", help="tell key, name and state of the runs, and do none")
    parser.add_argument("--in-process", action="store_true", help="do them in this process, one after the other")
    parser.set_defaults(function=run)


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", type=Path, help="folder of the rows")
    parser.add_argument("first", help="method, or method/backbone")
    parser.add_argument("second", help="likewise")
    parser.add_argument("--data", help="name of the data; all by default")
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--categories", nargs="+", help="categories that count, such as those not used for tuning")
    parser.set_defaults(function=compare)


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", type=Path, nargs="+", help="folders of rows")
    parser.add_argument("--per-category", action="store_true", help="a table for each metric, with all categories")
    parser.add_argument("--categories", nargs="+", help="categories in the macro means; then there is no pooled table")
    parser.add_argument("--into", type=Path, help="file to write into, between markers; printed by default")
    parser.add_argument("--plot", type=Path, help="image file for a plot of accuracy beside time")
    parser.set_defaults(function=report)


def run(options: argparse.Namespace) -> int:
    """Do the runs of a plan that have no result yet; if one fails, the others are done all the same."""
    runs = read_plan(options.plan)
    wanted = [r for r in runs if options.key in (None, r.key) and all(part in str(r) for part in options.only)]
    if not wanted:
        print(f"{options.plan} has no such run; `run {options.plan} --list` tells their names.", file=sys.stderr)
        return 1
    store = Store(options.results or Path("results", "accuracy", options.plan.stem))
    failed = []
    for one in wanted:
        if options.list or one.key in store.finished():
            print(f"{one.key} {one}: {'done' if one.key in store.finished() else 'to do'}", flush=True)
        elif not (_run_here if options.in_process else _run_in_new_process)(one, store, options):
            failed.append(one)
    for one in failed:
        print(f"{one}: failed, see above", file=sys.stderr)
    return 1 if failed else 0


def _run_here(one: Run, store: Store, options: argparse.Namespace) -> bool:
    from .running import execute  # it imports all that trains, which the other commands need not

    print(f"{one}: {_outcome(execute(one, store, options.command))}", flush=True)
    return True


def _run_in_new_process(one: Run, store: Store, options: argparse.Namespace) -> bool:
    """Do a run whose memory and mishaps are its own."""
    words = [options.plan, "--results", store.folder, "--key", one.key, "--in-process"]
    command = [sys.executable, "-m", "benchmarks.accuracy", "run", *map(str, words)]
    return subprocess.run(command, check=False).returncode == 0


def _outcome(row: Row | None) -> str:
    if row is None:
        return "another process is at it"
    if "skipped" in row:
        return f"skipped: {row['skipped']}"
    macro = row["metrics"]["macro"]
    return ", ".join(f"{name} {macro[name]:.3f}" for name in ("image_AUROC", "pixel_AP") if macro[name] is not None)


def compare(options: argparse.Namespace) -> int:
    """Print how two methods differ, with intervals."""
    from .comparison import print_comparison

    pair = options.first, options.second
    print_comparison(Store(options.results), *pair, options.data, options.resamples, options.categories)
    return 0


def report(options: argparse.Namespace) -> int:
    """Write the tables, and the plot if there is to be one."""
    from benchmarks.pages import write_between_markers

    from .report import plot, tables

    rows = [row for folder in options.results for row in Store(folder).rows().values()]
    text = tables(rows, options.per_category, options.categories)
    if options.into is None:
        print(text)
    else:
        write_between_markers(text, options.into, f"accuracy of {options.results[0].name}")
    if options.plot is not None:
        plot(rows, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
