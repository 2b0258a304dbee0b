# SPDX-License-Identifier: Apache-2.0
"""Pre-processing that is the same in an exported model as in training."""

from typing import Any

from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import Compose, Resize, Transform


class AntialiasPreProcessor(PreProcessor):
    """Pre-processor that resizes images in an exported model as it does in training.

    anomalib switches antialiasing off in exported models. Images that have to shrink then look different from those
    of the training, for which score normalization and thresholds were fitted. This pre-processor exports antialiasing
    where the transform has it. ONNX Runtime computes it as torch does; OpenVINO needs :func:`.resize_extension` for it.

    Args:
        transform: Transform of the images.

    Example:
        >>> from torchvision.transforms.v2 import Resize
        >>> AntialiasPreProcessor(Resize((64, 64), antialias=True)).export_transform.antialias
        True
    """

    def __init__(self, transform: Transform | None = None) -> None:
        super().__init__(transform)
        _copy_antialias(self.transform, self.export_transform)

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Restore the transform, also that of the exported model.

        Args:
            config: What :meth:`checkpoint_config` returned.
        """
        super().load_checkpoint_config(config)
        _copy_antialias(self.transform, self.export_transform)


def _copy_antialias(source: Transform | None, target: Transform | None) -> None:
    """Let every ``Resize`` in ``target`` antialias if its counterpart in ``source`` does."""
    if isinstance(source, Resize) and isinstance(target, Resize):
        target.antialias = source.antialias
    if isinstance(source, Compose) and isinstance(target, Compose):
        for one, other in zip(source.transforms, target.transforms, strict=True):
            _copy_antialias(one, other)
