# SPDX-License-Identifier: Apache-2.0
"""Exported models resize images as training does."""

import torch
from anomalib.data.transforms import ExportableCenterCrop
from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import CenterCrop, Compose, Resize

from anomalib_vqflow.export import AntialiasPreProcessor
from tests.tiny import tiny_model

from .predictions import TOLERANCE, some_images


def test_pre_processor_exports_antialiasing_only_where_asked_for():
    """Each ``Resize`` exports as it is, and everything else as anomalib exports it, also after loading."""
    transform = Compose([Resize((80, 80), antialias=True), CenterCrop(72), Resize((64, 64), antialias=False)])
    pre_processor = AntialiasPreProcessor()
    assert pre_processor.export_transform is None
    pre_processor.load_checkpoint_config(AntialiasPreProcessor(transform).checkpoint_config())
    for made in (AntialiasPreProcessor(transform), pre_processor):
        first, crop, second = made.export_transform.transforms
        assert (first.antialias, second.antialias) == (True, False)
        assert isinstance(crop, ExportableCenterCrop)


def test_pre_processors_of_anomalib_antialias_too(tmp_path):
    """Their exports would shrink images in another way than their trainings."""
    model = tiny_model(pre_processor=PreProcessor(Resize((64, 64), antialias=True)))
    path = model.to_torch(tmp_path)
    exported = torch.load(path, weights_only=False)["model"].pre_processor
    images = some_images(2, (100, 150))
    assert torch.equal(exported(images), exported.transform(images))


def test_antialiasing_matters(model, predictor):
    """Without antialiasing in the export, as anomalib has it, the test above would fail by far."""
    images = some_images(4, (100, 150))
    plain = PreProcessor(model.pre_processor.transform)
    with torch.no_grad():
        without = model.post_processor(model.model(plain(images))).anomaly_map
    anomaly_map = predictor("torch")(images).anomaly_map.detach().reshape(without.shape)
    assert (anomaly_map - without).abs().max() > 100 * TOLERANCE * (without.max() - without.min())
