# SPDX-License-Identifier: Apache-2.0
"""What an exported model says of itself: ``metadata.json`` beside it, and the same text inside."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from anomalib.post_processing import PostProcessor
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchvision.transforms.v2 import Resize

from anomalib_vqflow.backbones import weights_license
from anomalib_vqflow.conformal import conformal_limit
from anomalib_vqflow.held_out import describe_held_out
from anomalib_vqflow.post_processor import USUAL_RATE, SeparatingPostProcessor
from anomalib_vqflow.quantization import Codebook

from .told_scores import normal_images, peak_threshold

METADATA_FORMAT = 1
METADATA_FILE = "metadata.json"
METADATA_KEY = "vqflow"
"""Name of the metadata inside of a file."""

LEVELS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
"""Shares of normal images below the quantiles of their scores."""

IMAGES = {"layout": "NCHW", "colors": "RGB", "type": "float32", "range": [0, 1]}
FRAMES = {"layout": "NHWC", "colors": "BGR", "type": "uint8", "range": [0, 255]}

COMPONENTS = ("anomalib_vqflow", "anomalib", "torch", "onnx", "openvino")
"""Packages that make an export."""


def describe(
    model: LightningModule,
    file: str,
    input_size: tuple[int, int] | None,
    outputs: Sequence[str],
    compression: str,
    takes_frames: bool,
) -> dict[str, Any]:
    """Describe an exported model.

    Args:
        model: A :class:`.VQFlow`.
        file: Name of the exported file.
        input_size: Height and width of the images that it takes; None for any.
        outputs: Names of its outputs.
        compression: Precision of its weights, such as ``fp32``.
        takes_frames: Whether it takes a camera's frames.

    Returns:
        What JSON can hold.
    """
    arguments: Mapping[str, Any] = {**model.hparams, **(getattr(model, "_loaded_arguments", None) or {})}
    pre_trained = arguments["pre_trained"]
    return {
        "format": METADATA_FORMAT,
        "model": type(model).__name__,
        "file": file,
        "compression": compression,
        "input": {
            "size": None if input_size is None else list(input_size),
            **(FRAMES if takes_frames else IMAGES),
            "bit_depth": model.bit_depth,
        },
        "resize": describe_resize(cast("nn.Module | None", model.pre_processor)),
        "outputs": list(outputs),
        **describe_scores(model),
        "backbone": {
            "name": arguments["backbone"],
            "pre_trained": pre_trained if isinstance(pre_trained, bool) else Path(pre_trained).name,
            "license": weights_license(arguments["backbone"]),
        },
        "versions": versions(),
    }


def describe_scores(model: LightningModule) -> dict[str, Any]:
    """Describe what is needed to read a model's scores and concepts.

    Args:
        model: A :class:`.VQFlow`.

    Returns:
        Entries of the metadata.
    """
    product_counts: Mapping[str, list[int]] | None = getattr(model, "product_counts", None)
    post = cast("nn.Module | None", model.post_processor)
    network = cast("Any", model.model)
    generator = network.anomaly_map_generator
    return {
        "score": {
            "map": generator.score_map,
            "top_k_ratio": generator.top_k_ratio,
            "of_tiles": network.tiles is not None,
        },
        "thresholds": describe_thresholds(post),
        "map_peak_threshold": describe_peak_threshold(post),
        "normal_scores": describe_normal_scores(post),
        "concepts": describe_concepts(cast("Any", model.model).concept.codebook, product_counts),
        "products": sorted(product_counts) if product_counts else None,
    }


def describe_thresholds(post: nn.Module | None) -> dict[str, Any] | None:
    """Describe thresholds of raw scores and maps, how they were set, and what raw values are normalized by.

    Args:
        post: Post-processor of a model.

    Returns:
        ``image`` and ``pixel``; None if the post-processor is none of anomalib's.
    """
    if not isinstance(post, PostProcessor):
        return None
    return {kind: _describe_threshold(post, kind, column) for column, kind in enumerate(("image", "pixel"))}


def _describe_threshold(post: PostProcessor, kind: str, column: int) -> dict[str, Any]:
    raw: Tensor = getattr(post, f"{kind}_threshold")
    limits = [_number(getattr(post, f"{kind}_{end}")) for end in ("min", "max")]
    offsets = getattr(post, f"{kind}_offsets", raw.new_zeros(0))
    known = not raw.isnan().item()
    return {
        "raw": _number(raw),
        "raw_per_concept": [_number(raw + offset) for offset in offsets] or None,
        "told": _number(getattr(post, f"normalized_{kind}_threshold")) if known else None,
        **(_how_set(post, raw, column) if known else {"set_by": None, "false_alarm_rate": None}),
        "normalization": limits if post.enable_normalization and known and None not in limits else None,
    }


def _how_set(post: PostProcessor, raw: Tensor, column: int) -> dict[str, Any]:
    """Find out how a threshold was set: one of a rate is that which the normal scores give."""
    if isinstance(post, SeparatingPostProcessor) and len(post.normal_scores):
        image_rate = post.false_alarm_rate or USUAL_RATE
        rate = image_rate if column == 0 else post.pixel_false_alarm_rate or image_rate
        scores = post.normal_scores[:, column].float().numpy(force=True)
        if np.isfinite(scores).any():
            limit = conformal_limit(scores, rate)
            if limit.threshold == raw.item():
                return {"set_by": "false_alarm_rate", "false_alarm_rate": _number(limit.rate)}
    return {"set_by": "f1_score", "false_alarm_rate": None}


def describe_peak_threshold(post: nn.Module | None) -> dict[str, Any] | None:
    """Describe the threshold for those who only look at the highest value of a map.

    Args:
        post: Post-processor of a model.

    Returns:
        The threshold, and the share of normal validation images above it; None if there is none.
    """
    found = peak_threshold(post)
    return found and {"told": _number(found.threshold), "normal_share": _number(found.normal_share)}


def describe_normal_scores(post: nn.Module | None) -> dict[str, Any] | None:
    """Describe what the exported model tells of the normal validation images.

    Args:
        post: Post-processor of a model.

    Returns:
        Number of images, and quantiles of scores and highest values of maps, of all images and of each concept; raw
        scores, and of how many concepts each may have a threshold of its own under a rate. None if they are not known.
    """
    told = normal_images(post)
    if told is None:
        return None
    values = {"score": told.score, "map_peak": told.map_peak}
    groups = {str(int(k)): told.concept == k for k in told.concept.unique()}
    return {
        "levels": list(LEVELS),
        "all": _quantiles(values, torch.ones_like(told.concept, dtype=torch.bool)),
        "concepts": {name: _quantiles(values, chosen) for name, chosen in groups.items()},
        "num_thresholds": told.num_thresholds,
        "raw": describe_held_out(told.raw.float().numpy(force=True)),
    }


def _quantiles(values: Mapping[str, Tensor], chosen: Tensor) -> dict[str, Any]:
    levels = torch.tensor(LEVELS, dtype=torch.float64)
    found = {name: value[chosen].double().cpu().quantile(levels) for name, value in values.items()}
    return {
        "count": int(chosen.sum()),
        **{name: [round(one, 6) for one in value.tolist()] for name, value in found.items()},
    }


def describe_concepts(codebook: Codebook, product_counts: Mapping[str, list[int]] | None) -> list[dict[str, Any]]:
    """Describe the concepts that are in use.

    Args:
        codebook: Codebook of the concepts.
        product_counts: Training images of each product by concept, if they are known.

    Returns:
        Index, share of the training images, and most frequent product of each.
    """
    counts = product_counts or {}
    shares = (codebook.code_counts / codebook.code_counts.sum().clamp_min(1e-12)).tolist()
    described = []
    for index, share in enumerate(shares):
        by_product = {name: numbers[index] for name, numbers in counts.items() if numbers[index]}
        if codebook.code_counts[index] >= codebook.dead_below or by_product:
            product = max(by_product, key=lambda name: by_product[name], default=None)
            described.append({"index": index, "share": _number(share), "product": product, "products": by_product})
    return described


def describe_resize(pre_processor: nn.Module | None) -> dict[str, Any] | None:
    """Describe how the model resizes images itself.

    Args:
        pre_processor: Pre-processor of a model.

    Returns:
        The first resize of its transform, and all of the transform in words; None if there is none.
    """
    transform = getattr(pre_processor, "transform", None)
    if transform is None:
        return None
    resizes = [part for part in _parts(transform) if isinstance(part, Resize)]
    if not resizes:
        return {"transform": " ".join(repr(transform).split())}
    first = resizes[0]
    return {
        "size": None if first.size is None else list(first.size),
        "interpolation": str(getattr(first.interpolation, "value", first.interpolation)),
        "antialias": bool(first.antialias),
        "transform": " ".join(repr(transform).split()),
    }


def _parts(transform: Any) -> Iterator[Any]:  # noqa: ANN401  # any of torchvision's
    yield transform
    for part in getattr(transform, "transforms", ()):
        yield from _parts(part)


def versions() -> dict[str, str]:
    """Tell the versions of what made an export."""
    return {name: import_module(name).__version__ for name in COMPONENTS}


def as_text(metadata: Mapping[str, Any]) -> str:
    """Write metadata as JSON.

    Args:
        metadata: The metadata.

    Returns:
        Text of one line.

    Raises:
        ValueError: If a number is not finite.
    """
    return json.dumps(metadata, allow_nan=False, ensure_ascii=False)


def write_metadata(folder: Path, metadata: Mapping[str, Any]) -> None:
    """Write metadata beside a model, for people too.

    Args:
        folder: Folder of the model.
        metadata: The metadata.
    """
    text = json.dumps(metadata, allow_nan=False, ensure_ascii=False, indent=1)
    text = re.sub(r"\[\n([^][{}]*)\n *\]", lambda found: f"[{' '.join(found[1].split())}]", text)  # numbers in a line
    (folder / METADATA_FILE).write_text(text + "\n", encoding="utf-8")


def _number(value: Tensor | float) -> float | None:
    """Round to what a number of 32 bits holds; what is not finite is none of JSON's."""
    number = float(value)
    return float(f"{number:.9g}") if math.isfinite(number) else None
