# SPDX-License-Identifier: Apache-2.0
"""Names that tell categories of several data sets apart."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from anomalib.data import AnomalibDataModule

from .category_folder import CategoryFolder


def name_datamodules(
    datamodules: Iterable[AnomalibDataModule], names: Iterable[str] | None = None
) -> dict[str, AnomalibDataModule]:
    """Name datamodules after their category, or their own name.

    Those of equal name get their dataset in front, and if that is equal, too, the part of their folders that differs:
    ``bottle`` in ``line1/products`` and in ``line2/products`` become ``line1_bottle`` and ``line2_bottle``.

    Args:
        datamodules: Single-category datamodules.
        names: Names that they have already, unless they are equal.

    Returns:
        The datamodules by name, in their order.

    Raises:
        ValueError: If two have the same name, dataset and folder.
    """
    datamodules = list(datamodules)
    short = list(names) if names else [datamodule.category or datamodule.name for datamodule in datamodules]
    full = [f"{datamodule.name}_{name}" for datamodule, name in zip(datamodules, short, strict=True)]
    named = [full[i] if short.count(short[i]) > 1 else short[i] for i in range(len(short))]
    for clash in {name for name in named if named.count(name) > 1}:
        members = [i for i, name in enumerate(named) if name == clash]
        parts = differing_parts([folder_of_categories(datamodules[i]) for i in members])
        for i, part in zip(members, parts, strict=True):
            named[i] = f"{part}_{short[i]}" if part else named[i]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        msg = (
            f"Expected every category once, got {twice} more than once; leave the others out, or name a part: "
            "MultiCategory(..., prefix='line1')."
        )
        raise ValueError(msg)
    return dict(zip(named, datamodules, strict=True))


def folder_of_categories(datamodule: AnomalibDataModule) -> Path | None:
    """Find the folder, as an absolute path, that holds a datamodule's category and others; None if there is none."""
    if (root := getattr(datamodule, "root", None)) is None:
        return None
    folder = Path(os.path.abspath(root))
    return folder.parent if isinstance(datamodule, CategoryFolder) else folder


def differing_parts(folders: Sequence[Path | None]) -> list[str]:
    """Tell folders apart by as few of their innermost parts as possible, wherever they all lie.

    Args:
        folders: Folders, None where there is none.

    Returns:
        A text for each, empty where there is nothing that tells them apart.

    Example:
        >>> differing_parts([Path("/data/line1/products"), Path("/mnt/line2/products")])
        ['line1', 'line2']
        >>> differing_parts([Path("/a/line1/day1"), Path("/a/line1/day2"), Path("/a/line2/day1")])
        ['line1_day1', 'line1_day2', 'line2_day1']
    """
    reversed_parts = [folder.parts[:0:-1] if folder else () for folder in folders]
    depth = max(map(len, reversed_parts))
    columns = [[parts[i] if i < len(parts) else "" for parts in reversed_parts] for i in range(depth)]
    varying = [column for column in columns if len(set(column)) > 1]
    candidates = [[column] for column in varying] + [varying[:count] for count in range(2, len(varying) + 1)]
    for chosen in candidates:
        texts = ["_".join(filter(None, reversed(parts))) for parts in zip(*chosen, strict=True)]
        if all(texts) and len(set(texts)) == len(texts):
            return texts
    return [""] * len(folders)
