# SPDX-License-Identifier: Apache-2.0
"""One category in MVTec layout, with or without masks, as an anomalib datamodule."""

from pathlib import Path

from anomalib.data import AnomalibDataModule
from anomalib.data.datasets import AnomalibDataset
from anomalib.data.utils import LabelName, Split, TestSplitMode, ValSplitMode
from lightning.pytorch.utilities import rank_zero_warn
from pandas import DataFrame
from torchvision.transforms.v2 import Transform

from anomalib_vqflow.naming import first_names

from .folder_names import GOOD
from .layout import Layout, read_layout
from .splits import check_split_arguments


class CategoryFolderDataset(AnomalibDataset):
    """Images of one split of one category in MVTec layout.

    The images carry masks if the category has some for this split, and none otherwise; training images, which are all
    normal, always carry an empty mask. An image may have several masks, which :class:`.MultiCategoryDataset` unites.

    Args:
        root: Folder of the category.
        split: ``"train"``, ``"val"`` or ``"test"``.
        augmentations: Transform of image and mask.
        layout: What has been found in the folder; None to look, and to warn of what is not read.

    Raises:
        ValueError: If it is not sure what an image is or where a mask belongs, or a file is missing or broken.
    """

    def __init__(
        self,
        root: Path | str,
        split: Split | str,
        augmentations: Transform | None = None,
        layout: Layout | None = None,
    ) -> None:
        super().__init__(augmentations=augmentations)
        self.category = Path(root).name
        self.samples = to_samples(layout or read_and_warn(Path(root)), Split(split))


