# SPDX-License-Identifier: Apache-2.0
"""Check what is asked of the splits of a category, and what came of it."""

from collections.abc import Mapping

from anomalib.data import AnomalibDataModule
from anomalib.data.datasets import AnomalibDataset
from anomalib.data.utils import LabelName, TestSplitMode, ValSplitMode
from lightning.pytorch.utilities import rank_zero_warn

SPLITTING = (ValSplitMode.FROM_TEST, ValSplitMode.FROM_TRAIN, ValSplitMode.SYNTHETIC)
RATIO = "_split_ratio"
LABELS = {int(LabelName.NORMAL), int(LabelName.ABNORMAL)}


def check_ratios(arguments: Mapping[str, object]) -> None:
    """Check the shares of images that become a test or validation set; anomalib takes 0 for 0.5.

    Args:
        arguments: Arguments of a datamodule, of which those named ``*_split_ratio`` are checked.

    Raises:
        ValueError: If one is neither None nor between 0 and 1.
    """
    for name, value in arguments.items():
        if name.endswith(RATIO) and value is not None and not (isinstance(value, (int, float)) and 0 < value < 1):
            mode = name.replace("ratio", "mode")
            msg = f"Expected `{name}` above 0 and below 1, got {value}; to split nothing off, set `{mode}` to 'none'."
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


def _labels(data: AnomalibDataset) -> set[int]:
    return set(data.samples["label_index"]) if "label_index" in data.samples else LABELS


def _text(labels: set[int]) -> str:
    return " and no ".join(["normal", "anomalous"][label] for label in sorted(labels))
