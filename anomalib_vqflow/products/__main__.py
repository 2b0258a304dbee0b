# SPDX-License-Identifier: Apache-2.0
"""The command ``vqflow-products``, also ``python -m anomalib_vqflow.products``."""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from anomalib_vqflow.command_line import check_checkpoint, stop

if TYPE_CHECKING:
    from anomalib_vqflow.lightning_model import VQFlow

PROGRAM = "vqflow-products"
DESCRIPTION = """Tell which products a trained model knows, add some without training, or remove some, and compare two
models. A model itself is left as it is; another checkpoint is written."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line; None for that of the process.

    Raises:
        SystemExit: With status 2 and a sentence if the command line, the checkpoint or the data are not usable.
    """
    options = _parser().parse_args(arguments)
    check_checkpoint(PROGRAM, options.checkpoint)
    if options.action == "compare":
        check_checkpoint(PROGRAM, options.after)
    if options.action in {"add", "remove"} and options.output.exists():
        stop(PROGRAM, f"{options.output} exists already; choose another name.")

    from anomalib_vqflow.sources import SourceError, load_model  # takes seconds to import

    try:
        model = load_model(options.checkpoint)
        lines = {"list": _list, "add": _add, "remove": _remove, "compare": _compare}[options.action](model, options)
    except (SourceError, OSError, ValueError) as error:
        stop(PROGRAM, str(error))
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def _list(model: "VQFlow", options: argparse.Namespace) -> list[str]:
    del options
    first_added = model.model.concept.codebook.num_codes - len(model.model.added)
    lines = []
    for name, counts in (model.product_counts or {}).items():
        concepts = [k for k, count in enumerate(counts) if count]
        added = ", added" if concepts[0] >= first_added else ""
        lines.append(f"{name}: concepts {', '.join(map(str, concepts))}{added}")
    return lines or ["The model does not know its products by name; they are those that it was trained with."]


def _add(model: "VQFlow", options: argparse.Namespace) -> list[str]:
    from anomalib_vqflow.sources import read_folder, set_up

    from .adding import add_products, count_taken
    from .saving import save_checkpoint

    datamodule = read_folder(options.root, options.categories)
    set_up(datamodule, model, subsets=["train"])
    num_before = model.model.concept.codebook.num_codes
    lines = []
    for product, concept, num_images, found, alarms in add_products(model, datamodule):
        told = "" if math.isnan(alarms) else f"; of images held out in turn, {alarms:.1%} are above the threshold"
        lines.append(f"{product}: concept {concept}, found by {found:.1%} of {num_images} training images{told}")
    for product, (taken, num_images) in count_taken(model, datamodule, num_before).items():
        lines.append(f"{product}: {taken} of {num_images} training images now pass for a new product")
    save_checkpoint(model, options.output)
    return [*lines, f"Written to {options.output}"]


def _remove(model: "VQFlow", options: argparse.Namespace) -> list[str]:
    from .removing import remove_products
    from .saving import save_checkpoint

    shares = remove_products(model, options.products)
    save_checkpoint(model, options.output)
    lines = [
        f"{name}: removed; {share:.1%} of its training images lose their concept" for name, share in shares.items()
    ]
    return [*lines, f"Written to {options.output}"]


def _compare(model: "VQFlow", options: argparse.Namespace) -> list[str]:
    from anomalib_vqflow.sources import load_model, read_folder, set_up

    from .comparing import compare_models

    after, datamodule = load_model(options.after), read_folder(options.root, options.categories)
    set_up(datamodule, after)
    return [
        f"{product}: of {num_images} images, {now_anomalous} are anomalous now, and {now_normal} normal; scores change "
        f"by {mean:+.3f} on average, {largest:.3f} at most"
        for product, num_images, now_anomalous, now_normal, mean, largest in compare_models(model, after, datamodule)
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=DESCRIPTION)
    actions = parser.add_subparsers(dest="action", required=True)
    for action, text in (
        ("list", "tell which products a model knows, and their concepts"),
        ("add", "add products without training; those that the model knows show whether it still knows them"),
        ("remove", "remove products, whose images are foreign from then on"),
        ("compare", "tell how a later model predicts images of the products of an earlier one otherwise"),
    ):
        of_action = actions.add_parser(action, help=text, description=text.capitalize() + ".")
        of_action.add_argument("checkpoint", type=Path, help="model.ckpt of a training")
        if action == "compare":
            of_action.add_argument("after", type=Path, help="model.ckpt of the later one")
        if action in {"add", "compare"}:
            of_action.add_argument(
                "--root", type=Path, required=True, metavar="FOLDER", help="folder of categories in MVTec layout"
            )
            text = "which categories in --root; all by default"
            of_action.add_argument("--categories", nargs="+", metavar="NAME", help=text)
        if action == "remove":
            of_action.add_argument("products", nargs="+", metavar="NAME", help="products to remove")
        if action in {"add", "remove"}:
            of_action.add_argument("--output", type=Path, required=True, metavar="FILE", help="checkpoint to write")
    return parser


if __name__ == "__main__":
    main()
