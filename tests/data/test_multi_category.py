# SPDX-License-Identifier: Apache-2.0
import json
import shutil

import pytest
import torch
from anomalib.data import Folder, MVTecAD
from anomalib.data.utils import ValSplitMode
from anomalib.engine import Engine
from anomalib.models import Padim
from lightning.pytorch import seed_everything
from pandas.testing import assert_series_equal
from torchvision.transforms.v2 import RandomHorizontalFlip, RandomVerticalFlip, Resize

from anomalib_vqflow import MultiCategory
from anomalib_vqflow.data.category_folder import CategoryFolder
from tests.tiny import tiny_model

from .anomalib_folders import FOLDERS, write_folders
from .folders import make_category, make_image, make_mask


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "products"
    make_category(root, "bolt", masks=False, size=(48, 20), mode="L")
    make_category(root, "nut", train=6)
    make_category(root, "plate", good=3, defect=0, size=(40, 40), mode="RGBA")
    return root


def multi_category(root, **arguments):
    return MultiCategory(root, num_workers=0, **arguments)


def padim():
    seed_everything(0)
    return Padim(
        "resnet18",
        ["layer1"],
        pre_trained=False,
        n_features=8,
        visualizer=False,
        pre_processor=Padim.configure_pre_processor((32, 32)),
    )


def vqflow():
    seed_everything(0)
    return tiny_model(input_size=(32, 64), num_concepts=3)


def engine(folder, **arguments):
    return Engine(default_root_dir=folder, accelerator="cpu", devices=1, logger=False, **arguments)


def test_all_categories_or_chosen_ones(root):
    """`categories` takes all, one name, or a list in its order."""
    assert multi_category(root).categories == ["bolt", "nut", "plate"]
    assert multi_category(root, categories="nut").categories == ["nut"]
    assert multi_category(root, categories=["plate", "bolt"]).categories == ["plate", "bolt"]


def test_every_image_knows_its_category(root):
    """All images of all subsets are there, each with the category of its folder."""
    datamodule = multi_category(root)
    datamodule.setup()

    assert len(datamodule.train_data) == 14
    assert len(datamodule.test_data) == 11
    assert all(f"/{name}/" in path for path, name in datamodule.category_by_path.items())
    assert len(datamodule.category_by_path) == 25


def test_evaluation_keeps_masks_that_exist_and_invents_none(root):
    """No evaluation batch mixes images with and without masks, and none gets lost."""
    datamodule = multi_category(root, eval_batch_size=3)
    datamodule.setup()

    counts = {True: 0, False: 0}
    for batch in datamodule.test_dataloader():
        nuts = sum("/nut/" in path for path in batch.image_path)
        assert nuts in {0, batch.batch_size}
        assert (batch.gt_mask is not None) == bool(nuts)
        counts[bool(nuts)] += batch.batch_size
    assert counts == {True: 4, False: 7}


def test_training_mixes_categories_in_a_batch(root):
    """Images of different size, color mode and with or without masks share a training batch."""
    datamodule = multi_category(root, train_batch_size=14)
    datamodule.setup()

    (batch,) = datamodule.train_dataloader()

    assert batch.image.shape == (14, 3, 20, 48)
    assert batch.gt_mask.sum() == 0


def test_validation_is_split_per_category(root):
    """Validation images come from the training images of every category, and are no longer trained on."""
    datamodule = multi_category(root, val_split_mode="from_train", val_split_ratio=0.25, seed=0)
    datamodule.setup()

    counts = datamodule.val_data.samples.category.value_counts().to_dict()
    assert counts == {"bolt": 1, "nut": 1, "plate": 1}
    assert not set(datamodule.val_data.samples.image_path) & set(datamodule.train_data.samples.image_path)


@pytest.mark.parametrize("mode", ["none", "same_as_test", "from_train", "from_test", "synthetic"])
def test_every_split_mode_works(root, mode):
    """Every way of making a validation set gives readable batches, or none for `none`."""
    datamodule = multi_category(root, val_split_mode=mode, seed=0)
    datamodule.setup()

    if mode != "none":
        assert sum(batch.batch_size for batch in datamodule.val_dataloader()) == len(datamodule.val_data) > 0


def test_validation_from_folders(root):
    """`from_dir` is refused where a category has no folder of validation images; without it, each takes what it has."""
    make_image(root / "nut/val/good/000.png", 60)

    datamodule = multi_category(root)
    datamodule.setup()

    counts = datamodule.val_data.samples.category.value_counts().to_dict()
    assert counts == {"nut": 1, "bolt": 4, "plate": 3}
    with pytest.raises(ValueError, match=r"'bolt' has no validation images.*'synthetic'\], got from_dir"):
        multi_category(root, val_split_mode="from_dir").setup()


