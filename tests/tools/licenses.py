# SPDX-License-Identifier: Apache-2.0
"""List the licenses of all that this package needs, as the installed packages tell them.

    python -m tests.tools.licenses --into docs/compatibility.md

Extras other than those that are named (``--extra lite0``) are left out. The table is printed, and written between the
markers of the file.
"""

import argparse
import importlib.metadata
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.pages import write_between_markers

NONE_TOLD, UNKNOWN = "not told", "UNKNOWN"
MOST_WORDS = 6  # of what is a license's name, and not its text


def main(arguments: list[str] | None = None) -> None:
    """Print the table, and write it.

    Args:
        arguments: Command line; None for that of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extra", nargs="+", default=["lite0"])
    parser.add_argument("--into", type=Path, help="Markdown file with markers")
    options = parser.parse_args(arguments)
    text = table(needed("anomalib-vqflow", options.extra))
    print(text)
    if options.into:
        write_between_markers(text, options.into, "licenses")


def needed(name: str, extras: Collection[str]) -> Iterator[importlib.metadata.Distribution]:
    """Yield the installed packages that a package needs, directly or not, sorted by name, without itself."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = [(name, frozenset(extras))]
    seen = set()
    while waiting:
        name_and_extras = waiting.pop()
        if name_and_extras in seen:
            continue
        seen.add(name_and_extras)
        package, chosen = name_and_extras
        try:
            distribution = importlib.metadata.distribution(package)
        except importlib.metadata.PackageNotFoundError:  # needed on other systems only
            continue
        found[canonicalize_name(package)] = distribution
        for requirement in map(Requirement, distribution.requires or []):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in (*chosen, "")):
                waiting.append((requirement.name, frozenset(requirement.extras)))
    del found[canonicalize_name(name)]
    yield from (found[key] for key in sorted(found))


def license_of(distribution: importlib.metadata.Distribution) -> str:
    """Read the license of a package: its expression, or the name that it gives, or its classifiers."""
    told = distribution.metadata
    if expression := told.get("License-Expression"):
        return expression
    trove = [line.rpartition("::")[2].strip() for line in told.get_all("Classifier", []) if line.startswith("License")]
    name = told.get("License", UNKNOWN).removeprefix("OSI Approved :: ").strip()
    is_name = name != UNKNOWN and len(name.split()) <= MOST_WORDS
    return name if is_name else ", ".join(trove) or NONE_TOLD


def table(packages: Iterable[importlib.metadata.Distribution]) -> str:
    """Write a Markdown table of licenses and the packages that have them."""
    by_license: dict[str, list[str]] = {}
    for package in packages:
        by_license.setdefault(license_of(package), []).append(package.metadata["Name"])
    lines = [f"| {name} | {', '.join(by_license[name])} |" for name in sorted(by_license, key=str.lower)]
    return "\n".join(["| license | packages |", "|---|---|", *lines, ""])


if __name__ == "__main__":
    main()
