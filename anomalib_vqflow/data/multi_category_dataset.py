# SPDX-License-Identifier: Apache-2.0
"""Datasets of several categories side by side, as one anomalib dataset."""

from collections.abc import Callable, Mapping
from typing import cast

import pandas as pd
import torch
from anomalib import TaskType
from anomalib.data import DatasetItem, ImageBatch, ImageItem
from anomalib.data.datasets import AnomalibDataset
from anomalib.data.utils import LabelName
from torch import Tensor
from torchvision.transforms.v2 import Transform
from torchvision.tv_tensors import Mask

from .files import UNREADABLE
from .items import mask_files, read_item


class MultiCategoryDataset(AnomalibDataset):
    """Several single-category datasets as one.

    Every item is what the dataset it comes from would give, but read by our readers, and with that dataset's own task:
    images of a category without masks have ``gt_mask=None``. The frame ``samples`` has a column ``category``, for
    evaluation only: no item carries it.

    Args:
        datasets: Dataset of each category; empty ones are allowed.

    Attributes:
        bit_depth: Bits that files of 16 bits really use; None until it is known.

    Raises:
        ValueError: If ``datasets`` is empty.
    """

    def __init__(self, datasets: Mapping[str, AnomalibDataset]) -> None:
        if not datasets:
            msg = "Expected at least one dataset, got none; pass the dataset of each category."
            raise ValueError(msg)
        self.by_category = dict(datasets)
        self.bit_depth: int | None = None
        super().__init__()
        for dataset in self.by_category.values():
            _correct_task(dataset)
        tasks = [dataset.task for dataset in self.by_category.values()]
        frames = [
            dataset.samples.assign(
                category=name,
                category_row=range(len(dataset)),
                has_mask=dataset.task == TaskType.SEGMENTATION,
            )
            for name, dataset in self.by_category.items()
        ]
        for frame in frames:
            frame.attrs = {}
        self._samples = pd.concat(frames, ignore_index=True)
        self._samples.attrs["task"] = (TaskType.SEGMENTATION if TaskType.SEGMENTATION in tasks else tasks[0]).value

    @property
    def augmentations(self) -> Transform | None:
        """Transform of the first dataset; setting it sets it for all datasets."""
        return next((dataset.augmentations for dataset in self.by_category.values()), None)

    @augmentations.setter
    def augmentations(self, augmentations: Transform | None) -> None:
        if augmentations is not None:
            for dataset in self.by_category.values():
                dataset.augmentations = augmentations

    def batch_groups(self) -> list[int]:
        """Tell which images may share a batch, because their ground truth is known to the same extent.

        Returns:
            One number per image: images of equal number have masks, or labels, or neither, all together.
        """
        known = self.samples["label_index"] != LabelName.UNKNOWN
        return (known.astype(int) + (known & self.samples["has_mask"]).astype(int)).tolist()

    def mask_paths(self) -> list[list[str]]:
        """List the mask files of each image; none for normal images, and for categories without masks."""
        if "mask_path" not in self.samples:
            return [[] for _ in range(len(self))]
        anomalous = (self.samples["label_index"] == LabelName.ABNORMAL) & self.samples["has_mask"]
        paths = self.samples["mask_path"].where(anomalous, "")
        return [mask_files(path) for path in paths]

    def __getitem__(self, index: int) -> DatasetItem:
        """Read one image with its ground truth.

        Args:
            index: Row of ``samples``.

        Returns:
            The item, as its own dataset reads it.

        Raises:
            ValueError: If the image or its mask cannot be decoded.
        """
        sample = self.samples.iloc[index]
        try:
            return read_item(self.by_category[sample.category], int(sample.category_row), self.bit_depth)
        except UNREADABLE as error:
            mask = f" or its mask {sample.mask_path}" if sample.get("mask_path") else ""
            msg = f"Cannot read the image {sample.image_path}{mask}: {error}. Replace or remove the file."
            raise ValueError(msg) from error

    @property
    def collate_fn(self) -> Callable:
        """Collate function that allows images with and without masks in one batch."""
        return collate


def _correct_task(dataset: AnomalibDataset) -> None:
    """Let a dataset that has no mask at all be one of labels; anomalib's ``BMAD`` and ``VAD`` would look for masks."""
    anomalous = dataset.samples[dataset.samples["label_index"] == LabelName.ABNORMAL]
    masks = anomalous.get("mask_path", pd.Series(dtype=object))
    if len(anomalous) and not any(map(mask_files, masks)):
        dataset.samples.attrs["task"] = TaskType.CLASSIFICATION.value


def collate(items: list[ImageItem]) -> ImageBatch:
    """Collate items of which some may lack a mask.

    anomalib decides by the first item which fields a batch has. Here a normal image without a mask gets an empty one
    if others of the batch have masks (that is its true mask); if an anomalous image lacks its mask, the batch has no
    masks at all, so that no metric takes an unknown mask for an empty one. The dataloaders of
    :class:`~anomalib_vqflow.data.MultiCategory` keep images with and without masks in batches of their own for
    evaluation, so that nothing gets lost there.

    Args:
        items: Items of a batch; they may differ in size.

    Returns:
        The batch; smaller images are resized to the largest, as anomalib does.

    Example:
        >>> import torch
        >>> image, mask = torch.zeros(3, 8, 8), torch.zeros(8, 8, dtype=torch.bool)
        >>> with_mask = ImageItem(image=image, gt_mask=mask, gt_label=torch.tensor(0))
        >>> without_mask = ImageItem(image=image, gt_label=torch.tensor(1))
        >>> collate([with_mask, without_mask]).gt_mask is None
        True
    """
    lacking = [item for item in items if item.gt_mask is None]
    if len(lacking) < len(items) and all(item.gt_label is not None and not item.gt_label for item in lacking):
        for item in lacking:
            size = cast("Tensor", item.image).shape[-2:]
            item.gt_mask = Mask(torch.zeros(size, dtype=torch.bool))
    for field in ("gt_mask", "gt_label", "mask_path"):
        if any(getattr(item, field) is None for item in items):
            for item in items:
                setattr(item, field, None)
    return cast("ImageBatch", ImageBatch.collate(items))
