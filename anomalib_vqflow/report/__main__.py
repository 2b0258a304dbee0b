# SPDX-License-Identifier: Apache-2.0
"""The command ``vqflow-report``, also ``python -m anomalib_vqflow.report``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from anomalib_vqflow.command_line import check_checkpoint, stop

PROGRAM = "vqflow-report"
DESCRIPTION = """Show what a trained model has learned: its concepts with their most typical images, how they relate to
categories, the scores of the test images, the worst mistakes, and the use of the codes. Writes plots as PNG files, and
one HTML page, index.html, that holds all of them."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line; None for that of the process.

    Raises:
        SystemExit: With status 2 and a sentence if the command line, the checkpoint or the data are not usable.
    """
    options = _parser().parse_args(arguments)
    check_checkpoint(PROGRAM, options.checkpoint)
    if options.max_train_images < 1:
        stop(PROGRAM, f"--max-train-images must be at least 1, got {options.max_train_images}.")
    folder = options.output or default_folder(options.checkpoint)

    from anomalib_vqflow.sources import SourceError, load_model, read_file, read_folder  # takes seconds to import

    from .page import write_page

    try:
        model = load_model(options.checkpoint)
        datamodule = (
            read_folder(options.root, options.categories)
            if options.root
            else read_file(options.data or options.config, is_config=options.config is not None)
        )
        page = write_page(model, datamodule, folder, str(options.checkpoint), options.max_train_images)
    except (SourceError, OSError) as error:
        stop(PROGRAM, str(error))
    sys.stdout.write(f"Written to {page}\n")


def default_folder(checkpoint: Path) -> Path:
    """Choose where to write if the user did not: ``report`` beside a checkpoint, or in its run's folder.

    Example:
        >>> default_folder(Path("results/VQFlow/products/v0/weights/lightning/model.ckpt")).as_posix()
        'results/VQFlow/products/v0/report'
    """
    folder = checkpoint.parent
    return (folder.parents[1] if folder.parts[-2:] == ("weights", "lightning") else folder) / "report"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=DESCRIPTION)
    parser.add_argument("checkpoint", type=Path, help="model.ckpt of a training")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, metavar="YAML", help="datamodule, as for `anomalib train --data`")
    source.add_argument("--config", type=Path, metavar="YAML", help="configuration of a training; its data are used")
    source.add_argument("--root", type=Path, metavar="FOLDER", help="folder of categories in MVTec layout")
    parser.add_argument("--categories", nargs="+", metavar="NAME", help="which categories in --root; all by default")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where to write; `report` in the run's folder")
    help_text = "of more training images, take an evenly drawn share of this size (default: %(default)s)"
    parser.add_argument("--max-train-images", type=int, default=2000, metavar="N", help=help_text)
    return parser


if __name__ == "__main__":
    main()
