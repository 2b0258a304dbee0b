# SPDX-License-Identifier: Apache-2.0
"""The command ``vqflow-config``, which finds configurations of this package and of runs; standard library only."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

PACKAGE = Path(__file__).absolute().parent
FOLDERS = (PACKAGE / "configs", PACKAGE.parent / "configs")
"""Where the files are: in the package if it was installed from a wheel, beside it in a checkout."""

COMMON_ARGUMENTS = ("model", "data", "trainer")
"""What the commands train, fit, validate, test, predict and export all take."""


def configurations() -> dict[str, Path]:
    """Find the configuration files that come with the package.

    Returns:
        Path of each file by its name without suffix, in alphabetical order; those of data alone are ``data/visa`` and
        so on.

    Raises:
        FileNotFoundError: If the installation lacks them.

    Example:
        >>> configurations()["light_cpu"].name
        'light_cpu.yaml'
    """
    for folder in FOLDERS:
        if files := sorted(folder.rglob("*.yaml")):
            return {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}
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


def configuration_of_run(run: Path) -> Path:
    """Make a configuration that every command of anomalib takes from the one that a training wrote.

    anomalib writes all arguments of its command into ``config.yaml``, and not every command takes all of them.

    Args:
        run: Folder of the run, or its ``config.yaml``.

    Returns:
        Path of the new file beside it, ``vqflow.yaml``, with the model, the data and the trainer.

    Raises:
        OSError: If it cannot be read or written.
    """
    path = run / "config.yaml" if run.is_dir() else run
    blocks = re.split(r"^(?=\w)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    kept = [block for block in blocks if block.partition(":")[0] in COMMON_ARGUMENTS]
    path.with_name("vqflow.yaml").write_text("".join(kept), encoding="utf-8")
    return path.with_name("vqflow.yaml")


def main(arguments: Sequence[str] | None = None) -> None:
    """List the configurations, or print the path of one, or of that of a run.

    Args:
        arguments: Command line; None for that of the process.

    Raises:
        SystemExit: With status 2 and a sentence if there is no configuration of that name, or in that folder.
    """
    parser = argparse.ArgumentParser(
        prog="vqflow-config",
        description="Print the path of a configuration file of this package, or list all of them.",
        epilog='Example: anomalib train --config "$(vqflow-config light_cpu)" --data.root products',
    )
    parser.add_argument(
        "name",
        nargs="?",
        help="configuration whose path is printed, or folder of a training, for which one is made that all commands "
        "take; without it, all are listed",
    )
    name = parser.parse_args(arguments).name
    paths = configurations()
    if name is None:
        width = max(map(len, paths))
        for known, path in paths.items():
            sys.stdout.write(f"{known:<{width}}  {purpose(path)}\n")
    elif name in paths:
        sys.stdout.write(f"{paths[name]}\n")
    elif Path(name).exists():
        try:
            sys.stdout.write(f"{configuration_of_run(Path(name))}\n")
        except OSError as error:
            parser.error(f"{name} is no run of `anomalib train`, which writes a config.yaml ({error})")
    else:
        parser.error(f"there is no configuration {name!r}; choose one of {', '.join(paths)}")
