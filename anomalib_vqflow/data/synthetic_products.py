# SPDX-License-Identifier: Apache-2.0
"""Datamodule of generated products: several categories, several kinds of defect, pixel masks, no download."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from anomalib.data.utils import TestSplitMode, ValSplitMode
from anomalib.utils.path import resolve_dataset_root
from torchvision.transforms.v2 import Transform

from .categories import choose_categories
from .category_folder import CategoryFolder
from .multi_category import MultiCategory

if TYPE_CHECKING:
    from .synthetic import SetArguments

# The generator is imported where it is used: anomalib imports this module wherever it imports its own data.

NAME = "SyntheticProducts"


class SyntheticProducts(MultiCategory):
    """Images of products that the package draws itself, as a multi-category dataset.

    The images are generated when they are first needed, about 25 ms each, and kept under ``root`` in a folder of their
    own for every choice of size, counts and seed. Each image depends on the seed, its category, its defect and its
    number only, so a larger set begins with the images of a smaller one.

    Args:
        root: Folder that the images are kept in; they get a folder ``SyntheticProducts`` there unless it has this name.
            None for anomalib's cache of datasets.
        categories: ``"all"``, one name, or a list of names.
        image_size: Side of the square images in pixels, at least 64, or height and width, which must be equal.
        num_train: Normal training images of each category.
        num_test_good: Normal test images of each category.
        num_test_defective: Defective test images of each category, shared out among its defects.
        train_batch_size: Images per training batch.
        eval_batch_size: Images per validation or test batch.
        num_workers: Processes that read images.
        train_augmentations: Transform of training images.
        val_augmentations: Transform of validation images.
        test_augmentations: Transform of test images.
        augmentations: Transform of images whose stage has none of its own.
        test_split_mode: As in anomalib's ``MVTecAD``.
        test_split_ratio: As in anomalib's ``MVTecAD``.
        val_split_mode: As in anomalib's ``MVTecAD``.
        val_split_ratio: Share of images that become validation images, of each category.
        seed: Seed of the images and of the splits; None is 0.

    Raises:
        TypeError: If a number is not an integer.
        ValueError: If a category is unknown, a number too small or the image not square.

    Example:
        >>> datamodule = SyntheticProducts(categories=["gear", "tile"], image_size=128)
        >>> datamodule.categories
        ['gear', 'tile']
    """

    def __init__(
        self,
        root: Path | str | None = "./datasets/SyntheticProducts",
        categories: Sequence[str] | str = "all",
        image_size: int | Sequence[int] = 256,
        num_train: int = 60,
        num_test_good: int = 16,
        num_test_defective: int = 24,
        train_batch_size: int = 32,
        eval_batch_size: int = 32,
        num_workers: int = 8,
        train_augmentations: Transform | None = None,
        val_augmentations: Transform | None = None,
        test_augmentations: Transform | None = None,
        augmentations: Transform | None = None,
        test_split_mode: TestSplitMode | str = TestSplitMode.FROM_DIR,
        test_split_ratio: float = 0.2,
        val_split_mode: ValSplitMode | str = ValSplitMode.SAME_AS_TEST,
        val_split_ratio: float = 0.5,
        seed: int | None = 0,
    ) -> None:
        from .synthetic import CATEGORIES, SetArguments
        from .synthetic.dataset import check

        arguments = SetArguments(
            _side(image_size), num_train, num_test_good, num_test_defective, 0 if seed is None else seed
        )
        check(arguments)
        root = resolve_dataset_root(root, NAME).absolute()
        root = root if root.name == NAME else root / NAME  # anomalib's visualizer looks for the name in paths
        names = choose_categories(categories, CATEGORIES)
        super().__init__(
            datamodules=[
                GeneratedCategory(
                    root,
                    name,
                    arguments,
                    test_split_mode=test_split_mode,
                    test_split_ratio=test_split_ratio,
                    val_split_mode=val_split_mode,
                    val_split_ratio=val_split_ratio,
                )
                for name in names
            ],
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
            seed=arguments.seed,
        )

    @property
    def name(self) -> str:  # type: ignore[override]
        """Name of the datamodule, after which anomalib sorts results."""
        return NAME


class GeneratedCategory(CategoryFolder):
    """One category of :class:`SyntheticProducts`, generated when it is first needed.

    Args:
        root: Folder that all sets are kept in.
        category: Name of the category.
        arguments: What the images depend on.
        test_split_mode: As in anomalib's ``MVTecAD``.
        test_split_ratio: As in anomalib's ``MVTecAD``.
        val_split_mode: As in anomalib's ``MVTecAD``.
        val_split_ratio: Share of images that become validation images.
    """

    def __init__(
        self,
        root: Path | str,
        category: str,
        arguments: "SetArguments",
        test_split_mode: TestSplitMode | str = TestSplitMode.FROM_DIR,
        test_split_ratio: float = 0.2,
        val_split_mode: ValSplitMode | str = ValSplitMode.SAME_AS_TEST,
        val_split_ratio: float = 0.5,
    ) -> None:
        from .synthetic.dataset import set_folder

        super().__init__(
            root=set_folder(root, arguments) / category,
            test_split_mode=test_split_mode,
            test_split_ratio=test_split_ratio,
            val_split_mode=val_split_mode,
            val_split_ratio=val_split_ratio,
            seed=arguments.seed,
        )
        self.sets_root = Path(root)
        self.arguments = arguments

    def prepare_data(self) -> None:
        """Generate the images that aren't there yet."""
        from .synthetic import generate

        generate(self.sets_root, self.arguments, [self.category])

    def _setup(self, _stage: str | None = None) -> None:
        self.prepare_data()
        super()._setup(_stage)


def _side(image_size: int | Sequence[int]) -> int:
    # anomalib's `get_datamodule` and `anomalib benchmark` turn 64 into (64, 64)
    if isinstance(image_size, str) or not isinstance(image_size, Sequence):
        return image_size  # checked with the other numbers
    sides = list(image_size)
    if len(sides) != 2 or sides[0] != sides[1]:
        msg = f"Expected square images, such as `image_size` 256 or (256, 256), got {sides}."
        raise ValueError(msg)
    return sides[0]
