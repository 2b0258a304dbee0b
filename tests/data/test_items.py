# SPDX-License-Identifier: Apache-2.0
"""Items of every dataset of anomalib, read by our readers, are what anomalib gives for ordinary files."""

import json

import anomalib.data
import pandas as pd
import pytest
import torch
from anomalib.data.datasets import AnomalibDataset
from anomalib.data.datasets.base.depth import AnomalibDepthDataset
from PIL import Image
from torchvision.transforms.v2 import Resize

from anomalib_vqflow import MultiCategory
from anomalib_vqflow.data.categories import _takes_category
from anomalib_vqflow.data.items import mask_files, read_item

from .anomalib_folders import FOLDERS, write_folders
from .folders import make_category, make_image, make_mask


def write_real_iad(root, _):
    data = {"train": [], "test": []}
    for split, kind in (("train", "OK"), ("test", "OK"), ("test", "AK")):
        for index in range(2):
            name = f"{split}_{kind}_{index}"
            make_image(root / "realiad_256" / "mint" / f"{name}.jpg", 60)
            make_mask(root / "realiad_256" / "mint" / f"{name}_mask.png")
            mask = f"{name}_mask.png" if kind == "AK" else None
            data[split].append({"image_path": f"{name}.jpg", "mask_path": mask, "anomaly_class": kind})
    path = root / "realiad_jsons" / "realiad_jsons" / "mint.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(data))
    return "mint"


def write_kaputt(root, monkeypatch):
    """Write images, and stand in for the reader of its tables, which needs a library of its own."""
    frames = {}
    for split in ("train", "validation", "test"):
        rows = []
        for index in range(4):
            name = f"data/{split}/query-data/{{}}/{index}.png"
            make_image(root / "query-image" / name.format("image"), 60 + index)
            make_mask(root / "query-mask" / name.format("mask"))
            rows.append([name.format("image"), name.format("mask"), index, index >= 2, "paper", ""])
        path = root / "datasets" / f"query-{split}.parquet"
        path.parent.mkdir(exist_ok=True)
        path.touch()
        names = ["query_image", "query_mask", "capture_id", "defect", "item_material", "defect_types"]
        frames[path.name] = pd.DataFrame(rows, columns=names)
    monkeypatch.setattr("anomalib.data.datasets.image.kaputt.module_available", lambda _: True)
    monkeypatch.setattr(pd, "read_parquet", lambda path: frames[path.name].copy())
    return "paper"


WRITERS = {**dict.fromkeys(FOLDERS), "Kaputt": write_kaputt, "RealIAD": write_real_iad}


@pytest.fixture(params=WRITERS)
def datamodule(request, tmp_path, monkeypatch):
    writer = WRITERS[request.param]
    category = write_folders(tmp_path, request.param) if writer is None else writer(tmp_path, monkeypatch)
    datamodule = MultiCategory(tmp_path, dataset=request.param, categories=category, num_workers=0)
    datamodule.prepare_data()
    if request.param == "Kaputt":
        with pytest.warns(UserWarning, match="2 training images of 'paper' are anomalous"):
            datamodule.setup()
    else:
        datamodule.setup()
    return datamodule


def test_every_dataset_is_tried():
    """No dataset of anomalib that we take is left out below."""
    assert {name for name in anomalib.data.__all__ if _takes_category(getattr(anomalib.data, name))} == {*WRITERS}


def test_every_dataset_trains_on_normal_images_and_tests_with_masks(datamodule):
    """Training images are normal, and test masks fit labels."""
    (train,) = datamodule.train_dataloader()
    (test,) = datamodule.test_dataloader()

    assert train.image.shape == (2, 3, 32, 32)
    assert not train.gt_label.any()
    assert sorted(test.gt_label.tolist()) == [False, False, True, True]
    assert test.gt_mask.sum((1, 2)).tolist() == [64 * label for label in test.gt_label.tolist()]


