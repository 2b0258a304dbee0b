# SPDX-License-Identifier: Apache-2.0
"""Images are normalized as the backbone was trained, and a user who does otherwise is told."""

import warnings

import pytest
import torch
from anomalib.pre_processing import PreProcessor
from torch.testing import assert_close
from torchvision.transforms.v2 import Compose, Normalize, Resize

from anomalib_vqflow.export.normalizing import pre_processor_of, warn_of_normalization

IMAGENET = Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
HALVES = Normalize(mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])


@pytest.mark.parametrize(("backbone", "normalize"), [("resnet18", IMAGENET), ("tf_efficientnet_lite0", HALVES)])
def test_images_are_resized_and_normalized_for_the_backbone(backbone, normalize):
    """Every backbone has its own mean and deviation."""
    images = torch.rand(2, 3, 48, 80)
    expected = normalize(Resize((32, 64), antialias=True)(images))
    assert_close(pre_processor_of(backbone, (32, 64)).transform(images), expected)


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        (None, "does not normalize"),
        (Resize((32, 32)), "does not normalize"),
        (IMAGENET, r"normalizes by .*0\.485.* mean \[0\.5, 0\.5, 0\.5\]"),
        (Compose([HALVES, HALVES]), "normalizes by"),
    ],
    ids=["none", "resizing only", "of another backbone", "twice"],
)
def test_another_normalization_is_told(transform, said):
    """The warning says what was found and what the backbone expects."""
    with pytest.warns(UserWarning, match=said):
        warn_of_normalization(PreProcessor(transform), "tf_efficientnet_lite0")


@pytest.mark.parametrize("normalize", [HALVES, Normalize(mean=[0.5003, 0.5, 0.5], std=[0.5, 0.5, 0.5])])
def test_the_right_normalization_is_not(normalize):
    """Also within nested transforms, and if its numbers are rounded."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_normalization(PreProcessor(Compose([Resize((32, 32)), Compose([normalize])])), "tf_efficientnet_lite0")
