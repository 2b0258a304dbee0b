# SPDX-License-Identifier: Apache-2.0
"""Datamodule for training one model on many product categories."""

import os
from collections.abc import Sequence
from pathlib import Path

from anomalib.data import AnomalibDataModule
from anomalib.data.utils import TestSplitMode, ValSplitMode
from anomalib.utils.attrs import get_nested_attr
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from torch import distributed
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from torchvision.transforms.v2 import Transform

from .bit_depth import check_bit_depth
from .categories import Argument, data_for_test, leave_out_anomalous, setup_datamodule
from .checks import check_data
from .multi_category_dataset import MultiCategoryDataset
from .names import folder_of_categories
from .parts import SUBSETS, build_parts
from .samplers import BalancedSampler, GroupedBatchSampler
from .splits import check_split_arguments, check_splits


class MultiCategory(AnomalibDataModule):
    """Many product categories as one dataset, for one model.

    The categories come from one of three places:

    - ``root`` alone: a folder of categories in MVTec layout, ``<category>/{train/good,test/good,test/<defect>}``, with
      masks in ``ground_truth/<defect>``, named like their image with or without ``_mask``, or without masks.
    - ``dataset``: one that anomalib knows and that has categories, such as ``"MVTecAD"`` or ``"Visa"``, with its own
      download and splits.
    - ``datamodules``: any of anomalib's single-category datamodules, such as several ``Folder``, and other
      ``MultiCategory``, to mix datasets.

    Every category makes its own test and validation split. Images may differ in size, be grayscale or have an alpha
    channel. A category without masks counts for image metrics only: in evaluation, images with and without masks never
    share a batch, so that no metric or threshold takes an unknown mask for an empty one. No image carries its category;
    :attr:`category_by_path` knows it, for evaluation.

    Images are turned upright as their EXIF says; files of 16 bits per color are scaled by ``bit_depth``. At setup the
    headers of all images are checked, and masks and images of 16 bits decoded (about 0.3 ms per image if few are), and
    test images that equal a training image are named in a warning.

    Args:
        root: Folder of categories, or root of ``dataset`` (then by default where anomalib keeps it).
        categories: ``"all"``, one name, or a list of names; not used with ``datamodules``.
        dataset: Class name of an anomalib datamodule that has categories.
        dataset_args: Further arguments of that class.
        datamodules: Datamodules to put together. They have their own splits.
        prefix: What stands before the name of every category, such as ``"line1"``, to tell those of several
            ``datamodules`` apart. Without it, categories of equal name are told apart by their dataset or folder.
        train_batch_size: Images per training batch.
        eval_batch_size: Images per validation or test batch.
        num_workers: Processes that read images.
        train_augmentations: Transform of training images; without it, a category keeps its own.
        val_augmentations: Transform of validation images; without it, a category keeps its own.
        test_augmentations: Transform of test images; without it, a category keeps its own.
        augmentations: Transform of images whose stage has none of its own.
        test_split_mode: How each category gets its test set, if not as its dataset does by default.
        test_split_ratio: Share of training images that become test images in a category without normal test images,
            in (0, 1).
        val_split_mode: How each category gets its validation set, if not as its dataset does by default (for a folder
            ``"from_dir"`` if it has a folder ``val``, else ``"same_as_test"``).
        val_split_ratio: Share of images of each category that become validation images, in (0, 1).
        balanced_sampling: Whether every category gives equally many training images per epoch.
        bit_depth: Bits that image files of 16 bits really use, such as 12; None to find it out at setup.
        seed: Seed of splits and balanced sampling.

    Raises:
        ValueError: If no place or two are given, an argument has no effect, a ratio is not between 0 and 1, a bit depth
            is none of such files, or a folder, dataset, category, mode or argument is not known.
        TypeError: If ``root`` is no path.

    Example:
        >>> datamodule = MultiCategory(dataset="MVTecAD", categories=["bottle", "screw"])
        >>> datamodule.categories
        ['bottle', 'screw']
    """

    train_data: MultiCategoryDataset
    val_data: MultiCategoryDataset
    test_data: MultiCategoryDataset

    def __init__(
        self,
        root: Path | str | None = None,
        categories: Sequence[str] | str = "all",
        dataset: str | None = None,
        dataset_args: dict[str, str | int | float | bool | None] | None = None,
        datamodules: Sequence[AnomalibDataModule] | None = None,
        prefix: str | None = None,
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 8,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        test_split_mode: TestSplitMode | str | None = None,
        test_split_ratio: float | None = None,
        val_split_mode: ValSplitMode | str | None = None,
        val_split_ratio: float | None = None,
        balanced_sampling: bool = False,
        bit_depth: int | None = None,
        seed: int | None = None,
    ) -> None:
        splits: dict[str, Argument] = {
            "test_split_mode": test_split_mode,
            "test_split_ratio": test_split_ratio,
            "val_split_mode": val_split_mode,
            "val_split_ratio": val_split_ratio,
            "seed": seed,
        }
        check_split_arguments(splits)
        check_bit_depth(bit_depth)
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_augmentations=train_augmentations,
            val_augmentations=val_augmentations,
            test_augmentations=test_augmentations,
            augmentations=augmentations,
            test_split_mode=test_split_mode,
            test_split_ratio=test_split_ratio,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            seed=seed,
        )
        arguments = {name: value for name, value in splits.items() if value is not None}
        self.balanced_sampling = balanced_sampling
        inner_bits = [getattr(datamodule, "bit_depth", None) or 0 for datamodule in datamodules or ()]
        self.bit_depth: int | None = bit_depth or max(inner_bits, default=0) or None
        parts = build_parts(root, categories, dataset, dataset_args, datamodules, arguments)
        self.by_category = {f"{prefix}_{name}" if prefix else name: value for name, value in parts.items()}

    @property
    def name(self) -> str:  # type: ignore[override]
        """Name of the innermost folder that holds all categories, after which anomalib sorts results.

        anomalib's visualizer keeps the folders below it, so that images of equal name in two categories do not
        overwrite each other.
        """
        folders = [folder_of_categories(datamodule) for datamodule in self.by_category.values()]
        common = None if None in folders else os.path.commonpath([str(folder) for folder in folders])
        return (Path(common).name if common else "") or type(self).__name__

    @property
    def categories(self) -> list[str]:
        """Names of the categories."""
        return list(self.by_category)

    @property
    def category_by_path(self) -> dict[str, str]:
        """Category of every image, by its path; known after :meth:`setup`, for evaluation only."""
        return {
            path: name
            for subset in self._subsets().values()
            for path, name in zip(subset.samples.image_path, subset.samples.category, strict=True)
        }

    def prepare_data(self) -> None:
        """Download what the categories' own datamodules download."""
        for datamodule in self.by_category.values():
            datamodule.prepare_data()

    def train_dataloader(self) -> DataLoader:
        """Get the training images, shuffled or balanced."""
        sampler: Sampler | None = None
        if self.balanced_sampling:
            sampler = BalancedSampler(self.train_data.samples.category, self.seed or 0)
            if distributed.is_available() and distributed.is_initialized():  # Lightning would shuffle its order
                sampler = DistributedSamplerWrapper(sampler, shuffle=False)
        return DataLoader(
            dataset=self.train_data,
            shuffle=None if sampler else True,
            sampler=sampler,
            batch_size=self.train_batch_size,
            num_workers=self.num_workers,
            collate_fn=self.external_collate_fn or self.train_data.collate_fn,
        )

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """Get the validation images, if any, those with and without masks in batches of their own."""
        return self._eval_dataloader(self.val_data) if hasattr(self, "val_data") else []

    def test_dataloader(self) -> DataLoader:
        """Get the test images, those with and without masks in batches of their own."""
        return self._eval_dataloader(self.test_data)

    def _eval_dataloader(self, data: MultiCategoryDataset) -> DataLoader:
        return DataLoader(
            dataset=data,
            batch_sampler=GroupedBatchSampler(
                SequentialSampler(data), self.eval_batch_size, groups=data.batch_groups()
            ),
            num_workers=self.num_workers,
            collate_fn=self.external_collate_fn or data.collate_fn,
        )

    def _setup(self, _stage: str | None = None) -> None:
        for name, datamodule in self.by_category.items():
            setup_datamodule(datamodule)
            leave_out_anomalous(datamodule.train_data, name)
            if not len(datamodule.train_data):
                msg = f"Category {name!r} has no normal training images; add some, or leave it out."
                raise ValueError(msg)
            check_splits(name, datamodule)
        val_data = {
            name: datamodule.val_data
            for name, datamodule in self.by_category.items()
            if hasattr(datamodule, "val_data")
        }
        self.train_data = MultiCategoryDataset(
            {name: datamodule.train_data for name, datamodule in self.by_category.items()}
        )
        self.test_data = MultiCategoryDataset(
            {name: data_for_test(datamodule) for name, datamodule in self.by_category.items()}
        )
        if val_data:
            self.val_data = MultiCategoryDataset(val_data)
        if (bit_depth := check_data(self._subsets(), self.bit_depth)) is not None:
            self.use_bit_depth(bit_depth)

    def use_bit_depth(self, bit_depth: int) -> None:
        """Read image files of 16 bits as of so many bits, from now on.

        Args:
            bit_depth: Bits, such as those of a trained model.

        Raises:
            ValueError: If the images use more.
        """
        if self.bit_depth is not None and self.bit_depth > bit_depth:
            msg = f"The images use {self.bit_depth} bits, but those of the model's training used {bit_depth}."
            raise ValueError(msg)
        self.bit_depth = bit_depth
        for subset in self._subsets().values():
            subset.bit_depth = bit_depth

    def _create_test_split(self) -> None:
        """Do nothing: every category has made its own split."""

    def _create_val_split(self) -> None:
        """Do nothing: every category has made its own split."""

    def _update_augmentations(self) -> None:
        model_transform = get_nested_attr(self, "trainer.model.pre_processor.transform", None)
        for subset, data in self._subsets().items():
            for name, dataset in data.by_category.items():
                attribute = f"{subset}_augmentations"
                augmentations = getattr(self, attribute) or getattr(self.by_category[name], attribute)
                if model_transform:
                    self._update_subset_augmentations(dataset, augmentations, model_transform)
                else:
                    dataset.augmentations = augmentations

    def _subsets(self) -> dict[str, MultiCategoryDataset]:
        return {subset: data for subset in SUBSETS if (data := getattr(self, f"{subset}_data", None)) is not None}
