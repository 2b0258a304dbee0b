# SPDX-License-Identifier: Apache-2.0
"""Arguments of an export, refused before it begins where they could only fail or silently mean something else."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anomalib.deploy import CompressionType
from torch import nn

from anomalib_vqflow.sizes import height_and_width

from .told_scores import peak_threshold

ONNX_OPSET = 18
"""The lowest operator set that torch's exporter writes itself."""

SUFFIXES = {".bin", ".onnx", ".pt", ".xml"}
"""What exports append to names."""


def check_file_name(name: str) -> None:
    """Make sure that a name is one of a file, without folder and suffix.

    Args:
        name: The name.

    Raises:
        ValueError: If it is not.
    """
    if not name or Path(name).name != name or "\\" in name or Path(name).suffix.lower() in SUFFIXES:
        msg = f"model_file_name must be a name without folder and without suffix, such as 'model', got {name!r}."
        raise ValueError(msg)


def size_of_images(input_size: Any) -> tuple[int, int] | None:  # noqa: ANN401  # what users and command lines give
    """Read the size of the images that an exported model takes.

    Args:
        input_size: Height and width in pixels, one number for both, or None for any.

    Returns:
        Height and width, or None.

    Raises:
        ValueError: If it is anything else.
    """
    if input_size is None:
        return None
    height, width = height_and_width(input_size)
    return height, width


def compression_named(name: str | None) -> CompressionType | None:
    """Look up a compression, in any case.

    Args:
        name: Its name, or None.

    Returns:
        The compression, or None.

    Raises:
        ValueError: If there is no such compression.
    """
    if name is None:
        return None
    known = {kind.value: kind for kind in CompressionType}
    word = str(getattr(name, "value", name)).lower()
    if word not in known:
        msg = f"compression_type must be one of {', '.join(known)}, or None, got {name!r}."
        raise ValueError(msg)
    return known[word]


def take_map_only(
    arguments: dict[str, Any],
    camera_input: bool,
    input_size: Any,  # noqa: ANN401  # what users and command lines give
    post_processor: nn.Module | None,
) -> bool:
    """Make sure that a model that tells the map only is one that DL Streamer runs.

    Args:
        arguments: Arguments of ``torch.onnx.export``, from which ``map_only``, True or False, is taken out.
        camera_input: Whether the model takes a camera's frames.
        input_size: Height and width of the images; None for any.
        post_processor: Post-processor of the model.

    Returns:
        Whether the model tells the map only.

    Raises:
        ValueError: If it is neither True nor False, or another argument or the model does not go with it.
    """
    if not yes_or_no("map_only", arguments.pop("map_only")):
        return False
    if input_size is None:
        msg = "map_only needs an input_size, because DL Streamer resizes frames to it, best that of the frames."
        raise ValueError(msg)
    if camera_input:
        msg = "map_only does not go with camera_input: DL Streamer prepares frames itself. Leave one of both out."
        raise ValueError(msg)
    if arguments.get("output_names") is not None:
        msg = "map_only has the map for its only output; leave output_names out."
        raise ValueError(msg)
    if peak_threshold(post_processor) is None:
        msg = (
            "map_only needs a model that normalizes its maps, and knows a threshold and scores of normal images; train "
            "with validation images (val_split_mode), and with the post-processor that VQFlow has by default."
        )
        raise ValueError(msg)
    return True


def yes_or_no(name: str, value: Any) -> bool:  # noqa: ANN401  # what users and command lines give
    """Make sure that a switch is on or off.

    Args:
        name: Name of the argument.
        value: True or False.

    Returns:
        The same.

    Raises:
        ValueError: If it is anything else.
    """
    if value not in (True, False):
        msg = f"{name} must be True or False, got {value!r}."
        raise ValueError(msg)
    return bool(value)


def check_onnx_arguments(arguments: dict[str, Any]) -> None:
    """Refuse arguments of ``torch.onnx.export`` that it would replace, or write models with that run nowhere.

    Args:
        arguments: Arguments by name.

    Raises:
        ValueError: If the operator set is not one that torch writes or ONNX knows, or weights are to be left out.
    """
    import onnx

    opset, newest = arguments["opset_version"], onnx.defs.onnx_opset_version()
    if not isinstance(opset, int) or not ONNX_OPSET <= opset <= newest:
        msg = f"opset_version must be a number from {ONNX_OPSET} to {newest}, got {opset!r}."
        raise ValueError(msg)
    if not arguments.get("export_params", True):
        msg = "export_params must be True: a model without weights predicts nothing."
        raise ValueError(msg)


def known_outputs(names: Sequence[str] | None, known: Sequence[str], default: Sequence[str]) -> list[str]:
    """Read which outputs an exported model shall have.

    Args:
        names: What the user asks for, or None.
        known: All that the model can tell.
        default: What it tells if the user asks for nothing.

    Returns:
        Names of outputs.

    Raises:
        ValueError: If the model does not tell one of them.
    """
    wanted = list(default if names is None else [names] if isinstance(names, str) else names)
    if not wanted or not set(wanted) <= set(known):
        msg = f"output_names must be some of {', '.join(known)}, got {names!r}."
        raise ValueError(msg)
    return wanted
