# SPDX-License-Identifier: Apache-2.0
"""Check what is asked of the splits of a category, and what came of it."""

from collections.abc import Mapping
from enum import Enum

from anomalib.data import AnomalibDataModule
from anomalib.data.datasets import AnomalibDataset
from anomalib.data.utils import LabelName, TestSplitMode, ValSplitMode
from lightning.pytorch.utilities import rank_zero_warn

SPLITTING = (ValSplitMode.FROM_TEST, ValSplitMode.FROM_TRAIN, ValSplitMode.SYNTHETIC)
RATIO = "_split_ratio"
MODES: dict[str, type[Enum]] = {"test_split_mode": TestSplitMode, "val_split_mode": ValSplitMode}
SEEDS = range(-(2**63), 2**64)  # of torch
LABELS = {int(LabelName.NORMAL), int(LabelName.ABNORMAL)}


def check_split_arguments(arguments: Mapping[str, object]) -> None:
    """Check how images are to be shared out; anomalib takes a ratio of 0 for 0.5, and names no argument in its errors.

    Args:
        arguments: Arguments of a datamodule, of which those named ``*_split_mode``, ``*_split_ratio`` and ``seed`` are
            checked, unless they are None.

    Raises:
        ValueError: If a mode is unknown, a ratio is not between 0 and 1, or the seed is no integer of 64 bits.
    """
    for name, value in arguments.items():
        if value is None:
            continue
        if name.endswith(RATIO) and not _is_share(value):
            mode = name.replace("ratio", "mode")
            msg = f"Expected `{name}` above 0 and below 1, got {value}; to split nothing off, set `{mode}` to 'none'."
            raise ValueError(msg)
        if name in MODES and not (isinstance(value, str) and value in list(MODES[name])):
            msg = f"Expected `{name}` to be one of {[mode.value for mode in MODES[name]]}, got {value!r}."
            raise ValueError(msg)
        if name == "seed" and (not isinstance(value, int) or isinstance(value, bool) or value not in SEEDS):
            msg = f"Expected `seed` to be None or an integer of 64 bits, got {value!r}."
            raise ValueError(msg)


def check_splits(name: str, datamodule: AnomalibDataModule) -> None:
    """Check that the splits that were asked for have images of the kinds that they need.

    Args:
        name: Name of the category.
        datamodule: Its datamodule, set up.

    Raises:
        ValueError: If there are too few images to split validation images off.
    """
    mode, ratio = datamodule.val_split_mode, datamodule.val_split_ratio
    val_data = getattr(datamodule, "val_data", None)
    if val_data is not None and mode in SPLITTING:
        if not len(val_data):
            msg = (
                f"Category {name!r} has too few images for `val_split_mode` {mode.value!r} with `val_split_ratio` "
                f"{ratio}: none is left for validation. Raise the ratio, or choose another mode."
            )
            raise ValueError(msg)
        wanted = LABELS if mode == ValSplitMode.SYNTHETIC else _labels(datamodule.test_data)
        if mode != ValSplitMode.FROM_TRAIN and (lacking := wanted - _labels(val_data)):
            rank_zero_warn(
                f"Category {name!r} has no {_text(lacking)} validation images: too few images for `val_split_mode` "
                f"{mode.value!r} with `val_split_ratio` {ratio}."
            )
    needed: dict[TestSplitMode, set[int]] = {
        TestSplitMode.FROM_DIR: {LabelName.NORMAL},
        TestSplitMode.SYNTHETIC: LABELS,
    }
    if lacking := needed.get(datamodule.test_split_mode, set()) - _labels(datamodule.test_data):
        rank_zero_warn(
            f"Category {name!r} has no {_text(lacking)} test images: too few training images for `test_split_mode` "
            f"{datamodule.test_split_mode.value!r} with `test_split_ratio` {datamodule.test_split_ratio}."
        )


def _is_share(value: object) -> bool:
    return isinstance(value, (int, float)) and 0 < value < 1 and 0 < 1 - value < 1


def _labels(data: AnomalibDataset) -> set[int]:
    return set(data.samples["label_index"]) if "label_index" in data.samples else LABELS


def _text(labels: set[int]) -> str:
    return " and no ".join(["normal", "anomalous"][label] for label in sorted(labels))
