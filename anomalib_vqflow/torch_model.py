# SPDX-License-Identifier: Apache-2.0
"""VQ-Flow as a torch module: wires the rooms in the order of the paper's framework figure."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from .anomaly_map import AnomalyMapGenerator, ScoreMap
from .discrete import Concepts
from .features import FeaturePyramid, Features
from .flows import Latents, Moments, MultiScaleFlow, Whitening
from .quantization import Codebook, ConceptQuantizer, ConditionEncoder, Conditions, Quantized


class VQFlowOutput(NamedTuple):
    """What a training step needs."""

    latents: list[Tensor]  # z'_i, (B, C_i, h_i, w_i)
    log_det: Tensor  # (B,), nats
    commitment: Tensor  # (), summed over the codebooks
    concept_indices: Tensor  # (B,)


class Prediction(NamedTuple):
    """An anomalib ``InferenceBatch`` that also tells the concepts."""

    pred_score: Tensor  # (B,), in [0, 1], 0 = normal
    pred_label: Tensor | None  # (B,), bool; set by the post-processor
    anomaly_map: Tensor  # (B, 1, H, W), in [0, 1]
    pred_mask: Tensor | None  # (B, 1, H, W), bool; set by the post-processor
    concept: Tensor  # (B,), index of the prototype, int64


class InferencerPrediction(Prediction):
    """A prediction that anomalib's inferencers take: they unpack it into a batch that knows no concept."""

    __slots__ = ()

    def _asdict(self) -> dict[str, Tensor | None]:
        return {name: value for name, value in super()._asdict().items() if name != "concept"}


