# SPDX-License-Identifier: Apache-2.0
"""Which maps a timm backbone gives, and which of them a model uses."""

import difflib
import functools
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import timm
import torch
from timm.models import FeatureInfo
from torch import nn

Layer = int | str
"""Index, where negative ones count from the end, or timm's module name of a map that a backbone gives."""


def feature_info(body: nn.Module) -> FeatureInfo:
    """Get what timm tells about the maps of a feature extractor."""
    return cast("FeatureInfo", body.feature_info)


def choose_layers(
    backbone: str, layers: Sequence[Layer | Sequence[Layer]] | None, num_layers: int
) -> list[tuple[int, ...]]:
    """Translate the user's layers to indices of the maps that a backbone gives.

    Args:
        backbone: Name of a timm model with ``features_only`` support.
        layers: Layers, fine to coarse, or shallow to deep; a group of them is averaged. None for as many as
            ``num_layers``, and at least two: the last ones of a pyramid; evenly spread blocks, up to the last one, of a
            backbone whose maps are all of one stride, such as a plain vision transformer.
        num_layers: How many, if ``layers`` is None; fewer if the backbone has fewer.

    Returns:
        Indices of each layer, ascending; of one map, or of the maps of a group.

    Raises:
        ValueError: If the backbone or a layer does not exist, or fewer than two layers are left, or their order is
            another.

    Example:
        >>> choose_layers("resnet18", None, 3)
        [(2,), (3,), (4,)]
        >>> choose_layers("vit_small_patch14_reg4_dinov2", None, 4)
        [(2,), (5,), (8,), (11,)]
        >>> choose_layers("vit_small_patch14_reg4_dinov2", [[2, 3, 4], ["blocks.6", 7], -1], 4)
        [(2, 3, 4), (6, 7), (11,)]
    """
    info = _describe(backbone).info
    names, strides = [str(entry["module"]) for entry in info], [entry["reduction"] for entry in info]
    if layers is None:
        count = min(max(num_layers, 2), len(names))
        if len(set(strides)) > 1:
            return [(index,) for index in range(len(names) - count, len(names))]
        return [(round((place + 1) * len(names) / count) - 1,) for place in range(count)]
    groups = [_indices(backbone, layer, names) for layer in layers]
    if len(groups) < 2 or any(low[-1] >= high[-1] for low, high in pairwise(groups)):
        msg = f"layers must name at least two different layers, fine to coarse, got {list(layers)} of {names}."
        raise ValueError(msg)
    for group in groups:
        if len({strides[index] for index in group}) > 1:
            msg = f"layers: only maps of one stride can be averaged, got {[names[index] for index in group]}."
            raise ValueError(msg)
    return groups


def common_stride(backbone: str) -> int | None:
    """Get the stride of all maps of a backbone, which is the patch size of a plain vision transformer.

    Args:
        backbone: Name of a timm model with ``features_only`` support.

    Returns:
        Pixels; None if its maps have different strides.

    Example:
        >>> common_stride("vit_small_patch14_reg4_dinov2"), common_stride("resnet18")
        (14, None)
    """
    strides = {int(entry["reduction"]) for entry in _describe(backbone).info}
    return strides.pop() if len(strides) == 1 else None


@functools.cache
def _describe(backbone: str) -> FeatureInfo:
    """Build a backbone on the meta device to see which maps it gives."""
    try:
        with torch.device("meta"):
            return feature_info(timm.create_model(backbone, pretrained=False, features_only=True))
    except (RuntimeError, OSError) as error:  # OSError: a model from the hub whose description cannot be had
        near = difflib.get_close_matches(backbone.split(".")[0], timm.list_models(), n=8)
        msg = (
            f"timm cannot build backbone '{backbone}' with features_only: {error} Similar names: {near}; "
            "timm.list_models() gives all."
        )
        raise ValueError(msg) from error


def _indices(backbone: str, layer: Layer | Sequence[Layer], names: Sequence[str]) -> tuple[int, ...]:
    """Translate a layer or a group of layers."""
    indices = set()
    for member in [layer] if isinstance(layer, int | str) else layer:
        known = names.index(member) if member in names else member
        if not isinstance(known, int) or not -len(names) <= known < len(names):
            msg = f"layers: backbone '{backbone}' has no layer {member!r}. It has 0 to {len(names) - 1}, named {names}."
            raise ValueError(msg)
        indices.add(known % len(names))
    if not indices:
        msg = f"layers: a group must name at least one layer of {list(names)}, got {layer!r}."
        raise ValueError(msg)
    return tuple(sorted(indices))
