# SPDX-License-Identifier: Apache-2.0
"""Find the model and the data that a command line names, or say in one sentence why not."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast

import torch
import yaml
from anomalib.data import AnomalibDataModule, ImageBatch
from jsonargparse import ArgumentError, ArgumentParser
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader, Dataset, Subset

from anomalib_vqflow.checkpoint import CHECKPOINT_KEY, NO_CHECKPOINT
from anomalib_vqflow.data import MultiCategory
from anomalib_vqflow.data.resize import resize_images
from anomalib_vqflow.lightning_model import VQFlow


class SourceError(ValueError):
    """What the user named can't be used; the message says what was expected and what came."""


def load_model(path: Path) -> VQFlow:
    """Load a trained model, on a GPU if there is one, in eval mode.

    Raises:
        SourceError: If the file is no checkpoint of VQFlow, or one of another version.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (*NO_CHECKPOINT, ValueError) as error:
        msg = f"{path} is no checkpoint, or a damaged one; expected the model.ckpt of a VQFlow training."
        raise SourceError(msg) from error
    if not isinstance(checkpoint, dict) or CHECKPOINT_KEY not in checkpoint:
        msg = f"{path} is not a checkpoint of VQFlow; expected the model.ckpt of a VQFlow training."
        raise SourceError(msg)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return cast("VQFlow", VQFlow.load_from_checkpoint(path, map_location=device)).eval()
    except (*NO_CHECKPOINT, ValueError) as error:
        msg = f"{path} does not fit this version of VQFlow: {error}"
        raise SourceError(msg) from error


def read_folder(root: Path, categories: list[str] | None) -> MultiCategory:
    """Take all categories of a folder in MVTec layout, or some; raises :class:`SourceError` if there are none."""
    try:
        return MultiCategory(root, categories or "all", num_workers=0)
    except (OSError, ValueError) as error:
        raise SourceError(str(error)) from error


def read_file(path: Path, *, is_config: bool) -> AnomalibDataModule:
    """Build the datamodule that a YAML file describes, as for ``anomalib train --data``.

    Args:
        path: The file.
        is_config: Whether it is the configuration of a training, of which ``data`` is used.

    Raises:
        SourceError: If the file is missing or describes no datamodule.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        msg = f"cannot read {path}: {error}"
        raise SourceError(msg) from error
    block = content.get("data") if is_config and isinstance(content, dict) else content
    if not isinstance(block, dict) or "class_path" not in block:
        place = "a block `data` with `class_path` and `init_args`" if is_config else "`class_path` and `init_args`"
        msg = f"{path} describes no datamodule; expected {place}."
        raise SourceError(msg)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(AnomalibDataModule, "data", required=True)
    try:
        return parser.instantiate_classes(parser.parse_object({"data": block})).data
    except (ArgumentError, AttributeError, ImportError, KeyError, OSError, TypeError, ValueError) as error:
        msg = f"the datamodule in {path} can't be built: {_reasons(error)}"
        raise SourceError(msg) from error


def set_up(datamodule: AnomalibDataModule, model: VQFlow, subsets: Sequence[str] = ("train", "test")) -> None:
    """Download what a datamodule needs, and set it up with images read and resized as in the training of a model.

    Args:
        datamodule: The data.
        model: The model.
        subsets: Of which there must be images.

    Raises:
        SourceError: If there are no images, or some that can't be used.
    """
    try:
        datamodule.prepare_data()
        datamodule.setup()
        model.agree_with(datamodule)
    except (OSError, RuntimeError, ValueError) as error:
        raise SourceError(str(error)) from error
    for subset in subsets:
        if not len(getattr(datamodule, f"{subset}_data", ())):
            msg = f"The data ({datamodule.name}) have no {subset} images, which are needed."
            raise SourceError(msg)
    if model.input_size is not None:
        resize_images(datamodule, model.input_size)


def evenly_drawn(images: Dataset, most: int) -> Subset:
    """Take an evenly drawn share of ``most`` images, or all if they are fewer, in order."""
    total = len(cast("Sequence[object]", images))
    drawn = min(total, most)
    return Subset(images, [index * total // drawn for index in range(drawn)])


def loader_of(images: Dataset, datamodule: AnomalibDataModule) -> DataLoader:
    """Load images of a datamodule in order, each once, as it loads those of a test."""
    return DataLoader(
        images,
        batch_size=datamodule.eval_batch_size,
        num_workers=datamodule.num_workers,
        collate_fn=datamodule.external_collate_fn or ImageBatch.collate,
    )


def read_batches(batches: Iterable[ImageBatch], description: str) -> Iterator[ImageBatch]:
    """Read batches, with a progress bar on a terminal; raises :class:`SourceError` if an image can't be read."""
    console = Console(stderr=True)
    try:
        yield from track(batches, description, console=console, transient=True, disable=not console.is_terminal)
    except (OSError, SyntaxError, ValueError) as error:  # of the reading; those of the reader don't come here
        msg = f"cannot read the {description}: {error}"
        raise SourceError(msg) from error


def _reasons(error: Exception) -> str:
    """Take out of jsonargparse's message what the user can change, without the values and types that were tried."""
    _, _, text = str(error).rpartition("Errors:\n")
    lines = [line.strip().removeprefix("- ") for line in text.partition("Given value type:")[0].splitlines()]
    reasons = " ".join(line for line in lines if line and "NoneType" not in line)
    return reasons.replace("Expected a dot import path string:", "there is no datamodule of the name")
