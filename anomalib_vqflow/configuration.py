# SPDX-License-Identifier: Apache-2.0
"""The command ``vqflow-config``, which finds the configuration files of this package; standard library only."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

PACKAGE = Path(__file__).absolute().parent
FOLDERS = (PACKAGE / "configs", PACKAGE.parent / "configs")
"""Where the files are: in the package if it was installed from a wheel, beside it in a checkout."""


def configurations() -> dict[str, Path]:
    """Find the configuration files that come with the package.

    Returns:
        Path of each file by its name without suffix, in alphabetical order.

    Raises:
        FileNotFoundError: If the installation lacks them.

    Example:
        >>> configurations()["light_cpu"].name
        'light_cpu.yaml'
    """
    for folder in FOLDERS:
        if files := sorted(folder.glob("*.yaml")):
            return {path.stem: path for path in files}
    msg = f"There are no configuration files in {' or '.join(map(str, FOLDERS))}. Reinstall anomalib-vqflow."
    raise FileNotFoundError(msg)


def purpose(path: Path) -> str:
    """Read what a configuration is for: its first line, a comment.

    Args:
        path: Path of the file.

    Returns:
        One sentence.
    """
    with path.open(encoding="utf-8") as file:
        return file.readline().removeprefix("#").strip()


def main(arguments: Sequence[str] | None = None) -> None:
    """List the configurations, or print the path of one.

    Args:
        arguments: Command line; None for that of the process.

    Raises:
        SystemExit: With status 2 and a sentence if there is no configuration of that name.
    """
    parser = argparse.ArgumentParser(
        prog="vqflow-config",
        description="Print the path of a configuration file of this package, or list all of them.",
        epilog='Example: anomalib train --config "$(vqflow-config light_cpu)" --data.root products',
    )
    parser.add_argument("name", nargs="?", help="configuration whose path is printed; without it, all are listed")
    name = parser.parse_args(arguments).name
    paths = configurations()
    if name is None:
        width = max(map(len, paths))
        for known, path in paths.items():
            sys.stdout.write(f"{known:<{width}}  {purpose(path)}\n")
    elif name in paths:
        sys.stdout.write(f"{paths[name]}\n")
    else:
        parser.error(f"there is no configuration {name!r}; choose one of {', '.join(paths)}")