def test_items_of_ordinary_files_are_those_of_anomalib(datamodule):
    """Image, mask, label and paths are what the dataset itself gives, with and without a transform."""
    for subset in (datamodule.train_data, datamodule.test_data):
        for dataset in subset.by_category.values():
            if isinstance(dataset, AnomalibDepthDataset):
                continue  # its own items have depth
            for transform in (None, Resize((16, 24))):
                dataset.augmentations = transform
                for index in range(len(dataset)):
                    ours, theirs = read_item(dataset, index, None), dataset[index]
                    assert torch.equal(ours.image, theirs.image)
                    assert (ours.gt_mask is None) == (theirs.gt_mask is None)
                    assert ours.gt_mask is None or torch.equal(ours.gt_mask, theirs.gt_mask)
                    assert ours.gt_label == theirs.gt_label
                    assert (ours.image_path, ours.mask_path) == (theirs.image_path, theirs.mask_path)


def test_a_category_whose_dataset_has_no_masks_has_none(tmp_path):
    """Where anomalib's ``BMAD`` promises masks that are not there, images have labels only."""
    write_folders(tmp_path, "BMAD")
    for path in tmp_path.rglob("label/*"):
        path.unlink()
    datamodule = MultiCategory(tmp_path, dataset="BMAD", categories="Brain", num_workers=0)
    datamodule.setup()

    (batch,) = datamodule.test_dataloader()

    assert batch.gt_mask is None
    assert sorted(batch.gt_label.tolist()) == [False, False, True, True]


def test_an_own_folder_of_images_with_depth_gives_its_images(tmp_path):
    """``Folder3D`` is taken among ``datamodules``."""
    write_folders(tmp_path, "MVTec3D")
    root = tmp_path / "bagel"
    folder = anomalib.data.Folder3D(
        "bagel",
        root=root,
        normal_dir="train/good/rgb",
        normal_depth_dir="train/good/xyz",
        abnormal_dir="test/cut/rgb",
        abnormal_depth_dir="test/cut/xyz",
        normal_test_dir="test/good/rgb",
        normal_test_depth_dir="test/good/xyz",
        mask_dir="test/cut/gt",
        val_split_mode="same_as_test",
    )
    datamodule = MultiCategory(datamodules=[folder], num_workers=0)
    datamodule.setup()

    (train,) = datamodule.train_dataloader()
    (test,) = datamodule.test_dataloader()

    assert train.image.shape == (2, 3, 32, 32)
    assert test.gt_mask.sum((1, 2)).tolist() == [64 * label for label in test.gt_label.tolist()]


class OwnItems(AnomalibDataset):
    """A dataset that reads images in its own way."""

    def __init__(self, dataset):
        super().__init__()
        self._samples = dataset.samples

    def __getitem__(self, index):
        return f"item {index}"


def test_a_dataset_with_items_of_its_own_keeps_them(tmp_path):
    """Who overrides how items are read is not overruled."""
    make_category(tmp_path, "nut")
    datamodule = MultiCategory(tmp_path)
    datamodule.setup()

    assert read_item(OwnItems(datamodule.train_data), 3, None) == "item 3"


@pytest.mark.parametrize("synthetic", [True, False])
def test_who_reads_images_without_us_gets_only_ordinary_ones(tmp_path, synthetic):
    """Images that anomalib misreads are refused where anomalib makes test images of them, or a dataset reads alone."""
    category = make_category(tmp_path, "nut")
    for path in (category / "train/good").iterdir():  # all of them: anomalib draws those that it makes test images of
        Image.new("I;16", (32, 32), 4000).save(path)
    datamodule = MultiCategory(tmp_path, num_workers=0, val_split_mode="synthetic" if synthetic else "same_as_test")
    if not synthetic:
        (part,) = datamodule.by_category.values()
        setup = part.setup

        def with_own_items(*args):
            setup(*args)
            part.train_data = OwnItems(part.train_data)

        part.setup = with_own_items

    with pytest.raises(ValueError, match=r"misreads those of more than 8 bits .*nut/train/good/\d{3}\.png"):
        datamodule.setup()


def test_files_of_masks():
    """A path, several, or none in any form that data frames have for it."""
    assert mask_files("a.png") == ["a.png"]
    assert mask_files(["a.png", "b.png"]) == ["a.png", "b.png"]
    assert mask_files("") == mask_files(None) == mask_files(float("nan")) == []
