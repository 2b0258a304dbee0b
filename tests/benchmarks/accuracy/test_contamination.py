# SPDX-License-Identifier: Apache-2.0
"""Defective images are hidden among the training images, and nothing else changes with their number."""

from collections import Counter
from pathlib import Path

import pytest
from anomalib.data.utils import LabelName

from benchmarks.accuracy.building import build_data
from benchmarks.accuracy.contamination import Contaminated
from benchmarks.accuracy.plan import read_plan
from tests.data.folders import make_category, make_mask

from .conftest import SMOKE


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two categories of 18 normal and 8 defective images; one has masks, each another one."""
    folder = tmp_path_factory.mktemp("products")
    make_category(folder, "bolt", train=18, defect=8)
    for number, mask in enumerate(sorted((folder / "bolt" / "ground_truth" / "hole").iterdir())):
        make_mask(mask, corner=2 * number)
    make_category(folder, "nut", train=18, defect=8, masks=False)
    return folder


def contaminated(root, ratio, **arguments):
    datamodule = Contaminated(root, ratio, greatest_ratio=0.1, num_workers=0, **arguments)
    datamodule.setup()
    return datamodule


def sources(data):
    """The files behind the links of a dataset."""
    return {Path(path).resolve() for path in data.samples.image_path}


def test_defective_images_are_trained_on_as_normal_ones(root):
    """Beside all normal ones, one in ten of each category, none of which is tested."""
    normal = {path.resolve() for path in root.glob("*/train/good/*")}
    datamodule = contaminated(root, 0.1)
    hidden = sources(datamodule.train_data) - normal
    assert Counter(path.parts[-4] for path in hidden) == {"bolt": 2, "nut": 2}
    assert all(path.parts[-2] == "hole" for path in hidden)
    assert normal <= sources(datamodule.train_data)
    assert sources(datamodule.test_data) == {path.resolve() for path in root.glob("*/test/*/*")} - hidden
    assert not any(item.gt_label for item in datamodule.train_data)


def test_every_ratio_is_tested_on_the_same_images(root):
    """And trains on the defective images of a smaller ratio, too."""
    clean, few, many = (contaminated(root, ratio) for ratio in (0.0, 0.06, 0.1))
    assert sources(clean.test_data) == sources(few.test_data) == sources(many.test_data)
    assert sources(clean.train_data) < sources(few.train_data) < sources(many.train_data)


def test_masks_stay_with_their_images(root):
    """Of the category that has masks; its kinds of defect keep their names."""
    datamodule = contaminated(root, 0.0)
    data, samples = datamodule.test_data, datamodule.test_data.samples
    with_masks = samples[(samples.label_index == LabelName.ABNORMAL) & (samples.category == "bolt")]
    assert len(with_masks) == 6
    for row in with_masks.index:
        image, mask = Path(samples.image_path[row]).resolve(), Path(samples.mask_path[row]).resolve()
        assert mask.stem == f"{image.stem}_mask"
        assert data[row].gt_mask.nonzero().amin().item() == 2 * int(image.stem)
    assert not samples[samples.category == "nut"].has_mask.any()


def test_the_seed_draws_the_defective_images(root):
    """The same ones again for the same seed."""
    datamodules = [contaminated(root, 0.1, seed=seed) for seed in (0, 0, 1, 2)]
    first, again, *others = (sources(datamodule.train_data) for datamodule in datamodules)
    assert first == again
    assert any(other != first for other in others)


@pytest.mark.parametrize("ratio", [-0.1, 0.2])
def test_a_ratio_beyond_the_greatest_is_refused(root, ratio):
    """Its images would be tested by the others."""
    with pytest.raises(ValueError, match=f"ratio <= greatest_ratio < 1, got {ratio} and 0.1"):
        Contaminated(root, ratio, greatest_ratio=0.1)


def test_too_few_defective_images_are_named(root):
    """With the category that lacks them."""
    with pytest.raises(ValueError, match="bolt has 8 defective images, too few to train on 6"):
        Contaminated(root, 0.1, greatest_ratio=0.25)


def test_the_file_of_the_repository_differs_in_ratios(root):
    """All else of its data is the same, and can be built."""
    runs = read_plan(SMOKE.with_name("contamination.yaml"))
    arguments = {run.data: run.definition["data"]["init_args"] for run in runs}
    assert sorted(values["ratio"] for values in arguments.values()) == [0.0, 0.05, 0.1]
    assert len({str({**values, "ratio": None}) for values in arguments.values()}) == 1
    for run in runs:
        data = {**run.definition["data"], "init_args": {**arguments[run.data], "root": str(root)}}
        (datamodule,) = build_data({**run.definition, "data": data})
        assert datamodule.categories == ["bolt", "nut"]
