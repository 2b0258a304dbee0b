# SPDX-License-Identifier: Apache-2.0
"""benchmarks/backbone.py judges the features of a backbone by nearest neighbors."""

import re
from functools import partial

import pytest
import torch
from torchvision.transforms.v2 import Resize

from anomalib_vqflow import SyntheticProducts
from tests.scripts import load_script

backbone = load_script("benchmarks/backbone.py")


@pytest.fixture
def few_images(monkeypatch):
    """Let there be two products of a few small images."""
    few = {"categories": ["cap", "tile"], "num_train": 4, "num_test_good": 2, "num_test_defective": 2}
    monkeypatch.setattr(backbone, "SyntheticProducts", partial(SyntheticProducts, num_workers=0, **few))
    monkeypatch.setattr(backbone, "SIZE", 64)


@pytest.mark.usefixtures("few_images")
def test_trained_and_random_weights_are_judged(tmp_path, capsys):
    """A line for each, with two areas under curves."""
    backbone.main(["vqflow_tiny", "--root", str(tmp_path)])
    line = r"vqflow_tiny, {} weights: image AUROC [01]\.\d+, pixel AUROC [01]\.\d+"
    printed = capsys.readouterr().out
    assert re.search(line.format("its"), printed)
    assert re.search(line.format("random"), printed)


@pytest.mark.usefixtures("few_images")
def test_cells_hold_all_levels_on_the_grid_of_the_second(tmp_path):
    """The channels are those of all detail maps."""
    pyramid = backbone.published_pyramid("test_convnext2", pre_trained=False, size=64)
    data = backbone.SyntheticProducts(tmp_path, image_size=64)
    data.setup()
    found = backbone.cells(pyramid, Resize((64, 64)), data.train_data, "cap")
    _, height, width = pyramid.detail_shapes[1]
    assert found.shape == (4, height, width, sum(shape[0] for shape in pyramid.detail_shapes))
    assert torch.isfinite(found).all()