def test_training_works_without_validation(root, tmp_path):
    """A model trains on a datamodule without validation images."""
    datamodule = multi_category(root, val_split_mode="none")

    engine(tmp_path).fit(padim(), datamodule=datamodule)

    assert datamodule.val_dataloader() == []


def test_test_images_can_be_synthetic(root):
    """Synthetic test images are made for every category, with masks."""
    datamodule = multi_category(root, test_split_mode="synthetic")
    datamodule.setup()

    assert {*datamodule.test_data.samples["category"]} == {"bolt", "nut", "plate"}
    (batch,) = datamodule.test_dataloader()
    assert batch.gt_mask.any()


def test_relative_root(root, monkeypatch):
    """A relative `root` is read, and gives its folder's name to the results."""
    monkeypatch.chdir(root / "nut")

    datamodule = multi_category("..")
    datamodule.setup()

    assert datamodule.name == "products"
    assert len(datamodule.test_data) == 11


def test_same_seed_gives_the_same_split(root):
    """The split depends on the seed only."""
    paths = []
    for _ in range(2):
        datamodule = multi_category(root, val_split_mode="from_test", seed=5)
        datamodule.setup()
        paths.append(datamodule.val_data.samples.image_path.tolist())

    assert paths[0] == paths[1]


def test_balanced_sampling_draws_every_category(root):
    """With balanced sampling, an epoch has equally many images of every category."""
    datamodule = multi_category(root, balanced_sampling=True, train_batch_size=14)
    datamodule.setup()

    (batch,) = datamodule.train_dataloader()

    counts = sorted(sum(f"/{name}/" in path for path in batch.image_path) for name in datamodule.categories)
    assert counts == [4, 5, 5]


def test_datasets_can_be_mixed(root, tmp_path):
    """A folder, an anomalib dataset and a `Folder` become one dataset, each with its own augmentations."""
    make_category(tmp_path / "mvtec", "screw")
    make_category(tmp_path / "own", "wood", masks=False)
    wood = tmp_path / "own" / "wood"
    datamodule = MultiCategory(
        datamodules=[
            MultiCategory(root, categories=["nut", "bolt"], train_augmentations=RandomHorizontalFlip()),
            MultiCategory(tmp_path / "mvtec", dataset="MVTecAD", categories="screw"),
            Folder("wood", wood / "train" / "good", abnormal_dir=wood / "test" / "hole", normal_split_ratio=0.25),
        ],
        num_workers=0,
    )
    datamodule.setup()

    assert datamodule.categories == ["nut", "bolt", "screw", "wood"]
    assert set(datamodule.category_by_path.values()) == set(datamodule.categories)
    for loader in (datamodule.train_dataloader(), datamodule.val_dataloader(), datamodule.test_dataloader()):
        assert sum(batch.batch_size for batch in loader) == len(loader.dataset)
    augmentations = [type(dataset.augmentations) for dataset in datamodule.train_data.by_category.values()]
    assert augmentations == [RandomHorizontalFlip, RandomHorizontalFlip, type(None), type(None)]


@pytest.mark.parametrize("dataset", ["MVTecAD", "MPDD", "BTech", "MVTecAD2", "MVTecLOCO", "Visa"])
def test_datasets_of_anomalib_keep_their_splits_and_masks(dataset, tmp_path):
    """Each dataset of anomalib keeps its own validation split, and masks fit labels."""
    datamodule = MultiCategory(tmp_path, dataset=dataset, categories=write_folders(tmp_path, dataset), num_workers=0)
    datamodule.prepare_data()
    datamodule.setup()

    assert len(datamodule.train_data) == 2
    assert len(datamodule.val_data) == (2 if "validation/good" in FOLDERS[dataset][1] else 4)
    (batch,) = datamodule.test_dataloader()
    assert batch.gt_mask.sum((1, 2)).gt(0).tolist() == batch.gt_label.tolist()
    assert sorted(batch.gt_label.tolist()) == [False, False, True, True]


def test_mixture_can_be_written_in_yaml(root, tmp_path):
    """A configuration file can nest datamodules with short and long class paths."""
    config = {
        "class_path": "MultiCategory",
        "init_args": {
            "num_workers": 0,
            "datamodules": [
                {"class_path": "MultiCategory", "init_args": {"root": str(root), "categories": ["nut", "plate"]}},
                {
                    "class_path": "MultiCategory",
                    "init_args": {"root": str(tmp_path), "dataset": "Visa", "dataset_args": {"val_split_mode": "none"}},
                },
                {"class_path": "anomalib.data.Folder", "init_args": {"name": "wood", "normal_dir": "good"}},
            ],
        },
    }
    (tmp_path / "data.yaml").write_text(json.dumps(config))  # JSON is YAML

    datamodule = MultiCategory.from_config(tmp_path / "data.yaml")

    assert datamodule.categories[:3] == ["nut", "plate", "candle"]
    assert datamodule.categories[-1] == "wood"
    assert datamodule.by_category["pcb1"].val_split_mode == ValSplitMode.NONE


