# SPDX-License-Identifier: Apache-2.0

"""Tests of the backbone that ships with the package."""

import socket

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.transforms.v2 import Normalize

from anomalib_vqflow.backbones import IMAGENET
from anomalib_vqflow.backbones.tiny import WEIGHTS, WIDTHS
from backbone_training.bank import bank
from backbone_training.train import draw

MAX_BYTES = 5_000_000
STRIDES = [4, 8, 16, 32]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every attempt to open a connection fail."""

    def refuse(*args: object, **kwargs: object) -> None:
        msg = f"A test tried to open a connection: {args} {kwargs}."
        raise OSError(msg)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def levels(images: Tensor, *, pretrained: bool = True, **options: object) -> list[Tensor]:
    """Return the feature maps of images."""
    network = timm.create_model("vqflow_tiny", pretrained=pretrained, features_only=True, **options).eval()
    with torch.no_grad():
        return list(network(images))


@pytest.mark.usefixtures("offline")
def test_pretrained_features_load_without_network() -> None:
    """The weights come with the package and give finite maps that differ from those of random weights."""
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    trained, random = levels(images), levels(images, pretrained=False)
    assert all(level.isfinite().all() for level in trained)
    assert all(level.std() > 1e-3 for level in trained)
    assert all((a - b).abs().max() > 1e-2 for a, b in zip(trained, random, strict=True))


@pytest.mark.parametrize("pretrained", [True, False])
def test_maps_have_the_declared_channels_and_strides(pretrained: bool) -> None:
    """Index 0 is the map at stride 4, and timm's feature_info tells the truth."""
    network = timm.create_model("vqflow_tiny", pretrained=pretrained, features_only=True)
    assert network.feature_info.channels() == list(WIDTHS)
    assert network.feature_info.reduction() == STRIDES
    shapes = [tuple(level.shape) for level in network(torch.zeros(2, 3, 96, 160))]
    assert shapes == [(2, width, 96 // s, 160 // s) for width, s in zip(WIDTHS, STRIDES, strict=True)]


def test_out_indices_choose_levels() -> None:
    """A choice of levels gives the same maps as all of them."""
    images = torch.rand(1, 3, 64, 64)
    every, some = levels(images), levels(images, out_indices=(1, 3))
    assert len(some) == 2
    assert torch.equal(some[0], every[1])
    assert torch.equal(some[1], every[3])


def test_weights_file_is_complete_small_and_half_precision() -> None:
    """The file holds every key of the plain network, no other, in at most five megabytes, and loads as float32."""
    state = load_file(WEIGHTS)
    network = timm.create_model("vqflow_tiny", pretrained=True)
    assert set(state) == set(network.state_dict())
    assert WEIGHTS.stat().st_size <= MAX_BYTES
    assert all(tensor.dtype == torch.float16 for tensor in state.values() if tensor.is_floating_point())
    assert all(tensor.isfinite().all() for tensor in state.values())
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert all(torch.equal(tensor, state[name].to(tensor.dtype)) for name, tensor in network.state_dict().items())


def test_every_channel_of_the_trained_maps_is_alive_somewhere() -> None:
    """BatchNorm statistics belong to the weights: all channels vary on scenes like those of the training."""
    scenes = draw(torch.from_numpy(bank(32, 2, seed=0)), 32, torch.Generator().manual_seed(0))
    for level in levels(Normalize(*IMAGENET)(scenes)):
        assert (level.std(dim=(0, 2, 3)) > 1e-3).all()


def test_classifier_and_other_inputs_can_be_asked_for() -> None:
    """The trained layers also serve a new classifier and gray images."""
    network = timm.create_model("vqflow_tiny", pretrained=True, num_classes=7, in_chans=1).eval()
    assert isinstance(network, nn.Module)
    assert network(torch.zeros(1, 1, 64, 64)).shape == (1, 7)


def test_anomalib_extracts_the_features() -> None:
    """anomalib's own extractor takes the backbone by name."""
    from anomalib.models.components import TimmFeatureExtractor  # slow

    extractor = TimmFeatureExtractor(backbone="vqflow_tiny", layers=["stages.0", "stages.2"], pre_trained=True)
    maps = extractor(torch.zeros(1, 3, 64, 64))
    assert [tuple(level.shape) for level in maps.values()] == [(1, 32, 16, 16), (1, 96, 4, 4)]
