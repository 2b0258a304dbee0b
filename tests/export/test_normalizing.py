# SPDX-License-Identifier: Apache-2.0
"""The model's own pre-processor normalizes as the backbone was trained; a user's is left alone, with a warning."""

import warnings

import pytest
import torch
from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import Compose, Normalize, Resize, ToDtype

from anomalib_vqflow.export.normalizing import pre_processor_of, warn_of_normalization
from tests.tiny import tiny_model

LITE0 = "tf_efficientnet_lite0"  # mean and deviation 0.5
IMAGENET = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def test_images_are_resized_and_normalized():
    """White becomes (1 - mean) / deviation."""
    assert torch.equal(pre_processor_of(LITE0, (16, 24))(torch.ones(1, 3, 32, 32)), torch.ones(1, 3, 16, 24))


@pytest.mark.parametrize(
    "transform",
    [
        Normalize([0.5] * 3, [0.5] * 3),
        Normalize([0.5], [0.5]),
        Compose([Resize(8), Normalize([0.5, 0.5, 0.5004], [0.5] * 3)]),
        Compose([Resize(8), Compose([ToDtype(torch.float32), Normalize([0.5] * 3, [0.5] * 3)])]),
    ],
)
def test_agreement_is_silent(transform):
    """However it is written, up to rounded digits."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_normalization(PreProcessor(transform), LITE0)


@pytest.mark.parametrize("transform", [None, Resize(8), Compose([Resize(8), ToDtype(torch.float32)])])
def test_no_normalization_is_told(transform):
    """With what was expected."""
    with pytest.warns(UserWarning, match=rf"does not normalize, but backbone '{LITE0}' .* mean \[0\.5, 0\.5, 0\.5\]"):
        warn_of_normalization(PreProcessor(transform), LITE0)


@pytest.mark.parametrize(
    "transform", [IMAGENET, Normalize([0.5] * 3, [0.25] * 3), Compose([IMAGENET, Normalize([0.5] * 3, [0.5] * 3)])]
)
def test_another_normalization_is_told(transform):
    """A wrong mean, a wrong deviation, and one after another."""
    with pytest.warns(UserWarning, match=rf"normalizes by .* but backbone '{LITE0}' was trained with mean"):
        warn_of_normalization(PreProcessor(transform), LITE0)


def test_the_model_warns_and_keeps_the_users():
    """The transform of the user is what is used."""
    own = PreProcessor(Compose([Resize((64, 64)), Normalize([0.1] * 3, [0.9] * 3)]))
    with pytest.warns(UserWarning, match=r"normalizes by .*0\.1.* give pre_processor=True"):
        model = tiny_model(pre_processor=own)
    assert model.pre_processor is own
