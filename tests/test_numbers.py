# SPDX-License-Identifier: Apache-2.0
"""Numbers hold: whatever the batches, on odd images and features, and twice with the same seed."""

import openvino
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.deploy import ExportType
from lightning.pytorch import seed_everything
from torch.utils.data import DataLoader

from anomalib_vqflow import FeatureCache, VQFlow

from .export.predictions import FP32
from .tiny import tiny_data, tiny_engine, tiny_model
from .training import assert_same_bits

COLORS = {"black": 0.0, "white": 1.0, "gray": 0.5}
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def images(root):
    """The test images of all categories."""
    data = tiny_data(root)
    data.setup()
    return data.test_data


def scores(model, images, **arguments):
    """Score images; a score per path."""
    found = {}
    for batch in DataLoader(images, collate_fn=ImageBatch.collate, **arguments):
        prediction = model(batch.image)
        found.update(zip(batch.image_path, prediction.pred_score.tolist(), strict=True))
    return dict(sorted(found.items()))


@pytest.mark.parametrize(
    "arguments",
    [{"batch_size": 1}, {"batch_size": 3}, {"batch_size": 64, "shuffle": True}, {"batch_size": 2, "num_workers": 2}],
    ids=str,
)
def test_scores_do_not_depend_on_batches(trained, images, arguments):
    """Neither on their size, nor on their order, nor on who reads them, up to rounding."""
    model = trained[0].eval()
    expected = scores(model, images, batch_size=4)
    found = scores(model, images, **arguments)
    assert found.keys() == expected.keys()
    assert list(found.values()) == pytest.approx(list(expected.values()), abs=ROUNDING)
    assert max(expected.values()) - min(expected.values()) > 100 * ROUNDING


@pytest.mark.parametrize("cached", [False, True], ids=["images", "cached maps"])
def test_the_same_seed_gives_the_same_bits(root, tmp_path, cached):
    """All weights, codes, statistics, calibrations and thresholds of two trainings; another seed gives others."""

    def train(seed, folder):
        seed_everything(seed)
        model = tiny_model(use_whitening=True, whitening_noise=0.1)
        tiny_engine(folder, max_epochs=2, callbacks=[FeatureCache()] if cached else []).fit(
            model, datamodule=tiny_data(root)
        )
        return model.state_dict()

    first, second, other = (train(seed, tmp_path / str(n)) for n, seed in enumerate((1, 1, 2)))
    assert_same_bits(second, first)
    assert any(not torch.equal(other[name], value) for name, value in first.items())


@pytest.mark.parametrize("color", COLORS.values(), ids=COLORS)
def test_a_training_with_flat_images_stays_finite(color):
    """Its gradients and all that it follows, also where all images are flat; whitening of one vector included."""
    model = tiny_model(use_whitening=True).model
    images = torch.full((4, 3, 64, 64), color)
    model.eval().fit_whitening_([model.see(images)])
    output = model.train()(images)
    sum(z.square().sum() for z in output.latents).backward()
    for name, value in (*model.state_dict().items(), *((n, p.grad) for n, p in model.named_parameters())):
        assert value is None or value.isfinite().all(), name
    assert all(level.isfinite().all() for level in (*output.latents, *output.log_dets))


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e6])
@pytest.mark.parametrize("use_whitening", [False, True])
def test_features_of_any_scale_stay_finite(scale, use_whitening):
    """In training and in inference, with what a training knows of features of the usual scale."""
    model = tiny_model(use_whitening=use_whitening).model.eval()
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    features = model.see(images)
    if use_whitening:
        model.fit_whitening_([features])
    scaled = features.apply(lambda h: scale * h)
    output = model.train()(images, scaled)
    assert all(level.isfinite().all() for level in (*output.latents, *output.log_dets))
    prediction = model.eval()(images, scaled)
    for values in (prediction.pred_score, prediction.anomaly_map):
        assert ((values >= 0) & (values <= 1)).all()


def test_an_export_of_flat_images_is_finite(trained, tmp_path, onnx_steps):
    """And tells what the model tells."""
    model = VQFlow.load_from_checkpoint(trained[2])
    path = tmp_path / "weights" / "openvino" / "model.xml"
    with onnx_steps():
        tiny_engine(tmp_path).export(model, ExportType.OPENVINO, export_root=tmp_path)
    compiled = openvino.compile_model(path, "CPU", FP32)
    for color in COLORS.values():
        images = torch.full((1, 3, 64, 64), color)
        found, expected = compiled(images), model(images)
        assert found["pred_score"] == pytest.approx(expected.pred_score.numpy(), abs=1e-4)
        assert 0 <= found["anomaly_map"].min() <= found["anomaly_map"].max() <= 1
