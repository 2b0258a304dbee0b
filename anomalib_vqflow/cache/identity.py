# SPDX-License-Identifier: Apache-2.0
"""What cached feature maps depend on, as keys; and the refusal of what is not the same at every reading."""

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from anomalib.data import AnomalibDataModule
from anomalib.data.datasets import AnomalibDataset
from anomalib.pre_processing import PreProcessor
from anomalib.pre_processing.utils.spec import transform_to_spec
from torch import nn
from torchvision.transforms.v2 import Transform

from anomalib_vqflow.data.multi_category_dataset import MultiCategoryDataset
from anomalib_vqflow.lightning_model import VQFlow

DISTRIBUTIONS = ("anomalib", "anomalib-vqflow", "opencv-python-headless", "pillow", "timm", "torch", "torchvision")
"""Whose code decodes, resizes and computes."""


def describe(model: VQFlow, precision: str) -> dict[str, object]:
    """Describe all that maps depend on besides the image file and what its dataset does with it.

    Args:
        model: The model, with its weights, on its device.
        precision: The trainer's precision.

    Returns:
        Plain data.
    """
    processor = model.pre_processor
    return {
        "backbone": model.hparams["backbone"],
        "layers": model.hparams["layers"],
        "weights": _hash_weights(model.model.features),
        "pre_processor": _plain(processor.transform) if isinstance(processor, PreProcessor) else None,
        "precision": precision,
        "device": model.device.type,
        "versions": {name: _version(name) for name in DISTRIBUTIONS},
    }


def image_key(dataset: AnomalibDataset, index: int) -> str:
    """Identify an image by the content of its file, and by how its dataset reads it.

    Size and time of the file would be quicker, but they can stay the same when it is replaced.

    Args:
        dataset: The dataset.
        index: Row of the image.

    Returns:
        The key; copies of one file have the same.

    Raises:
        FileNotFoundError: If the file is missing.
    """
    row = dataset.samples.iloc[index]
    part = dataset.parts[row["category"]] if isinstance(dataset, MultiCategoryDataset) else dataset
    path, kind = Path(row["image_path"]), type(part)
    reading = [kind.__module__, kind.__qualname__, _plain(part.augmentations), path.suffix.lower()]
    return hashlib.sha256(path.read_bytes() + json.dumps(reading).encode()).hexdigest()


def check(datamodule: AnomalibDataModule, model: VQFlow) -> None:
    """Refuse training data that has no files, or may not be the same at every reading.

    Args:
        datamodule: The data, set up.
        model: The model.

    Raises:
        TypeError: If the training data is no anomalib dataset with one file for each image.
        ValueError: If there may be something random in how images are read, or the backbone is trained.
    """
    data = getattr(datamodule, "train_data", None)
    if not isinstance(data, AnomalibDataset) or "image_path" not in data.samples or len(data.samples) != len(data):
        msg = (
            f"FeatureCache needs training data with one image file per item, which {type(datamodule).__name__} has "
            "not; leave FeatureCache out."
        )
        raise TypeError(msg)
    processor = model.pre_processor or None
    own = isinstance(processor, PreProcessor) and (
        type(processor).on_train_batch_start is PreProcessor.on_train_batch_start
    )
    if datamodule.external_collate_fn is not None or not (own or processor is None):
        what = "external_collate_fn" if own or processor is None else type(processor).__name__
        msg = f"FeatureCache cannot tell what {what} does to images; leave it or FeatureCache out."
        raise ValueError(msg)
    parts = data.parts.values() if isinstance(data, MultiCategoryDataset) else [data]
    for transform in (getattr(processor, "transform", None), *(part.augmentations for part in parts)):
        _plain(transform)
    if any(parameter.requires_grad for parameter in model.model.features.parameters()):
        msg = "FeatureCache needs a frozen backbone, but parameters of this one require gradients; leave it out."
        raise ValueError(msg)


def _plain(transform: Transform | None) -> object:
    """Describe a transform that is known to be the same at every call."""
    try:
        return transform_to_spec(transform)
    except ValueError as error:
        msg = (
            "FeatureCache needs images that are the same in every pass, and takes only transforms that anomalib stores "
            f"in checkpoints, such as Resize, CenterCrop and Normalize. Remove the augmentation, or FeatureCache: "
            f"{error}."
        )
        raise ValueError(msg) from error


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:  # taken from a folder, or another build of the same library
        return None


def _hash_weights(module: nn.Module) -> str:
    digest = hashlib.sha256(repr(module).encode())
    for name, tensor in module.state_dict().items():
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
