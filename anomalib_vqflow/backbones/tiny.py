# SPDX-License-Identifier: Apache-2.0

"""`vqflow_tiny`: a small convolutional backbone whose weights ship with the package, registered with timm."""

from pathlib import Path
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg

__all__ = ["WEIGHTS", "vqflow_tiny"]

WEIGHTS = Path(__file__).parent / "vqflow_tiny.safetensors"

WIDTHS = (32, 64, 96, 160)  # channels at strides 4, 8, 16 and 32
DEPTHS = (1, 2, 2, 2)  # basic residual blocks per stage
STEM = 24  # channels at stride 2

# timm finds the configuration by this name in the module of the registered function.
default_cfgs = generate_default_cfgs(
    {
        "vqflow_tiny.procedural": {
            "file": str(WEIGHTS),
            "num_classes": 0,
            "input_size": (3, 256, 256),
            "pool_size": (8, 8),
            "crop_pct": 1.0,
            "interpolation": "bicubic",
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "first_conv": "stem.conv",
            "classifier": "head.fc",
            "license": "apache-2.0",
        },
    }
)


def _network(cfg: ByoModelCfg, **kwargs: Any) -> ByobNet:  # noqa: ANN401 - timm hands its model arguments through
    """Build the network and drop the stem from its list of features, so that index 0 is the map at stride 4."""
    network = ByobNet(cfg, **kwargs)
    network.feature_info = network.feature_info[1:]
    return network


@register_model
def vqflow_tiny(pretrained: bool = False, **kwargs: Any) -> ByobNet:  # noqa: ANN401 - the signature timm calls
    """Build a four-stage residual network of 1.3 million parameters, 0.35 GMAC at 256x256.

    The feature maps 0 to 3 have 32, 64, 96 and 160 channels at strides 4, 8, 16 and 32. It is timm's own ``ByobNet``
    with basic blocks (3x3 convolutions, BatchNorm, ReLU). ``backbone_training/`` in the
    repository trained the weights on procedural scenes; they expect images normalized by the ImageNet mean and standard
    deviation.

    Args:
        pretrained: Whether to load the weights of this package; needs no network.
        **kwargs: What ``timm.create_model`` passes on, such as ``features_only`` and ``out_indices``.

    Returns:
        The network, or timm's feature extractor around it when ``features_only`` is set.

    Example:
        >>> import timm, torch
        >>> backbone = timm.create_model("vqflow_tiny", features_only=True).eval()
        >>> [tuple(level.shape) for level in backbone(torch.zeros(1, 3, 64, 64))]
        [(1, 32, 16, 16), (1, 64, 8, 8), (1, 96, 4, 4), (1, 160, 2, 2)]
    """
    blocks = tuple(
        ByoBlockCfg(type="basic", d=depth, c=width, s=2, gs=0, br=1.0)
        for depth, width in zip(DEPTHS, WIDTHS, strict=True)
    )
    cfg = ByoModelCfg(blocks=blocks, stem_chs=STEM, stem_type="3x3", stem_pool="")
    feature_cfg = {"flatten_sequential": True, "out_indices": (0, 1, 2, 3)}
    arguments = {"zero_init_last": False, **kwargs}  # the residual branches take part from the first step on
    return build_model_with_cfg(
        _network, "vqflow_tiny", pretrained, model_cfg=cfg, feature_cfg=feature_cfg, **arguments
    )