def test_two_lines_with_the_same_products(tmp_path):
    """Equal products of two roots are told apart by what differs of these, in data, evaluation and saved results."""
    for line, defect in (("line1", 2), ("line2", 1)):
        make_category(tmp_path / line, "nut", defect=defect, size=(64, 32))
        for path in sorted((tmp_path / line).rglob("good/*.png")):
            make_image(path, 61 if line == "line1" else 62, size=(64, 32))
    make_category(tmp_path / "line2", "cap", size=(64, 32))
    datamodule = MultiCategory(
        datamodules=[MultiCategory(tmp_path / line) for line in ("line1", "line2")], num_workers=0
    )

    model = vqflow()
    engine(tmp_path / "results", max_epochs=1).fit(model, datamodule=datamodule)
    engine(tmp_path / "results").test(model, datamodule=datamodule)

    assert datamodule.categories == ["line1_nut", "cap", "line2_nut"]
    counts = {"cap": 2, "line1_nut": 2, "line2_nut": 1, "macro": 5, "pooled": 5}
    assert model.evaluator.results["anomalous"].to_dict() == counts


def test_prefix_names_a_part(root, tmp_path):
    """A prefix stands before the names of all categories of its part, also in YAML, and in parts of parts."""
    inner = MultiCategory(root, categories=["nut", "bolt"], prefix="line1")
    assert inner.categories == ["line1_nut", "line1_bolt"]
    assert inner.name == "products"
    part = {"class_path": "MultiCategory", "init_args": {"root": str(root), "categories": "nut"}}
    (tmp_path / "data.yaml").write_text(
        json.dumps(
            {
                "class_path": "MultiCategory",
                "init_args": {
                    "datamodules": [part, {**part, "init_args": {**part["init_args"], "prefix": "b"}}],
                    "prefix": "a",
                },
            }
        )
    )

    datamodule = MultiCategory.from_config(tmp_path / "data.yaml")

    assert datamodule.categories == ["a_nut", "a_b_nut"]


def test_one_image_in_two_categories_raises(root):
    """The same folder under two names is refused, as its images would count for one of them only."""
    parts = [MultiCategory(root, categories="nut", prefix=prefix) for prefix in ("a", "b")]

    with pytest.raises(ValueError, match=r"Categories 'a_nut' and 'b_nut' share the image .*000\.png"):
        MultiCategory(datamodules=parts).setup()


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("val_split_mode", "from_train"), ("val_split_ratio", 0.3), ("test_split_mode", "none")),
        *(("test_split_ratio", 0.3), ("categories", "nut"), ("dataset_args", {"seed": 0})),
    ],
)
def test_arguments_without_effect_raise(root, argument, value):
    """What does not reach ready-made datamodules is refused, unless they have it already; the seed is for sampling."""
    part = CategoryFolder(root / "nut", val_split_mode="same_as_test", test_split_ratio=0.25)

    with pytest.raises(ValueError, match=argument):
        MultiCategory(datamodules=[part], **{argument: value})
    MultiCategory(datamodules=[part], val_split_mode="same_as_test", test_split_ratio=0.25, seed=1)


def test_several_masks_of_an_image_are_checked_and_united(root):
    """Every mask of an image is checked at setup, and the item has all of them."""
    make_mask(root / "nut/ground_truth/hole/000/1.png", corner=20)
    datamodule = multi_category(root, categories="nut")
    datamodule.setup()

    areas = [int(batch.gt_mask.sum()) for batch in datamodule.test_dataloader()]
    assert areas == [64 + 64 + 64]
    make_mask(root / "nut/ground_truth/hole/001_2.png", size=(16, 16))
    with pytest.raises(ValueError, match=r"001_2\.png is 16x16"):
        multi_category(root, categories="nut").setup()


def test_normal_test_images_are_kept_without_a_test_split(root):
    """`none`, the default of anomalib's `RealIAD`, drops no normal test image of any datamodule."""
    datamodule = multi_category(root, dataset="MVTecAD", categories="bottle", test_split_mode="none")
    (root / "nut").rename(root / "bottle")
    datamodule.setup()

    assert datamodule.test_data.samples.label_index.tolist() == [0, 0, 1, 1]


