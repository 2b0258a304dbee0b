# SPDX-License-Identifier: Apache-2.0
"""Images are normalized as the backbone was trained, and licenses are those of its weights."""

import pytest

from anomalib_vqflow.backbones import IMAGENET, SHIPPED, normalization, weights_license

CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("backbone", "expected"),
    {
        SHIPPED: IMAGENET,
        "resnet18": IMAGENET,
        "vit_small_patch14_reg4_dinov2": IMAGENET,
        "convnext_tiny.dinov3_lvd1689m": IMAGENET,
        "vit_base_patch16_clip_224": CLIP,
        "eva02_small_patch14_224": CLIP,
        "tf_efficientnet_lite0": HALF,
        "mobilenetv3_large_100.miil_in21k": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        "unknown_to_timm": IMAGENET,
    }.items(),
)
def test_normalization_is_that_of_the_backbone(backbone, expected):
    """Per channel, for values in [0, 1]; the tag of the weights counts."""
    assert normalization(backbone) == expected


@pytest.mark.parametrize(
    ("backbone", "expected"),
    {
        "vit_small_patch14_reg4_dinov2": "apache-2.0",
        "convnext_tiny.dinov3_lvd1689m": "dinov3-license",
        "hiera_tiny_224": "cc-by-nc-4.0",
        "unknown_to_timm": None,
    }.items(),
)
def test_licenses_are_those_of_the_weights(backbone, expected):
    """As timm gives them."""
    assert weights_license(backbone) == expected
