# SPDX-License-Identifier: Apache-2.0
"""Tests of the datamodule of generated products."""

import pytest
from anomalib.data import AnomalibDataModule, get_datamodule

from anomalib_vqflow.data.multi_category import MultiCategory
from anomalib_vqflow.data.synthetic import CATEGORIES
from anomalib_vqflow.data.synthetic_products import SyntheticProducts

SMALL = {"image_size": 64, "num_train": 4, "num_test_good": 2, "num_test_defective": 3, "num_workers": 0}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("products")


def test_all_categories_are_the_default_and_nothing_is_written_early(tmp_path):
    """Building the datamodule chooses all categories and writes nothing."""
    datamodule = SyntheticProducts(tmp_path / "new", **SMALL)
    assert datamodule.categories == list(CATEGORIES)
    assert not (tmp_path / "new").exists()


def test_setup_generates_what_is_missing(tmp_path):
    """Setup generates the asked number of images."""
    datamodule = SyntheticProducts(tmp_path, categories="gear", **SMALL)
    datamodule.setup()
    assert len(datamodule.train_data) == 4
    assert len(datamodule.test_data) == 5


def test_prepare_data_makes_setup_write_nothing(tmp_path):
    """After `prepare_data`, as Lightning calls it once per machine, setup writes nothing."""
    SyntheticProducts(tmp_path, categories="gear", **SMALL).prepare_data()
    written = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    SyntheticProducts(tmp_path, categories="gear", **SMALL).setup()
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == written


def test_batches_mix_categories_and_carry_masks(root):
    """Training batches mix categories, and masks are empty exactly for normal images."""
    datamodule = SyntheticProducts(root, categories=["gear", "tile"], train_batch_size=8, eval_batch_size=16, **SMALL)
    datamodule.setup()
    train = next(iter(datamodule.train_dataloader()))
    assert train.image.shape == (8, 3, 64, 64)
    assert {datamodule.category_by_path[path] for path in train.image_path} == {"gear", "tile"}

    test = next(iter(datamodule.test_dataloader()))
    assert test.gt_mask.shape == (10, 64, 64)
    assert test.gt_mask.flatten(1).any(dim=1).tolist() == test.gt_label.tolist()


@pytest.mark.parametrize(
    ("mode", "sizes"),
    [("same_as_test", (8, 10, 10)), ("from_test", (8, 6, 4)), ("from_train", (4, 10, 4)), ("none", (8, 10, 0))],
)
def test_validation_split_is_that_of_anomalib(root, mode, sizes):
    """Each validation mode takes its images from where anomalib's modes do."""
    datamodule = SyntheticProducts(root, categories=["gear", "tile"], val_split_mode=mode, **SMALL)
    datamodule.setup()
    found = [len(getattr(datamodule, f"{subset}_data", ())) for subset in ("train", "test", "val")]
    assert found == pytest.approx(sizes, abs=2)
    assert found[0] + (found[2] if mode == "from_train" else 0) == 8
    assert found[1] + (found[2] if mode == "from_test" else 0) == 10


def test_unknown_category_names_the_known_ones(tmp_path):
    """An unknown category is refused, with the known ones."""
    with pytest.raises(ValueError, match=r"Unknown categories \['spoon'\].*cable.*tile"):
        SyntheticProducts(tmp_path, categories=["gear", "spoon"], **SMALL)


@pytest.mark.parametrize(("argument", "value"), [("num_train", 0), ("image_size", 16), ("seed", -1)])
def test_bad_numbers_are_refused_at_once(tmp_path, argument, value):
    """Impossible numbers are refused when the datamodule is built."""
    with pytest.raises(ValueError, match=argument):
        SyntheticProducts(tmp_path, **{**SMALL, argument: value})


def test_sets_of_other_arguments_do_not_mix(tmp_path):
    """Other arguments lead to another folder."""
    roots = {
        SyntheticProducts(tmp_path, **{**SMALL, **change}).by_category["gear"].root
        for change in ({}, {"seed": 1}, {"image_size": 96}, {"num_train": 5})
    }
    assert len(roots) == 4


def test_no_seed_is_seed_zero(tmp_path):
    """Without a seed, the images are those of seed zero."""
    roots = {SyntheticProducts(tmp_path, seed=seed, **SMALL).by_category["gear"].root for seed in (None, 0)}
    assert len(roots) == 1


def test_categories_can_be_mixed_with_other_datamodules(root):
    """The generated products can be part of a mixture."""
    products = SyntheticProducts(root, categories=["gear"], **SMALL)
    mixed = MultiCategory(datamodules=[products], num_workers=0)
    mixed.setup()
    assert mixed.categories == ["gear"]
    assert len(mixed.train_data) == 4


def test_config_file_builds_the_datamodule(tmp_path):
    """A configuration file builds the datamodule."""
    config = tmp_path / "data.yaml"
    config.write_text(
        "class_path: anomalib_vqflow.data.synthetic_products.SyntheticProducts\n"
        f"init_args:\n  root: {tmp_path.as_posix()}\n  categories: [gear, cap]\n  image_size: 64\n  num_workers: 0\n"
    )
    datamodule = AnomalibDataModule.from_config(config)
    assert isinstance(datamodule, SyntheticProducts)
    assert datamodule.categories == ["gear", "cap"]


@pytest.mark.parametrize("image_size", [64, (64, 64), [64, 64]])
def test_image_size_may_be_a_pair_as_anomalib_passes_it(tmp_path, image_size):
    """A number and a square pair, into which `anomalib benchmark` turns it, give the same images."""
    datamodule = SyntheticProducts(tmp_path, **{**SMALL, "image_size": image_size})

    assert datamodule.by_category["gear"].root == SyntheticProducts(tmp_path, **SMALL).by_category["gear"].root


def test_anomalib_builds_it_from_a_dictionary(tmp_path):
    """`get_datamodule`, which `anomalib benchmark` uses, builds the datamodule."""
    arguments = {**SMALL, "root": str(tmp_path), "categories": ["cap", "tile"]}

    datamodule = get_datamodule({"class_path": "SyntheticProducts", "init_args": arguments})

    assert datamodule.categories == ["cap", "tile"]


@pytest.mark.parametrize("image_size", [(64, 96), (64,)])
def test_images_that_are_not_square_are_refused(tmp_path, image_size):
    """A pair of different sides, or no pair, is refused with an example."""
    with pytest.raises(ValueError, match=r"square images.*\(256, 256\)"):
        SyntheticProducts(tmp_path, **{**SMALL, "image_size": image_size})


@pytest.mark.parametrize("image_size", [64.5, "64", (64.5, 64.5)])
def test_size_that_is_no_integer_is_refused(tmp_path, image_size):
    """A size that is no integer is refused by its name."""
    with pytest.raises(TypeError, match="integer for `image_size`"):
        SyntheticProducts(tmp_path, **{**SMALL, "image_size": image_size})


def test_results_are_sorted_after_the_datamodule(tmp_path):
    """The name is that of the class and part of every path, where anomalib's visualizer looks for it, once."""
    for root in (tmp_path, tmp_path / "SyntheticProducts"):
        datamodule = SyntheticProducts(root, categories=["gear"], **SMALL)

        assert datamodule.name == "SyntheticProducts"
        assert datamodule.by_category["gear"].root.parts.count("SyntheticProducts") == 1