def test_own_augmentations_come_first(root):
    """Augmentations of the mixture replace those of its datamodules."""
    inner = MultiCategory(root, train_augmentations=RandomHorizontalFlip())
    datamodule = MultiCategory(datamodules=[inner], train_augmentations=RandomVerticalFlip())
    datamodule.setup()

    assert all(
        type(dataset.augmentations) is RandomVerticalFlip for dataset in datamodule.train_data.by_category.values()
    )


def test_augmentations_apply(root):
    """General augmentations reach the images of every subset."""
    datamodule = multi_category(root, augmentations=Resize((24, 16)))
    datamodule.setup()

    assert datamodule.val_data[0].image.shape == (3, 24, 16)


def test_wrong_combinations_raise(root, tmp_path):
    """No place for images, two places, and an empty list of datamodules are refused."""
    with pytest.raises(ValueError, match="none of `root`, `dataset` and `datamodules`"):
        MultiCategory()
    with pytest.raises(ValueError, match="leave one of them out"):
        MultiCategory(root, datamodules=[MVTecAD(tmp_path)])
    with pytest.raises(ValueError, match="at least one datamodule"):
        MultiCategory(datamodules=[])


def test_broken_image_is_found_at_setup(root):
    """An unreadable test image is named before training."""
    (root / "nut/test/hole/000.png").write_bytes(b"broken")

    with pytest.raises(ValueError, match=r"cannot read .*nut/test/hole/000\.png"):
        multi_category(root).setup()


def test_category_without_normal_images_is_found_at_setup(root):
    """A category without normal images is named before training."""
    shutil.rmtree(root / "nut/train")

    with pytest.raises(ValueError, match="'nut' has no normal training images"):
        multi_category(root).setup()


def test_duplicates_of_training_images_are_named(root):
    """A test image that equals a training image is named in a warning, with its twin."""
    (root / "nut/test/good/000.png").write_bytes((root / "nut/train/good/001.png").read_bytes())

    with pytest.warns(
        UserWarning, match=r"1 test images are .*nut/test/good/000\.png equals .*nut/train/good/001\.png"
    ):
        multi_category(root).setup()


def test_results_folder_is_named_after_the_data(root, tmp_path):
    """Results are sorted after the innermost folder that holds all categories."""
    assert multi_category(root).name == "products"
    assert multi_category(root, categories="nut").name == "products"
    assert MultiCategory(tmp_path / "sets", dataset="Visa").name == "sets"


@pytest.mark.parametrize("balanced", [False, True])
def test_category_names_change_neither_training_nor_prediction(root, tmp_path, balanced):
    """Folders under each other's name change neither order nor weights nor predictions; results change their name."""
    renamed = {"bolt": "nut", "nut": "plate", "plate": "bolt"}
    for old, new in renamed.items():
        shutil.copytree(root / old, tmp_path / "scrambled" / new)
    outputs = []
    for folder, names in ((root, list(renamed)), (tmp_path / "scrambled", list(renamed.values()))):
        datamodule = multi_category(folder, categories=names, train_batch_size=4, balanced_sampling=balanced, seed=0)
        model = vqflow()
        engine(tmp_path, max_epochs=2).fit(model, datamodule=datamodule)
        predictions = engine(tmp_path).predict(model, datamodule=datamodule)
        engine(tmp_path).test(model, datamodule=datamodule)
        scores = torch.cat([batch.pred_score for batch in predictions])
        seed_everything(0)
        order = torch.cat([batch.image for batch in datamodule.train_dataloader()])
        outputs.append((model.state_dict(), order, scores, model.evaluator.results))

    (state_a, order_a, scores_a, results_a), (state_b, order_b, scores_b, results_b) = outputs
    assert all(torch.equal(state_a[key], state_b[key]) for key in state_a)
    assert torch.equal(order_a, order_b)
    assert torch.equal(scores_a, scores_b)
    assert len(scores_a) == 11
    assert_series_equal(results_a.loc["pooled"], results_b.loc["pooled"])
    for old, new in renamed.items():
        assert_series_equal(results_a.loc[old], results_b.loc[new], check_names=False)


def test_items_do_not_carry_their_category(root):
    """A model cannot read the category from an item."""
    datamodule = multi_category(root)
    datamodule.setup()

    assert not hasattr(datamodule.train_data[0], "category")


@pytest.mark.parametrize("place", [3, 0.5, True, ["products"], b"products", object()])
def test_a_root_that_is_no_path_is_refused(place):
    """Whatever is no path is refused by the argument's name."""
    with pytest.raises(TypeError, match="`root` to be the path of a folder of categories, got"):
        MultiCategory(place)
