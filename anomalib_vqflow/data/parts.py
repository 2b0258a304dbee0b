# SPDX-License-Identifier: Apache-2.0
"""Build and name the single-category datamodules that make up a mixture."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from anomalib.data import AnomalibDataModule

from .categories import ALL, Argument, dataset_categories, folder_categories
from .names import name_datamodules

SUBSETS = ("train", "val", "test")


def build_parts(
    root: Path | str | None,
    categories: Sequence[str] | str,
    dataset: str | None,
    dataset_args: Mapping[str, Argument] | None,
    datamodules: Sequence[AnomalibDataModule] | None,
    arguments: Mapping[str, Argument],
) -> dict[str, AnomalibDataModule]:
    """Build one datamodule per category from the arguments of :class:`~anomalib_vqflow.data.MultiCategory`.

    Args:
        root: Folder of categories, or root of ``dataset``.
        categories: ``"all"``, one name, or a list of names.
        dataset: Class name of an anomalib datamodule that has categories.
        dataset_args: Further arguments of that class.
        datamodules: Datamodules to put together.
        arguments: Arguments of every category.

    Returns:
        The datamodules by name.

    Raises:
        ValueError: If no place or two are given, or an argument is unknown or has no effect.
        TypeError: If ``root`` is no path.
    """
    if datamodules is not None:
        others = {"root": root, "dataset": dataset, "dataset_args": dataset_args or None}
        _check_alone({**others, "categories": None if categories == ALL else categories})
        flat = list(_flatten(datamodules))
        _check_same([datamodule for _, datamodule in flat], arguments)
        return name_datamodules([datamodule for _, datamodule in flat], [name for name, _ in flat])
    if dataset is not None:
        roots = {} if root is None else {"root": root}
        return name_datamodules(dataset_categories(dataset, categories, {**roots, **arguments, **(dataset_args or {})}))
    if root is None:
        msg = "Expected categories, got none of `root`, `dataset` and `datamodules`; give one of them."
        raise ValueError(msg)
    if not isinstance(root, str | Path):
        msg = f"Expected `root` to be the path of a folder of categories, got {root!r}."
        raise TypeError(msg)
    folder = Path(os.path.abspath(root))
    return name_datamodules(folder_categories(folder, categories, {**arguments, **(dataset_args or {})}))


def _check_alone(others: Mapping[str, object]) -> None:
    if given := [name for name, value in others.items() if value is not None]:
        msg = (
            f"Expected either `datamodules` or `root` and `dataset`, got `datamodules` and {given}; leave one of them "
            "out."
        )
        raise ValueError(msg)


def _check_same(datamodules: Sequence[AnomalibDataModule], arguments: Mapping[str, Argument]) -> None:
    """Refuse splits that datamodules, which make their own, do not have."""
    if not datamodules:
        msg = "Expected at least one datamodule, got none; add some to `datamodules`."
        raise ValueError(msg)
    for name, value in arguments.items():
        if name != "seed" and any(getattr(datamodule, name) != value for datamodule in datamodules):
            msg = f"`{name}` has no effect on `datamodules`, which make their own splits; give it to each of them."
            raise ValueError(msg)


def _flatten(datamodules: Sequence[AnomalibDataModule]) -> Iterator[tuple[str, AnomalibDataModule]]:
    for datamodule in datamodules:
        if not hasattr(datamodule, "by_category"):
            yield datamodule.category or datamodule.name, datamodule
            continue
        for name, category in datamodule.by_category.items():
            for attribute in (f"{subset}_augmentations" for subset in SUBSETS):
                setattr(category, attribute, getattr(datamodule, attribute) or getattr(category, attribute))
            yield name, category
