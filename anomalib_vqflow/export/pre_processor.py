# SPDX-License-Identifier: Apache-2.0
"""Pre-processing that is the same in an exported model as in training."""

from typing import Any

from anomalib.data.transforms import ExportableCenterCrop
from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import Compose, Resize, Transform

from .resize import ExportableCrop, ExportableResize


class AntialiasPreProcessor(PreProcessor):
    """Pre-processor that resizes images in an exported model as it does in training.

    anomalib switches antialiasing off in exported models. Images that have to shrink then look different from those
    of the training, for which score normalization and thresholds were fitted. This pre-processor exports antialiasing
    where the transform has it, see :class:`.ExportableResize`.

    Args:
        transform: Transform of the images.

    Example:
        >>> AntialiasPreProcessor(Resize((64, 64), antialias=True)).export_transform.antialias
        True
    """

    def __init__(self, transform: Transform | None = None) -> None:
        super().__init__(transform)
        resize_as_in_training(self)

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Restore the transform, also that of the exported model.

        Args:
            config: What :meth:`checkpoint_config` returned.
        """
        super().load_checkpoint_config(config)
        resize_as_in_training(self)


def resize_as_in_training(pre_processor: PreProcessor) -> None:
    """Let a pre-processor of anomalib export every ``Resize`` as it is in training, antialiased or not.

    Args:
        pre_processor: A pre-processor, whose ``export_transform`` is changed.
    """
    pre_processor.export_transform = _exportable(pre_processor.transform, pre_processor.export_transform)


def _exportable(source: Transform | None, target: Transform | None) -> Transform | None:
    """Replace what would be exported otherwise than it is in ``source``, or only for some sizes."""
    if isinstance(source, Resize) and isinstance(target, Resize):
        return ExportableResize(source)
    if isinstance(target, ExportableCenterCrop):
        return ExportableCrop(target.size)
    if isinstance(source, Compose) and isinstance(target, Compose):
        target.transforms = [_exportable(*pair) for pair in zip(source.transforms, target.transforms, strict=True)]
    return target
