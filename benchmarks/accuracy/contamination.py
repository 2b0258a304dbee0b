# SPDX-License-Identifier: Apache-2.0
"""Training images that are not all normal: some defective ones among them, which nobody knows of."""

import random
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from anomalib.data.utils import LabelName

from anomalib_vqflow import MultiCategory


class Contaminated(MultiCategory):
    """A folder of categories, with defective test images among the training images of each.

    So that several ratios are tested on the same images, as many defective ones leave every test as the greatest ratio
    would need; of these, ``ratio`` says how many are trained on. They are drawn at random, of all kinds of defect.

    Args:
        root: Folder of categories in MVTec layout.
        ratio: Share of defective images in each category's training, in [0, ``greatest_ratio``].
        greatest_ratio: The greatest ratio to be compared, in [0, 1).
        seed: Seed of the draw.
        arguments: Those of MultiCategory.

    Raises:
        ValueError: If a ratio is out of range, or more than half of a category's defective images would leave the test.
    """

    def __init__(self, root: Path | str, ratio: float, greatest_ratio: float, seed: int = 0, **arguments: Any) -> None:  # noqa: ANN401
        if not 0 <= ratio <= greatest_ratio < 1:
            msg = f"Expected 0 <= ratio <= greatest_ratio < 1, got {ratio} and {greatest_ratio}."
            raise ValueError(msg)
        clean = MultiCategory(root)
        clean.setup()
        self._links = TemporaryDirectory(prefix="contaminated-")  # there as long as the datamodule
        for name in clean.categories:
            train, test = (data.samples[data.samples.category == name] for data in (clean.train_data, clean.test_data))
            defective = test[test.label_index == LabelName.ABNORMAL].sort_values("image_path")
            order = random.Random(f"{seed} {name}").sample(list(defective.index), len(defective))
            leaving = order[: _count(greatest_ratio, len(train))]
            if 2 * len(leaving) > len(order):
                msg = f"{name} has {len(order)} defective images, too few to train on {len(leaving)}; take fewer."
                raise ValueError(msg)
            hidden = defective.loc[leaving[: _count(ratio, len(train))]]
            folder = Path(self._links.name) / name
            _link(folder / "train" / "good", [*train.image_path, *hidden.image_path])
            _link_tests(folder, test.drop(leaving))
        super().__init__(root=self._links.name, **arguments)


def _count(ratio: float, num_normal: int) -> int:
    """How many defective images make so great a share beside the normal ones."""
    return round(ratio / (1 - ratio) * num_normal)


def _link_tests(folder: Path, samples: pd.DataFrame) -> None:
    kinds = samples.image_path.map(lambda path: Path(path).parent.name)
    for kind, group in samples.groupby(kinds.where(samples.label_index == LabelName.ABNORMAL, "good")):
        _link(folder / "test" / kind, group.image_path)
        if kind != "good" and group.has_mask.all():
            _link(folder / "ground_truth" / kind, group.mask_path, "_mask")


def _link(folder: Path, files: Iterable[str], ending: str = "") -> None:
    """Link files under their number; what they were called must not tell them apart."""
    folder.mkdir(parents=True)
    for number, file in enumerate(files):
        (folder / f"{number:04d}{ending}{Path(file).suffix}").symlink_to(Path(file).resolve())
