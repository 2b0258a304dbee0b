# SPDX-License-Identifier: Apache-2.0
"""Images as a backbone was trained on them."""

from collections.abc import Iterator, Sequence

from anomalib.pre_processing import PreProcessor
from lightning.pytorch.utilities import rank_zero_warn
from torchvision.transforms.v2 import Compose, Normalize, Resize, Transform

from anomalib_vqflow.backbones import normalization

from .pre_processor import AntialiasPreProcessor

TOLERANCE = 1e-3
"""Means and deviations are written with three digits or more."""


def pre_processor_of(backbone: str, image_size: tuple[int, int]) -> PreProcessor:
    """Resize images, and normalize them as the backbone was trained.

    Args:
        backbone: Name of a timm model.
        image_size: Height and width in pixels.

    Returns:
        The pre-processor, whose transform anomalib keeps in checkpoints.

    Example:
        >>> pre_processor_of("tf_efficientnet_lite0", (224, 224)).transform.transforms[1].mean
        [0.5, 0.5, 0.5]
    """
    mean, std = normalization(backbone)
    normalize = Normalize(mean=list(mean), std=list(std))
    return AntialiasPreProcessor(Compose([Resize(image_size, antialias=True), normalize]))


def warn_of_normalization(pre_processor: PreProcessor, backbone: str) -> None:
    """Warn if a pre-processor normalizes otherwise than a backbone was trained; it is left as it is.

    Args:
        pre_processor: Pre-processor that the user gave.
        backbone: Name of a timm model.
    """
    expected = normalization(backbone)
    found = [(step.mean, step.std) for step in _steps(pre_processor.transform) if isinstance(step, Normalize)]
    if len(found) == 1 and all(map(_are_near, found[0], expected)):
        return
    said = f"normalizes by {found}" if found else "does not normalize"
    rank_zero_warn(
        f"The pre-processor {said}, but backbone '{backbone}' was trained with mean {list(expected[0])} and standard "
        f"deviation {list(expected[1])}; without reason, give pre_processor=True."
    )


def _steps(transform: Transform | None) -> Iterator[Transform]:
    if isinstance(transform, Compose):
        for step in transform.transforms:
            yield from _steps(step)
    elif transform is not None:
        yield transform


def _are_near(found: Sequence[float] | float, expected: tuple[float, ...]) -> bool:
    values = list(found) if isinstance(found, Sequence) else [found]
    if len(values) == 1:  # for all channels
        values *= len(expected)
    return len(values) == len(expected) and all(abs(a - b) <= TOLERANCE for a, b in zip(values, expected, strict=True))
