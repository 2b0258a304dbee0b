# SPDX-License-Identifier: Apache-2.0
"""VQ-Flow as an anomalib model: defaults, training and prediction steps, and logging."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import torch
from anomalib import LearningType
from anomalib.data import Batch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from .anomaly_map import ScoreMap
from .arguments import check_arguments, plain_list
from .backbones import DEFAULT_BACKBONE
from .batches import broken_images
from .checkpoint import CheckpointMixin
from .components import DefaultComponentsMixin
from .distributed import num_processes
from .export import AntialiasExportMixin, warn_of_normalization
from .features import DetailPooling, Layer
from .fitting import FittingMixin
from .image_files import ImageFilesMixin
from .loss import VQFlowLoss
from .naming import first_names
from .outputs import InferencerPrediction, Prediction, TracedPrediction
from .schedule import TrainingDefaultsMixin
from .sizes import height_and_width
from .torch_model import VQFlowModel


class VQFlow(
    ImageFilesMixin,
    DefaultComponentsMixin,
    FittingMixin,
    TrainingDefaultsMixin,
    CheckpointMixin,
    AntialiasExportMixin,
    AnomalibModule,
):
    """Detect anomalies on many products with one model: VQ-Flow.

    One model is trained on the normal images of any number of products, without class labels. A codebook finds the
    concept (the product), codebooks under it hold its normal patterns, and normalizing flows under these patterns turn
    features into latents whose likelihood is the score. The defaults are the model that we recommend; the published
    configuration is in ``configs/mvtec_ad.yaml``.

    Source: Zhou et al., "VQ-Flow: Taming Normalizing Flows for Multi-Class Anomaly Detection via Hierarchical Vector
    Quantization", 2024, https://arxiv.org/abs/2409.00942

    Args:
        backbone: Name of a timm model with ``features_only`` support, or ``vqflow_tiny`` from this package. Weights of
            the default one are Apache-2.0; those of the published one, ``convnextv2_base``, are CC BY-NC 4.0.
        layers: Indices or timm names of the maps used, fine to coarse, or blocks, shallow to deep, the last one
            semantic; a list of them in place of one is a group that is averaged. None for the last ones, or, of a plain
            vision transformer, for evenly spread blocks.
        detail_pooling: How detail maps are averaged over 3 × 3 cells: ``stride_2`` (published), ``stride_1``, ``none``.
        semantic_level: Whether the semantic map is a level of the flows, too; not so as published.
        prefix_tokens: Whether the concept is found by the last layer's CLS and register tokens, too, beside the mean of
            its map; for vision transformers that have some.
        pre_trained: True for timm's weights, or those of an installed package of weights (the extra ``lite0``); False
            for random ones; or the path of a local weights file. A checkpoint carries the backbone's weights, so that
            loading it needs neither network nor file.
        input_size: Height and width that images are resized to, in pixels, or one number for both. Ignored if
            ``pre_processor`` is given.
        tile_size: Height and width of overlapping tiles that these images are cut into, or one number for both; None to
            leave them whole. Backbone and flows see tiles, so that small defects are not resized away. Tiles show
            more kinds of normal things than images do, so give a larger ``num_concepts``.
        concept_dim: Width of the concept prototypes.
        num_concepts: Largest number of concepts. More than there are products does no harm.
        concept_novelty: How different from all known concepts an image must be to found a new one, in multiples of the
            batch's variance; 0 uses all ``num_concepts``.
        position_dim: Width of the position encoding, a multiple of 4; 0 leaves the position out.
        num_patterns: Normal patterns per level.
        quantization: ``residual`` quantizes patterns against position and concept, ``independent`` by themselves.
        use_patterns: Whether the flows are conditioned on patterns, or on position and concept only.
        flow_steps: Couplings per level, one number for each layer, but for the last if it is no level.
        hidden_dim: Width of the coupling subnets; None for the width of their input, as published.
        second_kernel_size: Size of the subnets' second kernel, odd; 3 as published.
        affine_clamp: Bound of the couplings' log-scale.
        use_concept_gaussian: Whether the base distribution depends on the concept.
        use_fusion: Whether the scales are coupled at the end.
        use_whitening: Whether a linear map, fitted to training images before the first step, decorrelates the detail
            maps before the flows. Not published; it makes short trainings much better.
        whitening_noise: Standard deviation of the noise on the whitened maps in training, without effect if there is no
            whitening. It bounds how sharp the density gets where the images never vary, such as a white background,
            and so the harm of a lower precision; from 0.1 on, INT8 exports include the backbone. Not published.
        commitment_weight: Weight of the codebooks' commitment in the loss.
        tail_weight: Weight of the least likely tenth of a batch's cells in the loss, in [0, 1]. Ours; 0 as published.
        lr: Learning rate of Adam.
        warmup_ratio: Share of the training with a linearly rising learning rate; 10 of 60 epochs as published.
        lr_schedule: ``constant`` after the warm-up, as published, or ``cosine``, which falls to 0 in the end.
        score_map: ``likelihood`` (absolute, ours), or the published ``multiplicative`` or ``additive``, which are
            relative to the image's best pixel.
        top_k_ratio: Share of the map, or of a tile's, averaged for the score.
        map_levels: Levels that the anomaly map is made of, 0 the finest; None for the two finest. Published: all.
        score_levels: Levels that the image score is made of; None for all, as published.
        map_log_det_weight: Weight of the log-determinant in the ``likelihood`` map of pixels, 1 for all of it.
        pre_processor: Pre-processor, or True for resizing and the normalization of the backbone.
        post_processor: Post-processor, or True for :class:`.SeparatingPostProcessor`.
        evaluator: Evaluator, or True for anomalib's metrics per category, their mean, and pooled.
        visualizer: Visualizer, or True for anomalib's, on images as the model saw them.

    Raises:
        ValueError: If an argument is out of its range, the backbone or a layer does not exist, or its weights cannot be
            loaded; later, if a checkpoint does not fit, the loss is not finite, or training has but single images.
        FileNotFoundError: If ``pre_trained`` is a path that does not exist.

    Example:
        >>> from anomalib_vqflow import VQFlow
        >>> model = VQFlow(backbone="test_convnext2", pre_trained=False, input_size=(64, 64), concept_dim=16)
        >>> model.input_size
        torch.Size([64, 64])
    """

    model: VQFlowModel

    def __init__(
        self,
        backbone: str = DEFAULT_BACKBONE,
        layers: Sequence[Layer | Sequence[Layer]] | Layer | None = None,
        detail_pooling: DetailPooling = "stride_1",
        semantic_level: bool = True,
        prefix_tokens: bool = False,
        pre_trained: bool | str | Path = True,
        input_size: Sequence[int] | int = (256, 256),
        tile_size: Sequence[int] | int | None = None,
        concept_dim: int = 32,
        num_concepts: int = 32,
        concept_novelty: float = 0.0,
        position_dim: int = 16,
        num_patterns: int = 256,
        quantization: Literal["residual", "independent"] = "residual",
        use_patterns: bool = True,
        flow_steps: Sequence[int] = (2, 4, 6),
        hidden_dim: int | None = 64,
        second_kernel_size: int = 1,
        affine_clamp: float = 1.9,
        use_concept_gaussian: bool = True,
        use_fusion: bool = True,
        use_whitening: bool = True,
        whitening_noise: float = 0.15,
        commitment_weight: float = 1.0,
        tail_weight: float = 0.3,
        lr: float = 2e-3,
        warmup_ratio: float = 1 / 6,
        lr_schedule: Literal["constant", "cosine"] = "cosine",
        score_map: ScoreMap = "likelihood",
        top_k_ratio: float = 0.03,
        map_levels: Sequence[int] | None = None,
        score_levels: Sequence[int] | None = None,
        map_log_det_weight: float = 1.0,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        check_arguments(locals())
        # Lightning stores the local variables as hyperparameters: plain lists load with weights_only=True.
        layers = [layers] if isinstance(layers, int | str) else plain_list(layers)
        pre_trained = str(pre_trained) if isinstance(pre_trained, Path) else pre_trained
        input_size = height_and_width(input_size)
        tile_size = None if tile_size is None else height_and_width(tile_size, "tile_size")
        flow_steps = [int(steps) for steps in flow_steps]
        map_levels, score_levels = plain_list(map_levels), plain_list(score_levels)
        if pre_processor is True:
            pre_processor = self.configure_pre_processor((input_size[0], input_size[1]), backbone)
        elif pre_processor:
            warn_of_normalization(pre_processor, backbone)
        super().__init__(
            pre_processor=pre_processor, post_processor=post_processor, evaluator=evaluator, visualizer=visualizer
        )
        self.lr = lr
        self.warmup_ratio = warmup_ratio
        self.lr_schedule = lr_schedule
        height, width = self.input_size or input_size
        self.model = VQFlowModel(
            input_size=(height, width),
            tile_size=None if tile_size is None else (tile_size[0], tile_size[1]),
            backbone=backbone,
            layers=layers,
            detail_pooling=detail_pooling,
            semantic_level=semantic_level,
            prefix_tokens=prefix_tokens,
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
            second_kernel_size=second_kernel_size,
            affine_clamp=affine_clamp,
            use_concept_gaussian=use_concept_gaussian,
            use_fusion=use_fusion,
            use_whitening=use_whitening,
            whitening_noise=whitening_noise,
            score_map=score_map,
            top_k_ratio=top_k_ratio,
            map_levels=map_levels,
            score_levels=score_levels,
            map_log_det_weight=float(map_log_det_weight),
        )
        self.loss = VQFlowLoss(commitment_weight=commitment_weight, tail_weight=tail_weight)

    def training_step(self, batch: Batch, batch_idx: int = 0) -> STEP_OUTPUT:
        """Compute the loss of a batch and log it with its parts.

        A last batch of a single image, in a single process and without tiles, is left out, because the encoders
        normalize over the batch.

        Args:
            batch: Images of several products, without labels.
            batch_idx: Number of the batch in the epoch.

        Returns:
            The loss, or None for a batch that is left out.

        Raises:
            ValueError: If already the first batch has a single image, or the loss is not finite.
        """
        images = self._images(batch)
        if images.shape[0] * self.model.num_tiles * num_processes() < 2:
            self._leave_out_short_batch(batch_idx)
            return None
        output = self.model(images, self._known_features(batch))
        terms = self.loss(output.latents, output.log_dets, output.commitment)
        if not terms.total.isfinite():
            raise ValueError(self._explain_broken_loss(batch, terms.total))
        self._log_training(terms, sum(z[0].numel() for z in output.latents), images.shape[0])
        return {"loss": terms.total}

    def forward(  # type: ignore[override]  # an InferenceBatch and more
        self, batch: Tensor, *args: object, **kwargs: object
    ) -> Prediction | TracedPrediction:
        """Predict from images as they are read, as in eval mode: pre-processing, model, post-processing; no gradients.

        Args:
            batch: Images of shape ``(B, 3, H, W)`` in [0, 1].
            args: Unused.
            kwargs: Unused.

        Returns:
            The prediction, with the concept of every image; while an export traces it, with raw scores and maps, too.
        """
        del args, kwargs
        if self.training:
            self.eval()
            try:
                return self.forward(batch)
            finally:
                self.train()
        # anomalib's TorchInferencer leaves gradients on, under which tables of conditions cannot be kept.
        with nullcontext() if self.is_exported else torch.no_grad():
            raw, prediction = self.raw_and_told(batch)
        if self.is_exported:
            return TracedPrediction(**prediction._asdict(), raw_score=raw.pred_score)
        return InferencerPrediction(*prediction)

    def raw_and_told(self, images: Tensor) -> tuple[Prediction, Prediction]:
        """Predict from images as :meth:`forward` does, as the mode is; before post-processing and after it."""
        raw: Prediction = self.model(self.pre_processor(images) if self.pre_processor else images)
        return raw, raw._replace(**self.post_processor(raw)._asdict()) if self.post_processor else raw

    def validation_step(self, batch: Batch, *args: object, **kwargs: object) -> STEP_OUTPUT:
        """Predict the scores of a batch.

        Args:
            batch: Images with their ground truth.
            args: Unused.
            kwargs: Unused.

        Returns:
            The batch with ``pred_score``, ``anomaly_map`` and, as an attribute, ``concept``.
        """
        del args, kwargs
        broken = broken_images(batch)
        if broken:
            rank_zero_warn(f"Images with NaN or infinite pixels score as anomalous: {first_names(broken)}.")
        prediction: Prediction = self.model(self._images(batch))
        batch.concept = prediction.concept  # type: ignore[attr-defined]  # no field of anomalib's batches
        return batch.update(pred_score=prediction.pred_score, anomaly_map=prediction.anomaly_map)

    test_step = predict_step = validation_step

    @property
    def learning_type(self) -> LearningType:
        """One-class: trained on normal images."""
        return LearningType.ONE_CLASS
