# SPDX-License-Identifier: Apache-2.0
"""Weights from an installed package: found, loaded in order, refused where they do not fit."""

import logging
from importlib import metadata
from pathlib import Path

import pytest
import timm
import torch

from anomalib_vqflow.backbones.weights import PACKAGES, load_packaged_weights, packaged_weights
from anomalib_vqflow.features import FeaturePyramid

LITE0 = "tf_efficientnet_lite0"
needs_lite0 = pytest.mark.skipif(packaged_weights(LITE0) is None, reason="needs the extra lite0")


def body(backbone, **options):
    return timm.create_model(backbone, features_only=True, **options)


@needs_lite0
def test_an_installed_package_is_found_and_named(caplog):
    """The log says whose weights they are."""
    with caplog.at_level(logging.INFO):
        path = packaged_weights(LITE0)
    assert path.is_file()
    assert path.suffix == ".pth"
    assert caplog.messages == [f"The weights of {LITE0} are those of the installed package {PACKAGES[LITE0]}."]


@needs_lite0
@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3, 4), (1, 2, 3)])
def test_packaged_weights_load_in_their_order(out_indices):
    """Every parameter has the value of its own name in the file, whatever layers are used."""
    path, network = packaged_weights(LITE0), body(LITE0, out_indices=out_indices)
    load_packaged_weights(network, path, LITE0)
    found, state = torch.load(path, weights_only=True), network.state_dict()
    original = {
        "conv_stem.weight": "_conv_stem.weight",
        "bn1.running_var": "_bn0.running_var",
        "blocks.0.0.conv_dw.weight": "_blocks.0._depthwise_conv.weight",
        "blocks.1.0.conv_pw.weight": "_blocks.1._expand_conv.weight",
        "blocks.1.1.conv_pwl.weight": "_blocks.2._project_conv.weight",
        "blocks.2.0.bn2.running_mean": "_blocks.3._bn1.running_mean",
        "blocks.4.2.conv_dw.weight": "_blocks.10._depthwise_conv.weight",
    }
    for name, theirs in original.items():
        assert torch.equal(state[name], found[theirs]), name


@needs_lite0
def test_pre_trained_means_the_package():
    """No hub is asked."""
    pyramid = FeaturePyramid(
        backbone=LITE0,
        layers=None,
        num_levels=3,
        detail_pooling="none",
        semantic_level=True,
        prefix_tokens=False,
        pre_trained=True,
        input_size=(64, 64),
    )
    found = torch.load(packaged_weights(LITE0), weights_only=True)
    assert torch.equal(pyramid.body.state_dict()["conv_stem.weight"], found["_conv_stem.weight"])


@needs_lite0
@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite2", "test_efficientnet"])
def test_another_shape_is_refused(backbone, monkeypatch):
    """Order alone would not tell."""
    monkeypatch.setitem(PACKAGES, backbone, PACKAGES[LITE0])
    with pytest.raises(ValueError, match=rf"{PACKAGES[LITE0]} does not hold the weights of '{backbone}'"):
        load_packaged_weights(body(backbone), packaged_weights(backbone), backbone)


def test_a_package_that_is_not_installed_has_none(monkeypatch):
    """Then timm's weights are downloaded."""

    def files(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", files)
    assert packaged_weights(LITE0) is None


@pytest.mark.parametrize("files", [None, [], [metadata.PackagePath("package/__init__.py")]])
def test_a_package_without_weights_has_none(monkeypatch, files):
    """Such as one of another version."""
    monkeypatch.setattr(metadata, "files", lambda _: files)
    assert packaged_weights(LITE0) is None


@pytest.mark.parametrize("backbone", ["resnet18", f"{LITE0}.in1k"])
def test_other_backbones_have_no_package(backbone):
    """Nor has one with a tag, which names weights of its own."""
    assert packaged_weights(backbone) is None


def test_a_file_of_something_else_is_refused(tmp_path):
    """It is read as any weights file is."""
    path = Path(tmp_path / "weights.pth")
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no readable state dict"):
        load_packaged_weights(body("test_efficientnet"), path, LITE0)
