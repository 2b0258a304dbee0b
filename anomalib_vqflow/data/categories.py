# SPDX-License-Identifier: Apache-2.0
"""Build one single-category datamodule per category: from a folder, or by the name of an anomalib dataset."""

import inspect
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import anomalib.data
import numpy as np
import pandas as pd
from anomalib.data import AnomalibDataModule
from anomalib.data.datasets import AnomalibDataset
from anomalib.data.utils import LabelName, TestSplitMode
from lightning.pytorch.utilities import rank_zero_warn

from anomalib_vqflow.naming import first_names

from .category_folder import CategoryFolder
from .files import list_folder, may_be_image
from .folder_names import is_category
from .splits import check_split_arguments

ALL = "all"
Argument = str | int | float | bool | Path | None


def folder_categories(
    root: Path, categories: Sequence[str] | str, arguments: Mapping[str, Argument]
) -> list[AnomalibDataModule]:
    """Build the datamodules of a folder of categories in MVTec layout.

    Args:
        root: Folder of categories.
        categories: ``"all"``, one name, or a list of names.
        arguments: Further arguments of :class:`CategoryFolder`.

    Returns:
        One datamodule per category.

    Raises:
        ValueError: If the folder is missing or has no category, or a category is unknown.
    """
    if not root.is_dir():
        msg = f"Expected a folder of categories, found none at {root}; check `root`."
        raise ValueError(msg)
    entries = list_folder(root)
    known = [path.name for path in entries if path.is_dir() and is_category(path)]
    if not known:
        instead = f", but {first_names([path.name for path in entries])}" if entries else ""
        msg = f"Expected categories such as bottle/train/good/000.png in {root}, found none{instead}; check `root`."
        if is_category(root):
            msg = f"{root} is a category itself; use root={str(root.parent)!r} and categories={root.name!r}."
        raise ValueError(msg)
    names = choose_categories(categories, known)
    others = [str(path) for path in entries if path.name not in known and (path.is_dir() or may_be_image(path))]
    if others and _all_wanted(categories):
        rank_zero_warn(f"Not used, as they are no categories with a folder train or test: {first_names(others)}.")
    return [CategoryFolder(**{"root": root / name, **arguments}) for name in names]  # type: ignore[arg-type]


def dataset_categories(
    dataset: str, categories: Sequence[str] | str, arguments: Mapping[str, Argument]
) -> list[AnomalibDataModule]:
    """Build the datamodules of a dataset that anomalib knows.

    Args:
        dataset: Class name in ``anomalib.data``, such as ``"MVTecAD"`` or ``"Visa"``.
        categories: ``"all"``, one name, or a list of names.
        arguments: Further arguments of the class.

    Returns:
        One datamodule per category.

    Raises:
        ValueError: If there is no such dataset, or a category or an argument is unknown to it.
    """
    known_datasets = {
        name: cls for name in anomalib.data.__all__ if _takes_category(cls := getattr(anomalib.data, name))
    }
    if dataset not in known_datasets:
        msg = f"Unknown dataset {dataset!r}; choose from {sorted(known_datasets)}, or use `datamodules`."
        raise ValueError(msg)
    check_split_arguments(arguments)
    cls = known_datasets[dataset]
    accepted = set(inspect.signature(cls).parameters) - {"category"}
    if unknown := sorted(set(arguments) - accepted):
        msg = f"{dataset} does not take {unknown}; it takes {sorted(accepted)}."
        raise ValueError(msg)
    names = choose_categories(categories, _known_categories(cls))
    if "test_split_mode" in accepted:  # RealIAD's own default leaves out its normal test images
        arguments = {"test_split_mode": TestSplitMode.FROM_DIR.value, **arguments}
    return [cls(category=name, **arguments) for name in names]


def choose_categories(categories: Sequence[str] | str, known: Sequence[str]) -> list[str]:
    """Choose categories by name.

    Args:
        categories: ``"all"``, one name, or a list of names.
        known: Names to choose from.

    Returns:
        The chosen names, each once, in the given order.

    Raises:
        ValueError: If a name is unknown, none is given, or something else than names.

    Example:
        >>> choose_categories("all", ["bottle", "screw"])
        ['bottle', 'screw']
        >>> choose_categories(["nut"], ["bottle", "screw"])
        Traceback (most recent call last):
        ValueError: Unknown categories ['nut']; choose from ['bottle', 'screw'], or 'all'.
    """
    wanted = _as_list(categories)
    if not wanted or not all(isinstance(name, str) for name in wanted):
        msg = f"Expected `categories` to be 'all', or names such as {first_names(known)}, got {categories!r}."
        raise ValueError(msg)
    if _all_wanted(categories):
        return list(known)
    if unknown := [name for name in wanted if name not in known]:
        msg = f"Unknown categories {unknown}; choose from {list(known)}, or 'all'."
        raise ValueError(msg)
    return list(dict.fromkeys(wanted))