class CategoryFolder(AnomalibDataModule):
    """One category in MVTec layout: ``train/good``, ``test/good``, ``test/<defect>``, ``ground_truth/<defect>``.

    Folders may be written in any case, and other common names mean the same (:data:`.folder_names.ROLES` and
    :data:`.folder_names.NORMAL_NAMES`). Images may lie deeper, their masks then, too. A mask is named like its image
    (:func:`.match_masks`); an image may have several. Unlike anomalib's ``MVTecAD``, this takes a category without
    masks, any image that Pillow reads, validation images in ``val/good`` and ``val/<defect>``, and a category without
    normal test images, which are then drawn from the training images (``test_split_ratio``). What is not read is named
    in a warning.

    Args:
        root: Folder of the category; its name is the category.
        train_batch_size: Images per training batch.
        eval_batch_size: Images per validation or test batch.
        num_workers: Processes that read images.
        test_split_mode: As in anomalib's ``MVTecAD``, but ``"none"`` leaves the folder ``test`` as it is.
        test_split_ratio: Share of the training images that become normal test images if there are none, in (0, 1).
        val_split_mode: As in anomalib's ``MVTecAD``, or ``"from_dir"`` for the images in ``val``. None means
            ``"from_dir"`` if there are some, else ``"same_as_test"``.
        val_split_ratio: Share of the images that becomes the validation set, in (0, 1).
        seed: Seed of the splits.

    Raises:
        ValueError: If a mode is unknown, a ratio is not between 0 and 1, or the seed is no integer of 64 bits.
    """

    def __init__(
        self,
        root: Path | str,
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 8,
        test_split_mode: TestSplitMode | str = TestSplitMode.FROM_DIR,
        test_split_ratio: float = 0.2,
        val_split_mode: ValSplitMode | str | None = None,
        val_split_ratio: float = 0.5,
        seed: int | None = None,
    ) -> None:
        check_split_arguments(
            {
                "test_split_mode": test_split_mode,
                "test_split_ratio": test_split_ratio,
                "val_split_mode": val_split_mode,
                "val_split_ratio": val_split_ratio,
                "seed": seed,
            }
        )
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            test_split_mode=test_split_mode,
            test_split_ratio=test_split_ratio,
            val_split_mode=val_split_mode or ValSplitMode.SAME_AS_TEST,
            val_split_ratio=val_split_ratio,
            seed=seed,
        )
        self.chooses_val_split = val_split_mode is None
        self.root = Path(root)
        self.category = self.root.name

    def _setup(self, _stage: str | None = None) -> None:
        layout = read_and_warn(self.root)
        if not layout.images[Split.TRAIN]:
            folder = self.root / Split.TRAIN.value / GOOD
            msg = f"Category {self.category!r} has no normal training images; add some to {folder}, or leave it out."
            raise ValueError(msg)
        self._choose_val_split(layout)
        self.train_data = CategoryFolderDataset(self.root, Split.TRAIN, layout=layout)
        self.test_data = CategoryFolderDataset(self.root, Split.TEST, layout=layout)
        if self.val_split_mode == ValSplitMode.FROM_DIR:
            self.val_data = CategoryFolderDataset(self.root, Split.VAL, layout=layout)

    def _choose_val_split(self, layout: Layout) -> None:
        images = [str(image.path) for image in layout.images[Split.VAL]]
        if self.chooses_val_split:
            self.val_split_mode = ValSplitMode.FROM_DIR if images else ValSplitMode.SAME_AS_TEST
        elif self.val_split_mode == ValSplitMode.FROM_DIR and not images:
            others = [mode.value for mode in ValSplitMode if mode != ValSplitMode.FROM_DIR]
            msg = (
                f"Category {self.category!r} has no validation images; add some to "
                f"{self.root / Split.VAL.value}, or choose `val_split_mode` from {others}, got from_dir."
            )
            raise ValueError(msg)
        elif self.val_split_mode != ValSplitMode.FROM_DIR and images:
            rank_zero_warn(
                f"{len(images)} validation images of category {self.category!r} are not used, as `val_split_mode` is "
                f"{self.val_split_mode.value!r}: {first_names(images)}. Leave it out, or set it to 'from_dir'."
            )

    def _create_test_split(self) -> None:
        if self.test_split_mode == TestSplitMode.NONE:
            return  # anomalib would leave the normal images out
        test_data, num_train = self.test_data, len(self.train_data)
        super()._create_test_split()
        # Training images have another task; where they fill up the test images, pandas drops both.
        self.test_data.samples.attrs.setdefault("task", test_data.task.value)
        kinds = sorted(set(test_data.samples["label"]))
        if num_drawn := num_train - len(self.train_data):
            rank_zero_warn(
                f"Category {self.category!r} has no normal test images (of folders in test there is "
                f"{first_names(kinds) or 'none'}); {num_drawn} of {num_train} training images are used for them."
            )
        if self.test_split_mode == TestSplitMode.SYNTHETIC and test_data.has_anomalous:
            rank_zero_warn(
                f"Anomalous test images of category {self.category!r} are not used, as `test_split_mode` is "
                f"'synthetic': those in the folders {first_names(kinds)} of test."
            )

    def _create_val_split(self) -> None:
        if self.val_split_mode == ValSplitMode.FROM_TEST and not len(self.test_data):
            msg = (
                f"Category {self.category!r} has no test images (`test_split_mode` {self.test_split_mode.value!r}), of "
                "which `val_split_mode` 'from_test' could take some; add some, or choose another mode."
            )
            raise ValueError(msg)
        super()._create_val_split()


def read_and_warn(root: Path) -> Layout:
    """Find all images of a category, and warn of what is not read; raises as :func:`.read_layout` does."""
    layout = read_layout(root)
    if layout.notes:
        rank_zero_warn(f"Not used in category {root.name!r}: {'; '.join(layout.notes)}.")
    return layout


def to_samples(layout: Layout, split: Split) -> DataFrame:
    """Put the images of one split into anomalib's form.

    Args:
        layout: Images of a category.
        split: Split to take.

    Returns:
        One row per image: ``image_path``, ``label`` (name of its folder), ``label_index``, ``mask_path`` (a list if
        there are several, empty if there is none) and ``split``.
    """
    rows = [
        (
            str(image.path),
            image.kind,
            int(LabelName.NORMAL if image.normal else LabelName.ABNORMAL),
            str(image.masks[0]) if len(image.masks) == 1 else [str(mask) for mask in image.masks] or "",
            split.value,
        )
        for image in layout.images[split]
    ]
    samples = DataFrame(rows, columns=["image_path", "label", "label_index", "mask_path", "split"])
    has_masks = split in layout.with_masks or split == Split.TRAIN
    samples.attrs["task"] = "segmentation" if has_masks else "classification"
    return samples