class VQFlowModel(nn.Module):
    """Normalizing flows conditioned on hierarchically quantized concepts and patterns.

    In training it returns a :class:`VQFlowOutput`, in eval mode a :class:`Prediction` with scores in [0, 1].

    Source: VQ-Flow (Zhou et al., 2024), framework figure, https://arxiv.org/abs/2409.00942. Where figure and release
    differ (the condition [ĥ'; ŷ] and not ĥ' alone, the semantic context in the queries, a codebook for the semantic
    level, the fusion), the release is followed.

    Args:
        input_size: Nominal height and width of the images in pixels. Images of other sizes work if the backbone takes
            them.
        backbone: See :class:`.FeaturePyramid`, like the next two.
        layers: Layers of the backbone; the last one is semantic.
        pre_trained: Weights of the backbone.
        concept_dim: Width D of the prototypes.
        num_concepts: Number of prototypes.
        concept_novelty: How far from all prototypes an image must be to get one of its own; see :class:`.Codebook`.
        position_dim: Width P of the position encoding; 0 leaves the position out.
        num_patterns: Number of patterns per level.
        quantization: ``residual`` quantizes patterns against position and prototype, ``independent`` by themselves.
        use_patterns: Whether the flows see patterns; without, they see position and prototype only.
        flow_steps: Couplings per detail level.
        hidden_dim: Width of the coupling subnets; None for the width of their input, as published.
        affine_clamp: Bound of the couplings' log-scale.
        use_concept_gaussian: Whether the base distribution depends on the concept.
        use_fusion: Whether the scales are coupled at the end.
        use_whitening: Whether the detail maps are whitened before the flows; needs :meth:`fit_whitening_`. Ours.
        whitening_noise: Noise on the whitened maps in training; see :class:`.MultiScaleFlow`.
        score_map: See :class:`.AnomalyMapGenerator`, like the next one.
        top_k_ratio: Share of the pixels averaged for the image score.

    Raises:
        ValueError: If an argument is out of its range, or the backbone does not fit it.

    Example:
        >>> import torch
        >>> model = VQFlowModel((64, 64), "test_convnext2", pre_trained=False, concept_dim=16, position_dim=8)
        >>> images = torch.rand(2, 3, 64, 64)
        >>> model(images).log_det.shape
        torch.Size([2])
        >>> prediction = model.eval()(images)
        >>> prediction.anomaly_map.shape, prediction.pred_score.shape
        (torch.Size([2, 1, 64, 64]), torch.Size([2]))
    """

    def __init__(
        self,
        input_size: tuple[int, int] = (384, 384),
        backbone: str = "convnextv2_base",
        layers: Sequence[int | str] | None = None,
        pre_trained: bool | str | Path = True,
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
        use_whitening: bool = False,
        whitening_noise: float = 0.15,
        score_map: ScoreMap = "likelihood",
        top_k_ratio: float = 0.03,
    ) -> None:
        super().__init__()
        if quantization not in {"residual", "independent"}:
            msg = f"quantization must be 'residual' or 'independent', got {quantization!r}."
            raise ValueError(msg)
        if concept_dim < 1 or position_dim < 0 or position_dim % 4:
            msg = (
                "Expected a positive concept_dim, and a multiple of 4 as position_dim (0 leaves the position out), "
                f"got {concept_dim} and {position_dim}."
            )
            raise ValueError(msg)
        self.input_size = input_size
        self.features = FeaturePyramid(backbone, layers, pre_trained, input_size)
        detail_shapes, semantic_channels = self.features.detail_shapes, self.features.semantic_shape[0]
        self.concept = ConceptQuantizer(semantic_channels, concept_dim, num_concepts, novelty=concept_novelty)
        self.conditions = ConditionEncoder(
            [shape[0] for shape in detail_shapes],
            semantic_channels,
            concept_dim,
            position_dim,
            num_patterns,
            residual=quantization == "residual",
            use_patterns=use_patterns,
            use_semantic=use_fusion,
        )
        self.flow = MultiScaleFlow(
            detail_shapes,
            self.conditions.condition_dim,
            concept_dim,
            flow_steps,
            hidden_dim,
            affine_clamp,
            use_concept_gaussian=use_concept_gaussian,
            use_fusion=use_fusion,
            use_whitening=use_whitening,
            whitening_noise=whitening_noise,
        )
        self.anomaly_map_generator = AnomalyMapGenerator(len(detail_shapes), num_concepts, score_map, top_k_ratio)

    def forward(self, images: Tensor, features: Features | None = None) -> VQFlowOutput | Prediction:
        """Compute latents and likelihood in training, scores otherwise.

        Args:
            images: Normalized images of shape ``(B, 3, H, W)``. A training batch needs at least two.
            features: What the backbone sees in them, if that is known already; else it is computed.

        Returns:
            :class:`VQFlowOutput` in training, :class:`Prediction` in eval mode.

        Raises:
            ValueError: If the images do not have three channels, or a training batch holds a single image.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            msg = f"Expected images of shape (B, 3, H, W), got {tuple(images.shape)}."
            raise ValueError(msg)
        if self.training and images.shape[0] < 2:
            msg = (
                "VQ-Flow cannot train on a batch of one image, because its encoders normalize over the batch. "
                "Use train_batch_size of 2 or more, and drop a last batch of one."
            )
            raise ValueError(msg)
        features = self.features(images) if features is None else features
        concept, conditions, (latents, log_det, cell_log_dets) = self._encode(features)
        if self.training:
            self.anomaly_map_generator.observe_(latents, cell_log_dets)
            return VQFlowOutput(latents, log_det, concept.commitment + conditions.commitment, concept.indices)
        size = (images.shape[-2], images.shape[-1])
        anomaly_map, pred_score = self.anomaly_map_generator(latents, cell_log_dets, concept.indices, size)
        return Prediction(pred_score, None, anomaly_map, None, concept.indices)

    def _encode(self, features: Features) -> tuple[Quantized, Conditions, Latents]:
        """Find the concept, quantize the patterns, and run the flows under them."""
        details, semantic = features
        concept = self.concept(semantic)
        concepts = None if self.training else Concepts(self.concept.codebook.codes, concept.indices)
        conditions = self.conditions(details, semantic, concept.codes, concepts)
        jac = self.training or self.anomaly_map_generator.needs_log_det
        latents = self.flow(details, conditions.details, conditions.semantic, concept.codes, jac=jac)
        return concept, conditions, latents

    @property
    def needs_whitening(self) -> bool:
        """Whether there is a whitening that is not fitted yet."""
        return any(not whitening.fitted for whitening in self.flow.whitenings)

    @torch.no_grad()
    def fit_whitening_(self, batches: Iterable[Features]) -> None:
        """Fit the whitening of the detail maps to normal images; to be done once, before training.

        Args:
            batches: What the backbone sees in the images.

        Raises:
            ValueError: If there are no images.
        """
        moments = [Moments() for _ in self.flow.whitenings]
        for details, _ in batches:
            for level, detail in zip(moments, details, strict=True):
                level.add_(detail.permute(0, 2, 3, 1).flatten(0, 2))
        for whitening, level in zip(self.flow.whitenings, moments, strict=True):
            cast("Whitening", whitening).fit_(*level.mean_and_covariance())

    @torch.no_grad()
    def fit_calibration_(self, batches: Iterable[Features]) -> None:
        """Fit the calibration of the scores to normal images; to be done after training, in eval mode.

        The relative maps (``multiplicative``, ``additive``) have none.

        Args:
            batches: What the backbone sees in the images.

        Raises:
            ValueError: If there are no images.
        """
        if not self.anomaly_map_generator.needs_log_det:
            return
        scores, concepts = [], []
        for features in batches:
            concept, _, (latents, _, cell_log_dets) = self._encode(features)
            scores.append(self.anomaly_map_generator.uncalibrated_scores(latents, cell_log_dets, self.input_size))
            concepts.append(concept.indices)
        self.anomaly_map_generator.calibration.fit_(
            torch.cat(scores) if scores else torch.empty(0), torch.cat(concepts) if concepts else torch.empty(0)
        )

    @property
    def pattern_codebooks(self) -> list[Codebook]:
        """The pattern codebooks, fine to coarse, the semantic level's last; empty without patterns."""
        return [module for module in self.conditions.modules() if isinstance(module, Codebook)]
