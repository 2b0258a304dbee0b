# SPDX-License-Identifier: Apache-2.0
"""One category in MVTec layout, with or without masks, as an anomalib datamodule."""

from pathlib import Path

from anomalib.data import AnomalibDataModule
from anomalib.data.datasets import AnomalibDataset
from anomalib.data.utils import LabelName, Split, TestSplitMode, ValSplitMode
from pandas import DataFrame
from torchvision.transforms.v2 import Transform

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
NORMAL_FOLDER = "good"


class CategoryFolderDataset(AnomalibDataset):
    """Images of one split of one category in MVTec layout.

    The images carry masks if the category has a ``ground_truth`` folder, and none otherwise; training images, which
    are all normal, always carry an empty mask.

    Args:
        root: Folder of the category.
        split: ``"train"`` or ``"test"``.
        augmentations: Transform of image and mask.

    Raises:
        ValueError: If an anomalous image has no mask or several, although the category has masks.
    """

    def __init__(self, root: Path | str, split: Split | str, augmentations: Transform | None = None) -> None:
        super().__init__(augmentations=augmentations)
        self.category = Path(root).name
        self.samples = read_category(Path(root), Split(split))


class CategoryFolder(AnomalibDataModule):
    """One category in MVTec layout: ``train/good``, ``test/good``, ``test/<defect>``, ``ground_truth/<defect>``.

    A mask is named like its image, with or without ``_mask`` before the suffix. Unlike anomalib's ``MVTecAD``, this
    takes a category without masks, any image suffix, and a category without a test folder, whose test images are
    then drawn from the training images (``test_split_ratio``).

    Args:
        root: Folder of the category; its name is the category.
        train_batch_size: Images per training batch.
        eval_batch_size: Images per validation or test batch.
        num_workers: Processes that read images.
        test_split_mode: As in anomalib's ``MVTecAD``.
        test_split_ratio: Share of the training images that become test images if there are none.
        val_split_mode: As in anomalib's ``MVTecAD``.
        val_split_ratio: Share of the images that becomes the validation set.
        seed: Seed of the splits.

    Raises:
        ValueError: If validation images are to come from a folder, which this layout does not have.
    """

    def __init__(
        self,
        root: Path | str,
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 8,
        test_split_mode: TestSplitMode | str = TestSplitMode.FROM_DIR,
        test_split_ratio: float = 0.2,
        val_split_mode: ValSplitMode | str = ValSplitMode.SAME_AS_TEST,
        val_split_ratio: float = 0.5,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            train_batch_size=train_batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            test_split_mode=test_split_mode,
            test_split_ratio=test_split_ratio,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            seed=seed,
        )
        if self.val_split_mode == ValSplitMode.FROM_DIR:
            others = [mode.value for mode in ValSplitMode if mode != ValSplitMode.FROM_DIR]
            msg = (
                f"A folder in MVTec layout has no validation images; expected val_split_mode in {others}, got from_dir."
            )
            raise ValueError(msg)
        self.root = Path(root)
        self.category = self.root.name

    def _setup(self, _stage: str | None = None) -> None:
        self.train_data = CategoryFolderDataset(self.root, Split.TRAIN)
        if not len(self.train_data):
            folder = self.root / Split.TRAIN.value / NORMAL_FOLDER
            msg = f"Category {self.category!r} has no normal training images; add some to {folder}, or leave it out."
            raise ValueError(msg)
        self.test_data = CategoryFolderDataset(self.root, Split.TEST)

    def _create_test_split(self) -> None:
        task = self.test_data.task
        super()._create_test_split()
        # Training images have another task; where they fill up the test images, pandas drops both.
        self.test_data.samples.attrs.setdefault("task", task.value)


def image_files(folder: Path) -> list[Path]:
    """List the images directly inside a folder, sorted by name; none if there is no such folder.

    Args:
        folder: Folder to look into; hidden files and other suffixes than ``IMAGE_SUFFIXES`` are passed over.

    Returns:
        Paths of the images.
    """
    if not folder.is_dir():
        return []
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and not f.name.startswith("."))


def read_category(root: Path, split: Split) -> DataFrame:
    """Read the images of one split of a category, with labels and masks.

    Args:
        root: Folder of the category.
        split: ``Split.TRAIN`` takes ``train/good`` only, ``Split.TEST`` every folder of ``test``.

    Returns:
        One row per image in anomalib's form (``image_path``, ``label``, ``label_index``, ``mask_path``, ``split``).

    Raises:
        ValueError: If an anomalous image has no mask or several, although the category has masks.
    """
    masks_root = root / "ground_truth"
    has_masks = masks_root.is_dir() and any(image_files(folder) for folder in masks_root.iterdir() if folder.is_dir())
    split_root = root / split.value
    if split == Split.TRAIN:
        folders = [split_root / NORMAL_FOLDER]
    else:
        folders = sorted(f for f in split_root.iterdir() if f.is_dir()) if split_root.is_dir() else []
    rows = []
    for folder in folders:
        normal = folder.name == NORMAL_FOLDER
        masks = _masks_by_stem(masks_root / folder.name) if has_masks and not normal else {}
        for image in image_files(folder):
            mask = _mask_of(image, masks, masks_root / folder.name) if has_masks and not normal else None
            label_index = LabelName.NORMAL if normal else LabelName.ABNORMAL
            rows.append((str(image), folder.name, int(label_index), "" if mask is None else str(mask), split.value))
    samples = DataFrame(rows, columns=["image_path", "label", "label_index", "mask_path", "split"])
    samples.attrs["task"] = "segmentation" if has_masks or split == Split.TRAIN else "classification"
    return samples


def _masks_by_stem(folder: Path) -> dict[str, list[Path]]:
    masks: dict[str, list[Path]] = {}
    for mask in image_files(folder):
        masks.setdefault(mask.stem.removesuffix("_mask"), []).append(mask)
    return masks


def _mask_of(image: Path, masks: dict[str, list[Path]], folder: Path) -> Path:
    found = masks.get(image.stem, [])
    if len(found) == 1:
        return found[0]
    expected = folder / f"{image.stem}_mask.png"
    if not found:
        msg = f"Expected a mask for the anomalous image {image}, found none; add {expected}, or remove the image."
    else:
        msg = f"Expected one mask for the anomalous image {image}, found {[str(f) for f in found]}; keep one of them."
    raise ValueError(msg)
