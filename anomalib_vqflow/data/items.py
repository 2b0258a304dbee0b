# SPDX-License-Identifier: Apache-2.0
"""Items of anomalib's datasets, with images and masks as our readers read them."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from anomalib import TaskType
from anomalib.data import DatasetItem, ImageItem
from anomalib.data.datasets import AnomalibDataset
from anomalib.data.utils import LabelName
from anomalib.data.utils.synthetic import SyntheticAnomalyDataset
from torchvision.tv_tensors import Mask

from anomalib_vqflow.naming import first_names

from .reading import Header, read_image, read_mask

KNOWN_PACKAGES = frozenset({"anomalib", "anomalib_vqflow"})


def check_readers(datasets: Sequence[AnomalibDataset], headers: Mapping[str, Header]) -> None:
    """Refuse images that others read otherwise than we do, where it is others who read them.

    Args:
        datasets: Datasets of a category.
        headers: Headers of their images, by path.

    Raises:
        ValueError: If there are such images; the message names them.
    """
    special = [path for dataset in datasets for path in dataset.samples["image_path"] if not headers[path].is_plain]
    others = [d for d in datasets if isinstance(d, SyntheticAnomalyDataset) or not _has_known_items(d)]
    if special and others:
        msg = (
            f"{type(others[0]).__name__} reads images by itself, and misreads those of more than 8 bits or with an "
            f"orientation in EXIF: {first_names(special)}. Convert them to upright images of 8 bits, or use other data."
        )
        raise ValueError(msg)


def mask_files(mask_path: object) -> list[str]:
    """List the files of a mask as data frames hold them: a path, a list of paths, or something empty."""
    if isinstance(mask_path, list):
        return mask_path
    return [mask_path] if isinstance(mask_path, str) and mask_path else []


def read_item(dataset: AnomalibDataset, index: int, bit_depth: int | None) -> DatasetItem:
    """Read an item of a dataset by our readers; of images with depth, the image without it.

    Args:
        dataset: Any dataset; one with items of its own kind reads them itself.
        index: Row of its samples.
        bit_depth: See :func:`.read_image`.

    Returns:
        The item. Several masks of an image are united.
    """
    if not _has_known_items(dataset):
        return dataset[index]
    sample = dataset.samples.iloc[index]
    label, masks = sample.label_index, mask_files(sample.get("mask_path"))
    image, mask = read_image(sample.image_path, bit_depth), None
    if dataset.task == TaskType.SEGMENTATION:
        mask = Mask(torch.zeros(image.shape[-2:], dtype=torch.uint8))
        if label == LabelName.ABNORMAL:
            mask = Mask(torch.stack([read_mask(path) for path in masks]).any(dim=0), dtype=torch.uint8)
    if dataset.augmentations is not None:
        image, mask = dataset.augmentations(image, mask) if mask is not None else (dataset.augmentations(image), None)
    is_known = label != LabelName.UNKNOWN
    return cast(
        "DatasetItem",
        ImageItem(
            image=image,
            gt_mask=mask if is_known else None,
            gt_label=torch.tensor(int(label)) if is_known else None,
            image_path=sample.image_path,
            mask_path=masks[0] if masks else sample.get("mask_path"),
        ),
    )


def _has_known_items(dataset: AnomalibDataset) -> bool:
    return type(dataset).__getitem__.__module__.split(".")[0] in KNOWN_PACKAGES
