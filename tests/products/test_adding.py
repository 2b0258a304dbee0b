# SPDX-License-Identifier: Apache-2.0
from copy import deepcopy

import numpy as np
import openvino
import pytest
import torch
from anomalib.data import PredictDataset
from anomalib.deploy import CompressionType
from lightning.pytorch import seed_everything
from torch.testing import assert_close

from anomalib_vqflow import VQFlow
from anomalib_vqflow.anomaly_map import from_unit
from anomalib_vqflow.products import add_products, save_checkpoint
from anomalib_vqflow.products.adding import count_taken
from tests.export.predictions import FP32
from tests.tiny import tiny_data, tiny_engine, tiny_model
from tests.training import assert_same_bits

from .conftest import NEW, OLD, SIZE, seeing_model


def images(root, *names, kind="**"):
    """The test images of products, as the model takes them."""
    paths = [path for name in names for path in sorted((root / name / "test").glob(f"{kind}/*.png"))]
    return torch.stack([PredictDataset(path, image_size=SIZE)[0].image for path in paths])


def test_old_products_are_predicted_as_before_to_the_bit(model, root, data):
    """Scores, labels, maps and concepts, in batches with new ones and without."""
    old, new = images(root, "cable", "gear"), images(root, "fabric", "plank")
    before = model(old)
    add_products(model, data("fabric", "plank"))
    assert_close(model(old), before, rtol=0, atol=0)
    mixed = model(torch.cat((new, old)))
    for expected, found in zip(before, mixed, strict=True):
        if expected is not None:
            assert_close(found[len(new) :], expected, rtol=1e-5, atol=1e-6)


def test_images_that_pass_for_a_new_product_are_counted(model, root, data):
    """They are those that are predicted with its concept; new products themselves are not counted."""
    add_products(model, data("fabric", "plank"))
    taken = count_taken(model, data("cable", "gear", "fabric"), num_before=4)
    assert taken.keys() == {"cable", "gear"}
    for name, (count, num_images) in taken.items():
        paths = sorted((root / name / "train").rglob("*.png"))
        shown = torch.stack([PredictDataset(path, image_size=SIZE)[0].image for path in paths])
        assert num_images == 16
        assert count == (model(shown).concept >= 4).sum() < 4


def test_new_products_are_known(model, root, data):
    """Their images have concepts of their own, and normal ones are no longer as foreign as before."""
    normal = images(root, "fabric", "plank", kind="good")
    before = model(normal)
    found = add_products(model, data("fabric", "cable", "plank"))
    after = model(normal)
    assert [(addition.product, addition.concept, addition.num_images) for addition in found] == [
        ("fabric", 4, 16),
        ("plank", 5, 16),
    ]
    assert all(addition.found > 0.9 for addition in found)
    assert after.concept.tolist() == [4] * 4 + [5] * 4
    assert (after.pred_score < before.pred_score).all()
    assert model.product_counts["fabric"] == [0, 0, 0, 0, 16, 0]
    assert sum(model.product_counts["plank"]) == model.product_counts["plank"][5] > 14
    assert [len(counts) for counts in model.product_counts.values()] == [6] * 4
    assert model.hparams["num_concepts"] == 6


def test_defects_of_new_products_are_found(model, root, data):
    """They score higher than the normal images of their product on average, which are under the threshold."""
    add_products(model, data("fabric"))
    normal = model(images(root, "fabric", kind="good"))
    scores = model(images(root, "fabric")).pred_score
    assert scores.sum() - normal.pred_score.sum() > 4 * normal.pred_score.mean()
    assert not normal.pred_label.any()


def test_scores_of_new_products_are_on_the_scale_of_all(model, data):
    """Images that were held out in turn are where the normal validation images of the others are."""
    (addition,) = add_products(model, data("fabric"))
    known = from_unit(model.post_processor.normal_scores[:, 0])
    assert addition.alarms <= 0.25
    assert model.model.anomaly_map_generator.calibration.location.shape == (5,)
    assert model.post_processor.num_concepts == 5
    features = [model.model.see(model.prepare(batch.image)) for batch in data("fabric").train_dataloader()]
    outputs = [model.model.encode(maps) for maps in features]
    scores = [
        model.model.anomaly_map_generator.uncalibrated_scores(output.latents, output.log_dets, SIZE)
        for output in outputs
    ]
    calibrated = model.model.anomaly_map_generator.calibration(torch.cat(scores), torch.full((16,), 4))
    assert calibrated.median() < known.median()  # of images that the Gaussian was fitted to


