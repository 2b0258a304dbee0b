# SPDX-License-Identifier: Apache-2.0
"""VQ-Flow as an anomalib model: the paper's defaults, optimizer, schedule and logging."""

import logging
from collections.abc import Sequence
from typing import Any, Literal

import torch
from anomalib import LearningType
from anomalib.data import Batch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRSchedulerConfig
from torchvision.transforms.v2 import Compose, Normalize, Resize

from .anomaly_map import ScoreMap
from .evaluation import CategoryEvaluator
from .loss import VQFlowLoss
from .torch_model import VQFlowModel

logger = logging.getLogger(__name__)

DEFAULT_EPOCHS = 60
LIGHTNING_DEFAULT_EPOCHS = 1000


class VQFlow(AnomalibModule):
    """Detect anomalies on many products with one model: VQ-Flow.

    One model is trained on the normal images of any number of products, without class labels. A codebook finds the
    concept (the product), codebooks under it hold its normal patterns, and normalizing flows under these patterns turn
    features into latents whose likelihood is the score. The defaults are the published configuration.

    Source: Zhou et al., "VQ-Flow: Taming Normalizing Flows for Multi-Class Anomaly Detection via Hierarchical Vector
    Quantization", 2024, https://arxiv.org/abs/2409.00942

    Args:
        backbone: Name of a timm model with ``features_only`` support. The weights of the published one,
            ``convnextv2_base``, are CC BY-NC 4.0.
        layers: Indices or timm names of the maps used, fine to coarse, the last one semantic; None for the last four.
        pre_trained: True for timm's weights, False for random ones, or the path of a local weights file.
        input_size: Height and width that images are resized to, in pixels. Ignored if ``pre_processor`` is given.
        concept_dim: Width of the concept prototypes.
        num_concepts: Largest number of concepts. More than there are products does no harm.
        concept_novelty: How different from all known concepts an image must be to found a new one, in multiples of the
            batch's variance; 0 uses all ``num_concepts``.
        position_dim: Width of the position encoding, a multiple of 4; 0 leaves the position out.
        num_patterns: Normal patterns per level.
        quantization: ``residual`` quantizes patterns against position and concept, ``independent`` by themselves.
        use_patterns: Whether the flows are conditioned on patterns, or on position and concept only.
        flow_steps: Couplings per detail level, one number for each layer but the last.
        hidden_dim: Width of the coupling subnets; None for the width of their input, as published.
        affine_clamp: Bound of the couplings' log-scale.
        use_concept_gaussian: Whether the base distribution depends on the concept.
        use_fusion: Whether the scales are coupled at the end.
        commitment_weight: Weight of the codebooks' commitment in the loss.
        lr: Learning rate of Adam.
        warmup_ratio: Share of the training with a linearly rising learning rate; 10 of 60 passes as published.
        score_map: ``likelihood`` (absolute), or the published ``multiplicative`` or ``additive``, which are relative to
            the image's best pixel.
        top_k_ratio: Share of the map averaged for the image score.
        pre_processor: Pre-processor, or True for resizing and ImageNet normalization.
        post_processor: Post-processor, or True for anomalib's.
        evaluator: Evaluator, or True for anomalib's metrics per category, their mean, and pooled.
        visualizer: Visualizer, or True for anomalib's.

    Raises:
        ValueError: If an argument is out of its range, the backbone or a layer does not exist, or its weights cannot be
            loaded.

    Example:
        >>> from anomalib_vqflow import VQFlow
        >>> model = VQFlow(backbone="test_convnext2", pre_trained=False, input_size=(64, 64), concept_dim=16)
        >>> model.input_size
        torch.Size([64, 64])
    """

    model: VQFlowModel

    def __init__(
        self,
        backbone: str = "convnextv2_base",
        layers: Sequence[int | str] | None = None,
        pre_trained: bool | str = True,
        input_size: Sequence[int] = (384, 384),
        concept_dim: int = 512,
        num_concepts: int = 32,
        concept_novelty: float = 0.0,
        position_dim: int = 64,
        num_patterns: int = 512,
        quantization: Literal["residual", "independent"] = "residual",
        use_patterns: bool = True,
        flow_steps: Sequence[int] = (2, 5, 8),
        hidden_dim: int | None = None,
        affine_clamp: float = 1.9,
        use_concept_gaussian: bool = True,
        use_fusion: bool = True,
        commitment_weight: float = 1.0,
        lr: float = 1e-4,
        warmup_ratio: float = 1 / 6,
        score_map: ScoreMap = "likelihood",
        top_k_ratio: float = 0.03,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        # Lightning stores the local variables as hyperparameters: plain lists load with weights_only=True.
        layers = None if layers is None else list(layers)
        input_size = [int(size) for size in input_size]
        flow_steps = [int(steps) for steps in flow_steps]
        if pre_processor is True:
            pre_processor = self.configure_pre_processor((input_size[0], input_size[1]))
        super().__init__(
            pre_processor=pre_processor, post_processor=post_processor, evaluator=evaluator, visualizer=visualizer
        )
        self.lr = lr
        self.warmup_ratio = warmup_ratio
        height, width = self.input_size or input_size
        self.model = VQFlowModel(
            input_size=(height, width),
            backbone=backbone,
            layers=layers,
            pre_trained=pre_trained,
            concept_dim=concept_dim,
            num_concepts=num_concepts,
            concept_novelty=concept_novelty,
            position_dim=position_dim,
            num_patterns=num_patterns,
            quantization=quantization,
            use_patterns=use_patterns,
            flow_steps=flow_steps,
            hidden_dim=hidden_dim,
            affine_clamp=affine_clamp,
            use_concept_gaussian=use_concept_gaussian,
            use_fusion=use_fusion,
            score_map=score_map,
            top_k_ratio=top_k_ratio,
        )
        self.loss = VQFlowLoss(commitment_weight)

    def training_step(self, batch: Batch, *args: object, **kwargs: object) -> STEP_OUTPUT:
        """Compute the loss of a batch and log it with its parts.

        Args:
            batch: Images of several products, without labels.
            args: Unused.
            kwargs: Unused.

        Returns:
            The loss.
        """
        del args, kwargs
        output = self.model(batch.image)
        terms = self.loss(output.latents, output.log_det, output.commitment)
        num_dims = sum(z[0].numel() for z in output.latents)
        self.log("train_loss", terms.total / num_dims, on_step=True, on_epoch=True, prog_bar=True)
        self.log("train_nll", terms.nll)
        self.log("train_log_det", terms.log_det)
        self.log("train_commitment", terms.commitment)
        self._log_codebooks()
        return {"loss": terms.total}

    def validation_step(self, batch: Batch, *args: object, **kwargs: object) -> STEP_OUTPUT:
        """Predict the scores of a batch.

        Args:
            batch: Images with their ground truth.
            args: Unused.
            kwargs: Unused.

        Returns:
            The batch with ``pred_score`` and ``anomaly_map``.
        """
        del args, kwargs
        return batch.update(**self.model(batch.image)._asdict())

    def _log_codebooks(self) -> None:
        """Log how evenly the codes are used, and how many are."""
        self.log("concept_perplexity", self.model.concept.codebook.perplexity)
        self.log("concept_live_ratio", self.model.concept.codebook.live_ratio)
        for level, codebook in enumerate(self.model.pattern_codebooks):
            self.log(f"pattern_perplexity/{level}", codebook.perplexity)
            self.log(f"pattern_live_ratio/{level}", codebook.live_ratio)

    def setup(self, stage: str) -> None:
        """Replace Lightning's default of 1,000 epochs by the published 60.

        Lightning does not tell an unset ``max_epochs`` from 1,000, and anomalib's ``trainer_arguments`` would override
        what the user set, so this is the one place left.
        """
        if stage == "fit" and self.trainer.max_epochs == LIGHTNING_DEFAULT_EPOCHS and self.trainer.max_steps == -1:
            logger.warning(
                "max_epochs was not set: training for %d epochs, as published. To train for exactly 1,000, which is "
                "Lightning's value for 'not set', set max_steps as well.",
                DEFAULT_EPOCHS,
            )
            self.trainer.fit_loop.max_epochs = DEFAULT_EPOCHS

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Set up Adam with a linear warm-up, then a constant learning rate, as published."""
        optimizer = torch.optim.Adam((p for p in self.model.parameters() if p.requires_grad), lr=self.lr)
        warmup_steps = max(round(self.warmup_ratio * self.trainer.estimated_stepping_batches), 1)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / warmup_steps, 1.0))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Gradients are clipped at norm 2, as published; there is nothing to validate before training."""
        return {"gradient_clip_val": 2.0, "num_sanity_val_steps": 0}

    @property
    def learning_type(self) -> LearningType:
        """One-class: trained on normal images."""
        return LearningType.ONE_CLASS

    @staticmethod
    def configure_pre_processor(image_size: tuple[int, int] | None = None) -> PreProcessor:
        """Resize to ``image_size`` (height and width, 384×384 by default) and normalize as on ImageNet."""
        return PreProcessor(
            transform=Compose(
                [
                    Resize(image_size or (384, 384), antialias=True),
                    Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
                ]
            )
        )

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """Evaluate per category, their mean, and pooled over all images."""
        return CategoryEvaluator()
