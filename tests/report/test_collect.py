# SPDX-License-Identifier: Apache-2.0
"""The tables of images: the same scores and decisions as anomalib's own test, concepts and distances as defined."""

import math

import numpy as np
import pytest
import torch
from anomalib.data import Folder, InferenceBatch
from anomalib.post_processing import PostProcessor
from torchvision.transforms.v2 import RandomErasing

from anomalib_vqflow.post_processor import SeparatingPostProcessor
from anomalib_vqflow.report.collect import collect, image_threshold, uncalibrated_scores
from anomalib_vqflow.sources import SourceError, set_up
from tests.data.folders import make_category
from tests.tiny import tiny_data, tiny_engine, tiny_model, tiny_torch_model


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("products")
    make_category(folder, "bolt", size=(40, 30))
    make_category(folder, "nut", masks=False, good=3)
    return folder


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    model = tiny_model()
    engine = tiny_engine(tmp_path_factory.mktemp("run"))
    engine.fit(model, datamodule=tiny_data(root))
    predictions = engine.predict(model, dataloaders=tiny_data_ready(root, model).test_dataloader())
    return model.eval(), predictions


def tiny_data_ready(root, model, **arguments):
    datamodule = tiny_data(root, **arguments)
    set_up(datamodule, model)
    return datamodule


@pytest.fixture(scope="module")
def collected(trained, root):
    return collect(trained[0], tiny_data_ready(root, trained[0]), 100)


def test_decisions_are_those_of_anomalib(trained, collected):
    """Every test image gets the score's side of the threshold that anomalib's prediction gives it."""
    labels = {
        path: bool(label)
        for batch in trained[1]
        for path, label in zip(batch.image_path, batch.pred_label, strict=True)
    }
    assert dict(zip(collected.test["path"], collected.test["alarm"], strict=True)) == labels
    assert len(labels) == 9


def test_decisions_are_those_of_the_concepts(trained, root):
    """Where concepts have thresholds of their own, an image is held against that of its concept."""
    model, datamodule = trained[0], tiny_data_ready(root, trained[0])
    post_processor = model.post_processor
    offsets = torch.tensor([-1000.0, 1000.0]).repeat(2)
    post_processor.image_offsets = offsets
    try:
        test = collect(model, datamodule, 100).test
    finally:
        post_processor.image_offsets = torch.zeros(0)

    assert (test["alarm"] == (offsets[test["concept"].to_numpy()] < 0).numpy()).all()


def test_tiles_have_rows_in_training_and_images_in_the_test(root):
    """A training image has a row for each of its tiles, and scores of test images are the highest of their tiles."""
    torch.manual_seed(0)
    model = tiny_model(input_size=(64, 96), tile_size=64)
    generator = model.model.anomaly_map_generator
    with torch.no_grad():
        model.model(torch.rand(8, 3, 64, 96))
        model.eval().model.fit_calibration_([model.model.see(torch.rand(8, 3, 64, 96))])
    collected = collect(model, tiny_data_ready(root, model), 100)
    assert len(collected.train) == 2 * collected.num_train
    assert collected.train["path"].value_counts().unique().tolist() == [2]
    assert len(collected.test) == 9

    generator.calibration.reset_()
    plain = collect(model, tiny_data_ready(root, model), 100).test
    np.testing.assert_allclose(collected.test["plain"], plain["score"], atol=1e-6)


@pytest.mark.parametrize("sensitivity", [0.4, 0.5, 0.6])
@pytest.mark.parametrize("normalize", [False, True])
def test_threshold_is_that_of_the_post_processor(sensitivity, normalize):
    """Scores above the threshold, and no others, are called anomalous by anomalib's post-processor."""
    post_processor = PostProcessor(image_sensitivity=sensitivity, enable_normalization=normalize)
    for name, value in (("_image_threshold", 0.55), ("image_min", 0.3), ("image_max", 0.8)):
        getattr(post_processor, name).fill_(value)
    scores = torch.linspace(0.3113, 0.7887, 97)  # none at the threshold itself
    threshold = image_threshold(post_processor)
    assert 0.31 < threshold < 0.79
    assert torch.equal(post_processor(InferenceBatch(pred_score=scores)).pred_label, scores > threshold)


def test_no_threshold():
    """Without post-processor or thresholding there is no threshold."""
    assert math.isnan(image_threshold(None))
    assert math.isnan(image_threshold(PostProcessor(enable_thresholding=False)))
    assert math.isnan(image_threshold(SeparatingPostProcessor()))


def test_every_image_is_there_once(collected):
    """All training and test images are there, each with its category; labels are those of the folders."""
    assert collected.num_train == len(collected.train) == 8
    assert collected.train["path"].is_unique
    assert collected.categories == ["bolt", "nut"]
    for images in (collected.train, collected.test):
        assert all(f"/{category}/" in path for path, category in zip(images["path"], images["category"], strict=True))
    assert list(collected.test["anomalous"]) == ["hole" in path for path in collected.test["path"]]