@pytest.mark.parametrize("score_map", ["additive", "multiplicative"])
def test_relative_maps_are_refused(root, tmp_path, score_map):
    """Such a model does not know where its images lie."""
    model, engine = tiny_model(score_map=score_map), tiny_engine(tmp_path)
    engine.fit(model, datamodule=tiny_data(root, categories=["cable", "gear"]))
    datamodule = tiny_data(root, categories=["fabric"])
    datamodule.setup()
    with pytest.raises(ValueError, match="does not know where the images of its products lie"):
        add_products(model.eval(), datamodule)


def test_tiles_are_refused(root):
    """Their images have many concepts."""
    datamodule = tiny_data(root, categories=["fabric"])
    datamodule.setup()
    with pytest.raises(ValueError, match="tile_size"):
        add_products(tiny_model(tile_size=32).eval(), datamodule)


def test_known_products_are_refused(model, data):
    """There is nothing to add."""
    with pytest.raises(ValueError, match=r"knows all of these products: cable, gear"):
        add_products(model, data("cable", "gear"))


def test_a_product_of_one_image_is_refused(model, data):
    """Nothing can be held out of its Gaussian; the model stays what it is."""
    datamodule, before = data("fabric"), deepcopy(model.state_dict())
    dataset = datamodule.train_data.by_category["fabric"]
    dataset.samples = dataset.samples.iloc[:1].reset_index(drop=True)
    with pytest.raises(ValueError, match=r"Of 1 images of fabric, 1 can be told .* at least 2, and half"):
        add_products(model, datamodule)
    assert_same_bits(dict(model.state_dict()), dict(before))


def test_no_training_goes_on_with_added_products(model, root, data, tmp_path):
    """It would change what the Gaussians were fitted to; the error says what to do instead."""
    add_products(model, data("fabric"))
    with pytest.raises(ValueError, match="Train the model of before"):
        tiny_engine(tmp_path).fit(model, datamodule=tiny_data(root, categories=["cable", "gear"]))


def test_a_saved_model_is_the_same(model, root, data, tmp_path):
    """After loading; a second product can be added to it then."""
    add_products(model, data("fabric"))
    save_checkpoint(model, tmp_path / "extended.ckpt")
    loaded = VQFlow.load_from_checkpoint(tmp_path / "extended.ckpt", map_location="cpu")
    shown = images(root, "cable", "fabric", "plank")
    assert_close(loaded(shown), model(shown), rtol=0, atol=0)
    assert loaded.product_counts == model.product_counts
    add_products(loaded, data("plank"))
    assert loaded(images(root, "plank", kind="good")).concept.tolist() == [5] * 4
    assert_close(loaded(images(root, "cable")), model(images(root, "cable")), rtol=0, atol=0)


def test_exports_know_added_products(root, data, tmp_path, onnx_steps):
    """An export predicts as the checkpoint does; in INT8, the maps of each product go with it.

    The model knows textures, as a texture that is added to one of parts alone lies too far out for INT8.
    """
    seed_everything(0)
    model, engine, shown = seeing_model(), tiny_engine(tmp_path, max_epochs=12), images(root, *OLD, *NEW)
    engine.fit(model, datamodule=tiny_data(root, categories=["cable", *NEW]))
    add_products(model.eval(), data("gear"))
    expected = model(shown)
    with onnx_steps():
        path = engine.export(model, "openvino", export_root=tmp_path)
        quantized = {"compression_type": CompressionType.INT8_PTQ, "datamodule": tiny_data(root)}
        in_int8 = engine.export(model, "openvino", export_root=tmp_path / "int8", **quantized)
    found = openvino.compile_model(path, "CPU", FP32)(shown.numpy())
    for name in ("pred_score", "anomaly_map"):
        assert_close(torch.from_numpy(found[name]), getattr(expected, name), rtol=1e-3, atol=1e-3)
    compiled = openvino.compile_model(in_int8, "CPU", FP32)
    for name in (*OLD, *NEW):
        of_product = images(root, name)
        maps = compiled(of_product.numpy())["anomaly_map"], model(of_product).anomaly_map.numpy()
        assert np.corrcoef(*map(np.ravel, maps))[0, 1] > 0.9
