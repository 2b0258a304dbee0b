# SPDX-License-Identifier: Apache-2.0
"""Training images as their cached feature maps."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from anomalib.data import ImageBatch
from anomalib.data.datasets import AnomalibDataset
from pandas import DataFrame
from torch import Tensor

from anomalib_vqflow.features import Features

from .records import Records, decode


@dataclass
class FeatureBatch(ImageBatch):
    """A training batch with the backbone's maps. Its images are black and only have the right shape."""

    features: Features | None = None


class CachedImages(AnomalibDataset):
    """The images of a dataset, in its order, as their cached maps.

    Args:
        samples: The dataset's frame.
        keys: Key of each image's record.
        records: Records, see :func:`.encode`, of maps of shape ``(T, h, w, C)``, fine to coarse, the last one semantic;
            then of tokens of shape ``(T, C_t)``, if the model takes them.
        image_shape: Shape ``(3, H, W)`` of the images that the dataset yields.
    """

    def __init__(self, samples: DataFrame, keys: Sequence[str], records: Records, image_shape: torch.Size) -> None:
        super().__init__()
        self._samples = samples
        self.paths = [str(path) for path in samples["image_path"]]  # a frame is slow to ask
        self.keys = keys
        self.records = records
        self.image_shape = image_shape

    def __getitem__(self, index: int) -> tuple[str, list[Tensor]]:  # type: ignore[override]
        """Get an image's path and its maps; an error names the image if they got lost since training started."""
        path = self.paths[index]
        try:
            return path, decode(self.records[self.keys[index]])
        except (OSError, KeyError, ValueError) as error:
            msg = f"The cached maps of {path} got lost while training ({error}). Resume to have them computed again."
            raise OSError(msg) from error

    def collate_fn(self, items: list[tuple[str, list[Tensor]]]) -> FeatureBatch:
        """Make a batch of items."""
        paths, maps = zip(*items, strict=True)
        # Channels last in memory, as the backbone gives them, so that convolutions round as without a cache.
        levels = [torch.cat(level) for level in zip(*maps, strict=True)]
        tokens = levels.pop() if levels[-1].ndim == 2 else None
        *details, semantic = [level.permute(0, 3, 1, 2) for level in levels]
        images = torch.zeros(1).expand(len(items), *self.image_shape)
        return FeatureBatch(image=images, image_path=list(paths), features=Features(details, semantic, tokens))
