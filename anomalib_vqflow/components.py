# SPDX-License-Identifier: Apache-2.0
"""anomalib's components of a model, where the user gave none."""

from typing import cast

from anomalib.metrics import Evaluator
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Callback, LightningModule

from .backbones import DEFAULT_BACKBONE
from .completion import Completion
from .evaluation import CategoryEvaluator
from .export import pre_processor_of
from .post_processor import SeparatingPostProcessor


class DefaultComponentsMixin(LightningModule):
    """Make the pre-processor, post-processor and evaluator that stand for True, and the callbacks."""

    @staticmethod
    def configure_pre_processor(
        image_size: tuple[int, int] | None = None, backbone: str = DEFAULT_BACKBONE
    ) -> PreProcessor:
        """Resize to ``image_size`` (height and width, 256×256 by default); normalize as the backbone was trained."""
        return pre_processor_of(backbone, image_size or (256, 256))

    def configure_post_processor(self) -> PostProcessor:
        """Set thresholds between scores or by normal ones, and tell labels only where there is one."""
        return SeparatingPostProcessor()

    def configure_callbacks(self) -> list[Callback]:
        """Complete every training, beside what anomalib's components do."""
        return [*cast("list[Callback]", super().configure_callbacks()), Completion()]

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """Evaluate per category, their mean, and pooled over all images."""
        return CategoryEvaluator()
