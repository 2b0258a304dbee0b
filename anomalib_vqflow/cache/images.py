# SPDX-License-Identifier: Apache-2.0
"""Training images as their cached feature maps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from anomalib.data import ImageBatch
from pandas import DataFrame
from torch import Tensor
from torch.utils.data import Dataset

from anomalib_vqflow.features import Features

from .store import FeatureStore


@dataclass
class FeatureBatch(ImageBatch):
    """A training batch with the backbone's maps. Its images are black and only have the right shape."""

    features: Features | None = None


class Layout(NamedTuple):
    """How an image's maps lie in one row of numbers: fine to coarse, each of them channels last, as it is computed."""

    shapes: list[tuple[int, int, int]]  # (h, w, C) of every map
    image_size: tuple[int, int]  # height and width of the images that the dataset yields, in pixels

    @property
    def num_values(self) -> int:
        """Numbers of an image."""
        return sum(height * width * channels for height, width, channels in self.shapes)

    def unpack(self, rows: Sequence[Tensor]) -> Features:
        """Turn rows into maps.

        Args:
            rows: One of shape ``(num_values,)`` for each image.

        Returns:
            The maps, in the dtype of the rows and channels last in memory, as the backbone gives them.
        """
        maps, start = [], 0
        for height, width, channels in self.shapes:
            stop = start + height * width * channels
            values = torch.stack([row[start:stop] for row in rows])
            maps.append(values.unflatten(1, (height, width, channels)).permute(0, 3, 1, 2))
            start = stop
        return Features(maps[:-1], maps[-1])


def layout_of(features: Features, image_size: tuple[int, int]) -> Layout:
    """Tell how the maps of an image will be kept.

    Args:
        features: Maps of any number of images.
        image_size: Height and width of the images that the dataset yields, in pixels.

    Returns:
        The layout.
    """
    shapes = [(m.shape[2], m.shape[3], m.shape[1]) for m in (*features.details, features.semantic)]
    return Layout(shapes, image_size)


def pack(features: Features) -> Tensor:
    """Put the maps of each image in a row.

    Args:
        features: Maps of a batch of images.

    Returns:
        Rows of shape ``(B, num_values)``.
    """
    maps = (*features.details, features.semantic)
    return torch.cat([m.permute(0, 2, 3, 1).flatten(1) for m in maps], dim=1)


class CachedImages(Dataset):
    """The images of a dataset, in its order, as their cached maps.

    Args:
        samples: The dataset's frame.
        keys: Key of each image's record.
        store: The records.
        layout: How the maps lie in a record.
    """

    def __init__(self, samples: DataFrame, keys: Sequence[str], store: FeatureStore, layout: Layout) -> None:
        self.samples = samples  # some samplers want to know the categories
        self.paths = [str(path) for path in samples["image_path"]]
        self.keys = keys
        self.store = store
        self.layout = layout

    def __len__(self) -> int:
        """Count the images."""
        return len(self.keys)

    def __getitem__(self, index: int) -> tuple[str, Tensor]:
        """Get an image's path and the row of its maps.

        Args:
            index: Row of ``samples``.

        Returns:
            The path, and numbers of shape ``(num_values,)``.

        Raises:
            OSError: If the record has been deleted or damaged since training started.
        """
        try:
            return self.paths[index], self.store.read(self.keys[index])
        except (OSError, KeyError) as error:
            msg = (
                f"The cached maps of {self.paths[index]} got lost while training ({error}). Resume from the last "
                "checkpoint: what is missing will be computed again."
            )
            raise OSError(msg) from error

    @property
    def collate_fn(self) -> Callable[[list[tuple[str, Tensor]]], FeatureBatch]:
        """Collate function that makes a :class:`FeatureBatch`."""
        return self._collate

    def _collate(self, items: list[tuple[str, Tensor]]) -> FeatureBatch:
        paths, rows = zip(*items, strict=True)
        images = torch.zeros(1).expand(len(items), 3, *self.layout.image_size)
        return FeatureBatch(image=images, image_path=list(paths), features=self.layout.unpack(rows))