def test_concepts_are_the_nearest_prototypes(trained, collected, root):
    """The concept of an image is that of a prediction for it alone, at the distance of its embedding."""
    model = trained[0]
    data = tiny_data_ready(root, model).train_data
    row = collected.train.iloc[3]
    item = next(item for item in data if item.image_path == row["path"])
    semantic = model.model.features(model.pre_processor(item.image[None])).semantic
    embedding = model.model.concept.mlp(semantic.mean(dim=(2, 3)))
    codebook = model.model.concept.codebook
    distances = (codebook.codes[codebook.code_counts > 0] - embedding).norm(dim=1)
    assert row["distance"] == pytest.approx(distances.min().item(), rel=1e-4)
    assert codebook.nearest(embedding).item() == row["concept"]


def test_share_of_training_images(trained, root, caplog):
    """A smaller share is drawn evenly from all categories, and said to be one."""
    collected = collect(trained[0], tiny_data_ready(root, trained[0]), 4)
    assert collected.num_train == 8
    assert collected.train["category"].value_counts().to_dict() == {"bolt": 2, "nut": 2}
    assert "share of 4" in caplog.text


@pytest.mark.parametrize("largest", [1, 3, 5, 7])
def test_shares_are_evenly_drawn(trained, collected, root, largest):
    """Training images are different, in order, and at nearly equal distances; the first one is among them."""
    drawn = collect(trained[0], tiny_data_ready(root, trained[0]), largest).train["path"]
    indices = [collected.train["path"].tolist().index(path) for path in drawn]
    assert len(indices) == largest
    assert indices[0] == 0
    assert set(np.diff([*indices, 8])) <= {8 // largest, 8 // largest + 1}


def test_random_augmentation_is_left_out(trained, collected, root):
    """Training images are seen as test images are, without what makes them random in training."""
    datamodule = tiny_data(root, train_augmentations=RandomErasing(p=1.0, scale=(0.5, 0.6)))
    set_up(datamodule, trained[0])
    again = collect(trained[0], datamodule, 100)
    assert np.allclose(again.train["distance"], collected.train["distance"])


def test_data_without_categories(trained, root):
    """Of a datamodule of anomalib's own, images are collected, but no categories."""
    datamodule = Folder(
        "bolt", "train/good", root / "bolt", "test/hole", "test/good", num_workers=0, val_split_mode="same_as_test"
    )
    set_up(datamodule, trained[0])
    collected = collect(trained[0], datamodule, 100)
    assert collected.categories == []
    assert set(collected.test["category"]) == {""}
    assert collected.test["anomalous"].sum() == 2


def test_unreadable_image_is_named(trained, root, tmp_path):
    """An image that breaks after the checks at setup is named."""
    make_category(tmp_path, "nut")
    datamodule = tiny_data_ready(tmp_path, trained[0])
    spoiled = tmp_path / "nut" / "test" / "good" / "001.png"
    spoiled.write_bytes(b"no image")
    with pytest.raises(SourceError, match=r"test images.*good/001\.png"):
        collect(trained[0], datamodule, 100)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = tiny_torch_model()
    model(torch.rand(4, 3, 64, 64))
    return model.eval()


def calibrate(model):
    calibration = model.anomaly_map_generator.calibration
    calibration.location.fill_(0.7)
    calibration.scale.fill_(2.0)
    calibration.fitted.fill_(value=True)


@torch.no_grad()
def test_plain_scores_are_those_before_calibration(model):
    """A calibrated model's plain scores are what it gave before, and differ from those it gives now."""
    images = torch.rand(3, 3, 64, 64)
    before = model(images).pred_score
    calibrate(model)
    with uncalibrated_scores(model.anomaly_map_generator) as plain:
        after = model(images).pred_score
    assert torch.equal(torch.cat(plain), before)
    assert not torch.isclose(after, before).any()


@torch.no_grad()
def test_no_calibration_no_plain_scores(model):
    """A model that is not calibrated, or whose map knows no calibration, has no plain scores."""
    images = torch.rand(3, 3, 64, 64)
    with uncalibrated_scores(model.anomaly_map_generator) as plain:
        model(images)
    assert not plain
    calibrate(model)
    model.anomaly_map_generator.score_map = "additive"
    with uncalibrated_scores(model.anomaly_map_generator) as plain:
        model(images)
    assert not plain


@torch.no_grad()
def test_hooks_are_removed(model):
    """Outside the context, the model is as it was: nothing is kept any more."""
    calibrate(model)
    with uncalibrated_scores(model.anomaly_map_generator) as plain:
        model(torch.rand(3, 3, 64, 64))
    model(torch.rand(1, 3, 64, 64))
    assert [len(scores) for scores in plain] == [3]


def test_plain_scores_of_a_report(trained, collected):
    """The table has a plain score for each test image of a calibrated model, and none of a model without."""
    assert trained[0].model.anomaly_map_generator.calibration.fitted
    assert collected.test["plain"].between(0, 1).all()
    assert not np.isclose(collected.test["plain"], collected.test["score"]).all()