def setup_datamodule(datamodule: AnomalibDataModule) -> None:
    """Set up a datamodule, with text columns as they were before pandas 3.

    anomalib 2.7 allows pandas 3, but its ``MVTecAD2`` and ``MVTecLOCO`` fail on that version's text columns, which
    have NaN for None and take no lists. Its ``test_split_mode`` ``"none"``, the default of ``RealIAD``, leaves out all
    normal test images; here it leaves the test images as they are.

    Args:
        datamodule: Single-category datamodule.

    Raises:
        ValueError: If a link below its root is broken, of which anomalib does not tell which one, or if anomalib fails
            to make synthetic anomalies, as it does at tiny images.
        FileNotFoundError: If another file is missing.
    """
    if datamodule.test_split_mode == TestSplitMode.NONE:
        datamodule._create_test_split = _keep_test_images  # type: ignore[method-assign]  # noqa: SLF001
    try:
        with _text_columns():
            datamodule.setup()
    except FileNotFoundError as error:
        root = getattr(datamodule, "root", None)
        paths = sorted(Path(root).rglob("*")) if root else []
        broken = [str(path) for path in paths if path.is_symlink() and not path.exists()]
        if not broken:
            raise
        msg = f"{len(broken)} links are broken; repair or remove them: {first_names(broken)}."
        raise ValueError(msg) from error
    except RuntimeError as error:
        modes = ("test_split_mode", "val_split_mode")
        synthetic = [f"`{name}` 'synthetic'" for name in modes if getattr(datamodule, name).value == "synthetic"]
        if not synthetic:
            raise
        msg = (
            f"anomalib cannot make anomalies of images of category {datamodule.category!r} ({error}), as it should by "
            f"{' and '.join(synthetic)}; those of less than 32 pixels are too small. Choose another mode."
        )
        raise ValueError(msg) from error


def leave_out_anomalous(train_data: AnomalibDataset, category: str) -> None:
    """Leave training images out that their dataset calls anomalous, such as those of ``Kaputt`` and ``VAD``.

    Args:
        train_data: Training data of a category, changed in place.
        category: Its name.
    """
    normal = np.flatnonzero(train_data.samples["label_index"] != LabelName.ABNORMAL)
    if num_anomalous := len(train_data) - len(normal):
        train_data.subsample(normal.tolist(), inplace=True)
        rank_zero_warn(f"{num_anomalous} training images of {category!r} are anomalous by its labels, and left out.")


def data_for_test(datamodule: AnomalibDataModule) -> AnomalibDataset:
    """Get the dataset that a datamodule tests on.

    Args:
        datamodule: Single-category datamodule, set up.

    Returns:
        Its test data; ``MVTecAD2`` has several, of which only its dataloader tells which one is meant.
    """
    if type(datamodule).test_dataloader is AnomalibDataModule.test_dataloader:
        return datamodule.test_data
    return datamodule.test_dataloader().dataset


@contextmanager
def _text_columns() -> Iterator[None]:
    """Have text columns as they were before pandas 3."""
    if int(pd.__version__.split(".")[0]) < 3:
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*future.infer_string")  # the option ends with pandas 4
        with pd.option_context("future.infer_string", False):  # noqa: FBT003
            yield


def _keep_test_images() -> None:
    pass


def _all_wanted(categories: Sequence[str] | str) -> bool:
    return _as_list(categories) == [ALL]


def _as_list(categories: Sequence[str] | str) -> list[str]:
    """Put names into a list, and whatever has no parts, too."""
    try:
        return [categories] if isinstance(categories, str) else list(categories)
    except TypeError:
        return [categories]  # type: ignore[list-item]


def _takes_category(cls: object) -> bool:
    return (
        inspect.isclass(cls)
        and issubclass(cls, AnomalibDataModule)
        and (".image." in cls.__module__ or ".depth." in cls.__module__)
        and "category" in inspect.signature(cls).parameters
    )


def _known_categories(cls: type[AnomalibDataModule]) -> list[str]:
    datasets = sys.modules[cls.__module__.replace(".datamodules.", ".datasets.")]
    return list(datasets.CATEGORIES)
