# SPDX-License-Identifier: Apache-2.0
"""VQ-Flow as a torch module: wires the parts in the order of the paper's framework figure."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from .anomaly_map import AnomalyMapGenerator, ScoreMap
from .condition import ConditionEncoder
from .distributed import num_processes, rows_of_all_processes
from .features import DetailPooling, FeaturePyramid, Features, Layer
from .flows import AddedConcepts, Moments, MultiScaleFlow, Whitening
from .outputs import Prediction, VQFlowOutput
from .quantization import Codebook, ConceptQuantizer
from .tiles import Tiles


class VQFlowModel(nn.Module):
    """Normalizing flows conditioned on hierarchically quantized concepts and patterns.

    In training it returns a :class:`VQFlowOutput`, in eval mode a :class:`Prediction` with scores in [0, 1].

    With tiles, each of them is what an image is without them, and has a concept of its own; see :class:`.Tiles`.

    Source: VQ-Flow (Zhou et al., 2024), framework figure, https://arxiv.org/abs/2409.00942. Where figure and release
    differ (the condition [ĥ'; ŷ] and not ĥ' alone, the semantic context in the queries, a codebook for the semantic
    level, the fusion), the release is followed.

    Args:
        input_size: Nominal height and width of the images in pixels. Images of other sizes work if the backbone takes
            them and there are no tiles. All other arguments are those of :class:`.VQFlow`, which has their defaults.

    Raises:
        ValueError: If an argument is out of its range, or the backbone does not fit it.

    Example:
        >>> import torch
        >>> from anomalib_vqflow import VQFlow
        >>> model = VQFlow("test_convnext2", pre_trained=False, input_size=64).model
        >>> images = torch.rand(2, 3, 64, 64)
        >>> [tuple(z.shape) for z in model(images).latents]
        [(2, 64, 8, 8), (2, 96, 4, 4), (2, 128, 2, 2)]
        >>> prediction = model.eval()(images)
        >>> prediction.anomaly_map.shape, prediction.pred_score.shape
        (torch.Size([2, 1, 64, 64]), torch.Size([2]))
    """

    def __init__(
        self,
        *,
        input_size: tuple[int, int],
        tile_size: tuple[int, int] | None,
        backbone: str,
        layers: Sequence[Layer | Sequence[Layer]] | None,
        detail_pooling: DetailPooling,
        semantic_level: bool,
        prefix_tokens: bool,
        pre_trained: bool | str | Path,
        concept_dim: int,
        num_concepts: int,
        concept_novelty: float,
        position_dim: int,
        num_patterns: int,
        quantization: Literal["residual", "independent"],
        use_patterns: bool,
        flow_steps: Sequence[int],
        hidden_dim: int | None,
        second_kernel_size: int,
        affine_clamp: float,
        use_concept_gaussian: bool,
        use_fusion: bool,
        use_whitening: bool,
        whitening_noise: float,
        score_map: ScoreMap,
        top_k_ratio: float,
        map_levels: Sequence[int] | None,
        score_levels: Sequence[int] | None,
        map_log_det_weight: float,
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
        self.seen_size = tile_size or input_size  # height and width of what the backbone sees
        self.tiles = None if tile_size is None else Tiles(input_size, tile_size)
        self.features = FeaturePyramid(
            backbone=backbone,
            layers=layers,
            num_levels=len(flow_steps),
            detail_pooling=detail_pooling,
            semantic_level=semantic_level,
            prefix_tokens=prefix_tokens,
            pre_trained=pre_trained,
            input_size=self.seen_size,
        )
        detail_shapes, semantic_shape = self.features.detail_shapes, self.features.semantic_shape
        self.concept = ConceptQuantizer(
            channels=semantic_shape[0] + self.features.token_channels,
            concept_dim=concept_dim,
            num_concepts=num_concepts,
            novelty=concept_novelty,
        )
        self.conditions = ConditionEncoder(
            detail_channels=[shape[0] for shape in detail_shapes],
            semantic_channels=semantic_shape[0],
            concept_dim=concept_dim,
            position_dim=position_dim,
            num_patterns=num_patterns,
            residual=quantization == "residual",
            use_patterns=use_patterns,
            use_semantic=use_fusion,
        )
        condition_shapes = [(self.conditions.condition_dim, *s[1:]) for s in (*detail_shapes, semantic_shape)]
        self.flow = MultiScaleFlow(
            detail_shapes,
            [*condition_shapes, (concept_dim,)],
            flow_steps=flow_steps,
            hidden_dim=hidden_dim,
            second_kernel_size=second_kernel_size,
            affine_clamp=affine_clamp,
            use_concept_gaussian=use_concept_gaussian,
            use_fusion=use_fusion,
            use_whitening=use_whitening,
            whitening_noise=whitening_noise,
        )
        self.added = AddedConcepts([shape[0] for shape in detail_shapes])
        self.anomaly_map_generator = AnomalyMapGenerator(
            num_levels=len(detail_shapes),
            num_concepts=num_concepts,
            score_map=score_map,
            top_k_ratio=top_k_ratio,
            map_levels=map_levels,
            score_levels=score_levels,
            map_log_det_weight=map_log_det_weight,
        )

    def forward(self, images: Tensor, features: Features | None = None) -> VQFlowOutput | Prediction:
        """Compute latents and likelihood in training, scores otherwise.

        Args:
            images: Normalized images of shape ``(B, 3, H, W)``. A training batch needs at least two, or tiles.
            features: What :meth:`see` gives for them, if that is known already; else it is computed.

        Returns:
            :class:`VQFlowOutput` in training, :class:`Prediction` in eval mode.

        Raises:
            ValueError: If the images do not have three channels, or not the size that is cut into tiles, or a training
                batch holds a single image.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            msg = f"Expected images of shape (B, 3, H, W), got {tuple(images.shape)}."
            raise ValueError(msg)
        if self.training and images.shape[0] * self.num_tiles * num_processes() < 2:
            msg = (
                "VQ-Flow cannot train on a batch of one image, because its encoders normalize over the batch. "
                "Use train_batch_size of 2 or more, and drop a last batch of one."
            )
            raise ValueError(msg)
        if self.training:
            if self.tiles is not None:
                images, features = self.tiles.draw(images, features)
            output = self.encode(self.features(images) if features is None else features)
            self.anomaly_map_generator.observe_(output.latents, output.log_dets)
            return output
        latents, log_dets, _, concept = self.encode(self.see(images) if features is None else features)
        size = (images.shape[-2], images.shape[-1]) if self.tiles is None else self.seen_size
        scores = self.anomaly_map_generator(latents, log_dets, concept, size)
        if self.tiles is not None:
            scores, concept = self.tiles.gather(scores, concept, self.anomaly_map_generator.tell)
        return Prediction(
            scores.pred_score, None, scores.anomaly_map, None, concept, scores.raw_map, scores.raw_score_map
        )

    def see(self, images: Tensor) -> Features:
        """Extract what the backbone sees in images.

        Args:
            images: Normalized images of shape ``(B, 3, H, W)``.

        Returns:
            Maps of B images, or of their B · T tiles, image by image.

        Raises:
            ValueError: If the images are not of the size that is cut into tiles.
        """
        return self.features(images) if self.tiles is None else self.tiles.see(self.features, images)

    @property
    def num_tiles(self) -> int:
        """How many tiles an image has; 1 if it is not cut."""
        return 1 if self.tiles is None else len(self.tiles)

    def encode(self, features: Features) -> VQFlowOutput:
        """Find the concept, quantize the patterns under it, and run the flows under both.

        Args:
            features: What the backbone sees.

        Returns:
            Latents and likelihood; the log-determinants are zeros in eval mode where no map depends on them.
        """
        details, semantic, tokens = features
        concept = self.concept(semantic, tokens)
        conditions = self.conditions(details, semantic, concept)
        latents, log_dets = self.flow(
            details,
            (*conditions.details, conditions.semantic, concept.prototype),
            jac=self.training or self.anomaly_map_generator.needs_log_det,
        )
        latents, log_dets = self.added(latents, log_dets, concept.indices, self.concept.codebook.num_codes)
        return VQFlowOutput(latents, log_dets, concept.commitment + conditions.commitment, concept.indices)

    @property
    def needs_whitening(self) -> bool:
        """Whether there is a whitening that is not fitted yet."""
        return any(not whitening.fitted for whitening in self.whitenings)

    @property
    def whitenings(self) -> list[Whitening]:
        """The whitening of each level, fine to coarse; empty if there is none."""
        return [module for module in self.flow.modules() if isinstance(module, Whitening)]

    @torch.no_grad()
    def fit_whitening_(self, batches: Iterable[Features]) -> None:
        """Fit the whitening of the detail maps to normal images; to be done once, before training.

        Args:
            batches: What the backbone sees in the images; in each process, in its share of them.

        Raises:
            ValueError: If there are no images.
        """
        whitenings = self.whitenings
        moments = [Moments(len(whitening.mean)) for whitening in whitenings]
        for features in batches:
            for level, detail in zip(moments, features.details, strict=True):
                level.add_(detail.permute(0, 2, 3, 1).flatten(0, 2))
        for whitening, level in zip(whitenings, moments, strict=True):
            level.add_other_processes_(whitening.mean.device)
            whitening.fit_(*level.mean_and_shrunk_covariance())

    @torch.no_grad()
    def fit_calibration_(self, batches: Iterable[Features]) -> Tensor:
        """Fit the calibration of the scores to normal images, and where they lie; after training, in eval mode.

        The relative maps (``multiplicative``, ``additive``) have none.

        Args:
            batches: What the backbone sees in the images; in each process, in its share of them.

        Returns:
            Concept of each image, or tile, of this process, shape ``(N,)``; of none for maps without calibration.

        Raises:
            ValueError: If there are no images.
        """
        if not self.anomaly_map_generator.needs_log_det:
            return torch.empty(0, dtype=torch.long)
        scores, concepts, embeddings = [], [], []
        for features in batches:
            latents, log_dets, _, concept_indices = self.encode(features)
            embeddings.append(self.concept.embed(features.semantic, features.tokens))
            scores.append(self.anomaly_map_generator.uncalibrated_scores(latents, log_dets, self.seen_size))
            concepts.append(concept_indices)
        found = torch.cat(concepts) if concepts else torch.empty(0, dtype=torch.long)
        all_found, codes = rows_of_all_processes(found), self.concept.codebook.codes
        all_scores = rows_of_all_processes(torch.cat(scores) if scores else torch.empty(0))
        self.anomaly_map_generator.calibration.fit_(all_scores, all_found)
        all_embeddings = rows_of_all_processes(torch.cat(embeddings) if embeddings else codes[:0])
        self.concept.regions.fit_(all_embeddings, all_found, codes)
        return found

    @property
    def pattern_codebooks(self) -> list[Codebook]:
        """The pattern codebooks, fine to coarse, the semantic level's last; empty without patterns."""
        return [module for module in self.conditions.modules() if isinstance(module, Codebook)]

    def codebook_statistics(self) -> dict[str, Tensor]:
        """Tell how evenly the codes of each codebook are used, and how many are.

        Returns:
            Perplexity and usage of the concepts and, per level, of the patterns, each of shape ``()``.
        """
        concepts = self.concept.codebook
        statistics = {"concept_perplexity": concepts.perplexity, "concept_usage": concepts.usage}
        for level, codebook in enumerate(self.pattern_codebooks):
            statistics[f"pattern_perplexity/{level}"] = codebook.perplexity
            statistics[f"pattern_usage/{level}"] = codebook.usage
        return statistics
