# SPDX-License-Identifier: Apache-2.0
"""The command ``vqflow-repository``, also ``python -m anomalib_vqflow.model_server``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .repository import CONFIGURATION, RepositoryError, add_version


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line; None for that of the process.

    Raises:
        SystemExit: With status 2 and a sentence if the model, the name or the folder is not usable.
    """
    parser = argparse.ArgumentParser(
        prog="vqflow-repository",
        description="Add an exported model to a folder that OpenVINO Model Server serves, as the next version of its "
        "name. Nothing is overwritten.",
    )
    parser.add_argument("model", type=Path, help="model.xml of an export to OpenVINO")
    parser.add_argument("repository", type=Path, help="folder of all models, new or made by this command")
    parser.add_argument("--name", required=True, help="what clients call the model")
    options = parser.parse_args(arguments)
    try:
        version = add_version(options.model, options.repository, options.name)
    except RepositoryError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"Cannot write {error.filename2 or error.filename} ({error.strerror}).")
    sys.stdout.write(
        f"Version {version.name} of {options.name} is in {version}, for {options.repository / CONFIGURATION}.\n"
    )


if __name__ == "__main__":
    main()
