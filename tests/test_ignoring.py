# SPDX-License-Identifier: Apache-2.0
"""Validation, tests and predictions without regions that shall not count."""

import csv

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from lightning.pytorch import seed_everything
from PIL import Image
from torchvision.tv_tensors import Mask

from anomalib_vqflow import CategoryEvaluator, IgnoreRegions, SeparatingPostProcessor, VQFlow
from anomalib_vqflow.anomaly_map import Scores, to_unit
from anomalib_vqflow.prediction.__main__ import main

from .data.folders import make_category
from .tiny import tiny_data, tiny_engine, tiny_model

LOW, HIGH = -1.0, 20.0  # of raw maps


def write_mask(path, left=16, size=(32, 32)):
    """Ignore the left columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size, dtype=np.uint8)
    mask[:, :left] = 255
    Image.fromarray(mask).save(path)
    return path


def started(place, defects=()):
    """A callback after the model has scored a batch."""
    callback, model = IgnoreRegions(place), tiny_model()
    callback.setup(None, model, "test")
    generator = model.model.anomaly_map_generator
    raw = raw_maps(defects)
    generator.forward = lambda: Scores(to_unit(raw), torch.full((2,), 0.9), raw, raw)
    generator()
    return callback


def raw_maps(defects):
    maps = torch.full((2, 1, 32, 32), LOW)
    for index, column in defects:
        maps[index, :, :8, column : column + 4] = HIGH
    return maps


def batch(paths=None, defects=((0, 8), (0, 24))):
    """Two images with a defect in the left, and with one in the left and one in the right."""
    truth = torch.zeros(2, 32, 32)
    for index, column in defects:
        truth[index, :8, column : column + 4] = 1
    return ImageBatch(
        image=torch.zeros(2, 3, 32, 32),
        pred_score=torch.full((2,), 0.9),
        anomaly_map=to_unit(raw_maps(defects)),
        gt_mask=Mask(truth.bool()),
        gt_label=truth.flatten(1).any(dim=1),
        image_path=paths,
    )


def test_tiles_are_refused(tmp_path):
    """The score of the best tile does not tell what it would be without some pixels."""
    callback, model = IgnoreRegions(write_mask(tmp_path / "mask.png")), tiny_model(input_size=(64, 96), tile_size=48)
    with pytest.raises(ValueError, match="IgnoreRegions does not go with tile_size"):
        callback.setup(None, model, "test")


@pytest.mark.parametrize("hook", ["on_validation_batch_end", "on_test_batch_end", "on_predict_batch_end"])
def test_an_ignored_defect_is_none(tmp_path, hook):
    """Neither in score and map, nor in the ground truth; defects elsewhere stay."""
    defects = [(0, 8), (1, 8), (1, 24)]
    callback, given = started(write_mask(tmp_path / "mask.png"), defects), batch(defects=defects)
    getattr(callback, hook)(None, None, given)
    torch.testing.assert_close(given.pred_score, to_unit(torch.tensor([LOW, HIGH])))
    assert (given.anomaly_map[..., :16] == 0).all()
    assert given.gt_label.tolist() == [False, True]
    assert given.gt_mask[1].sum() == 32
    assert not given.gt_mask[..., :16].any()


def test_truth_without_masks_is_kept(tmp_path):
    """Nobody knows where the defect is."""
    callback, given = started(write_mask(tmp_path / "mask.png"), [(0, 8)]), batch(defects=[(0, 8)])
    given.gt_label[1] = True
    callback.on_test_batch_end(None, None, given)
    assert given.gt_label.tolist() == [False, True]
    given = ImageBatch(image=given.image, pred_score=given.pred_score, anomaly_map=given.anomaly_map)
    callback.on_predict_batch_end(None, None, given)
    assert given.gt_label is None


def varying(named_maps, product, columns):
    """Whether any map of a product is more than the lowest value, which those of some normal images are all over."""
    return any(part.max() > 0 for path, part in ((p, m[..., columns]) for p, m in named_maps) if product in path)


def test_a_run_with_a_mask_for_one_product(tmp_path):
    """Its regions are taken out before anything reads predictions, as ``vqflow-predict`` does; a warning tells where
    a mask fits nothing.
    """
    seed_everything(0)
    for name in ("bolt", "nut"):
        make_category(tmp_path / "data", name, size=(40, 48))
    masks, data = tmp_path / "masks", tiny_data(tmp_path / "data")
    write_mask(masks / "nut.png", left=20, size=(48, 40))
    engine = tiny_engine(tmp_path, callbacks=[IgnoreRegions(masks)])
    engine.train(tiny_model(), datamodule=data)
    kinds = [type(callback) for callback in engine.trainer.callbacks]
    assert kinds.index(IgnoreRegions) < min(kinds.index(SeparatingPostProcessor), kinds.index(CategoryEvaluator))
    batches = engine.predict(VQFlow.load_from_checkpoint(engine.best_model_path), datamodule=data)
    named = [pair for found in batches for pair in zip(found.image_path, found.anomaly_map, strict=True)]
    left, right = slice(None, 32), slice(32, None)
    assert varying(named, "nut", right)
    assert not varying(named, "nut", left)
    assert varying(named, "bolt", left)
    scores = {path: score for found in batches for path, score in zip(found.image_path, found.pred_score, strict=True)}
    options = ["--ignore", str(masks), "--output", str(tmp_path / "out.csv"), "--device", "cpu"]
    assert main([engine.best_model_path, *scores, *options]) == 0
    for row in csv.DictReader((tmp_path / "out.csv").open()):
        assert float(row["score"]) == pytest.approx(scores[row["path"]].item(), abs=1e-5)
    write_mask(masks / "nut.png").rename(masks / "lid.png")
    with pytest.warns(UserWarning, match="No image lies in a folder that a mask in .* nothing is ignored"):
        engine.test(tiny_model(), datamodule=data, ckpt_path=engine.best_model_path)


def test_a_mask_of_other_proportions_names_the_image(tmp_path, root):
    """Before anything is computed with it."""
    callback = started(write_mask(tmp_path / "mask.png", size=(32, 64)))
    path = str(root / "nut" / "test" / "good" / "000.png")
    with pytest.raises(ValueError, match=r"000\.png: the mask \S+mask\.png of 64x32 has other proportions"):
        callback.on_test_batch_end(None, None, batch([path, path]))


def test_a_mask_that_is_missing_is_named(tmp_path):
    """When a run begins."""
    with pytest.raises(ValueError, match=r"There is no mask or folder of masks \S*missing\.png"):
        started(tmp_path / "missing.png")
