# SPDX-License-Identifier: Apache-2.0
"""Images of any sizes in one size, where no trainer tells a datamodule which."""

from anomalib.data import AnomalibDataModule
from torchvision.transforms.v2 import Compose, Resize

from .multi_category_dataset import MultiCategoryDataset


def resize_images(datamodule: AnomalibDataModule, size: tuple[int, int]) -> None:
    """Let a datamodule read all images in one size, after its own augmentations, until it is set up again.

    anomalib's datamodules do so in a training, to the size that the model of their trainer takes. Without a trainer, as
    in an export, images stay as they are, and those of different sizes do not fit into a batch.

    Args:
        datamodule: A datamodule that is set up.
        size: Height and width, in pixels.
    """
    resize = Resize(list(size), antialias=True)
    for name in ("train_data", "val_data", "test_data"):
        data = getattr(datamodule, name, None)
        datasets = data.by_category.values() if isinstance(data, MultiCategoryDataset) else [data]
        for dataset in filter(None, datasets):
            own = dataset.augmentations
            dataset.augmentations = resize if own is None else Compose([own, resize])
