# SPDX-License-Identifier: Apache-2.0
"""Run the quick tests with the oldest stated and with the newest dependencies, in several Pythons.

    python -m tests.tools.compatibility python3.10 python3.13 --folder ~/environments --into docs/compatibility.md

Every Python gets an environment per set of dependencies, which takes minutes and gigabytes. They are kept in the
folder, with the results, so that what was stopped goes on; ``--again`` repeats the tests. The oldest set is the lower
bounds of this package, and the newest of all else. The table is printed, and written between the markers of the file.
The exit code is 1 if an environment could not be made, or a test failed.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from benchmarks.pages import write_between_markers

ROOT = Path(__file__).resolve().parents[2]
OLDEST, NEWEST = "oldest", "newest"
SHOWN = ("anomalib", "torch", "torchvision", "timm", "lightning", "openvino", "numpy", "pandas")
VERSIONS = f"""
import importlib.metadata, json, platform
versions = {{name: importlib.metadata.version(name) for name in {SHOWN}}}
print(json.dumps({{"python": platform.python_version(), **versions}}))
"""


def main() -> int:
    """Make the environments, run the tests, print and write the table; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="+", help="commands or paths of interpreters")
    parser.add_argument("--sets", nargs="+", choices=(OLDEST, NEWEST), default=(OLDEST, NEWEST))
    parser.add_argument("--folder", type=Path, required=True, help="where environments and results are kept")
    parser.add_argument("--into", type=Path, help="Markdown file with markers")
    parser.add_argument("--again", action="store_true", help="repeat tests whose results are in the folder")
    arguments, pytest_arguments = parser.parse_known_args()  # what is not ours is pytest's
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for python in arguments.pythons:
        for kind in arguments.sets:
            place = arguments.folder.resolve() / f"{Path(python).name}-{kind}"
            result = Path(f"{place}.json")
            if arguments.again or not result.exists():
                result.write_text(json.dumps(try_out(python, kind, place, pytest_arguments)), encoding="utf-8")
            rows.append({"set": kind, **json.loads(result.read_text(encoding="utf-8"))})
            print(rows[-1], flush=True)
    text = table(rows)
    print(text)
    if arguments.into:
        write_between_markers(text, arguments.into, "compatibility")
    return int(any("error" in row or row["failed"] for row in rows))


def try_out(python: str, kind: str, place: Path, pytest_arguments: Iterable[str]) -> dict[str, Any]:
    """Make an environment, unless it is there, and run the quick tests in it.

    Args:
        python: Interpreter to make it with.
        kind: Set of dependencies.
        place: Folder of the environment.
        pytest_arguments: Further arguments of pytest.

    Returns:
        Versions, and numbers of tests; or ``error``, the last line of what said why there is no environment.
    """
    own = place / "bin" / "python"
    constraints = Path(f"{place}.txt")
    constraints.write_text("\n".join(lower_bounds()) if kind == OLDEST else "", encoding="utf-8")
    steps = [] if own.exists() else [[python, "-m", "venv", place]]
    steps += [[own, "-m", "pip", "install", "--quiet", "--upgrade", "-e", f"{ROOT}[dev]", "-c", constraints]]
    steps += [[own, "-c", VERSIONS]]
    for step in steps:
        try:
            done = subprocess.run(step, capture_output=True, text=True, check=True)
        except OSError as error:
            return {"python": python, "error": str(error)}
        except subprocess.CalledProcessError as error:
            return {"python": python, "error": (error.stderr.strip() or "no reason given").splitlines()[-1]}
    report = Path(f"{place}.xml")
    start = time.monotonic()
    command = [own, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", f"--junitxml={report}", *pytest_arguments]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    return {**json.loads(done.stdout), **counts(report), "minutes": (time.monotonic() - start) / 60}


def lower_bounds() -> list[str]:
    """Pin what this package needs to the oldest version that it allows."""
    requirements = map(Requirement, importlib.metadata.requires("anomalib-vqflow") or [])
    return [
        f"{requirement.name}=={specifier.version}"
        for requirement in requirements
        if requirement.marker is None
        for specifier in requirement.specifier
        if specifier.operator == ">="
    ]


def counts(report: Path) -> dict[str, int]:
    """Count the tests of a JUnit report; a run that left none has failed once."""
    if not report.exists():
        return {"passed": 0, "failed": 1, "skipped": 0}
    suites = list(ET.parse(report).iter("testsuite"))
    names = ("tests", "failures", "errors", "skipped")
    number = {name: sum(int(suite.get(name, 0)) for suite in suites) for name in names}
    failed = number["failures"] + number["errors"]
    return {"passed": number["tests"] - failed - number["skipped"], "failed": failed, "skipped": number["skipped"]}


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Write a Markdown table of results."""
    heads = ("Python", "set", *SHOWN, "passed", "failed", "skipped", "minutes")
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in rows:
        cells = [row["python"], row["set"]]
        if "error" in row:
            cells += [row["error"], *[""] * (len(heads) - 3)]
        else:
            cells += [*(row[name] for name in (*SHOWN, "passed", "failed", "skipped")), f"{row['minutes']:.0f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
