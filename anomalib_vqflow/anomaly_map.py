# SPDX-License-Identifier: Apache-2.0
"""From latents to a pixel map and an image score."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .calibration import ConceptCalibration
from .distributed import pooled
from .score_maps import MAPS, log_energies, mean_map
from .top_mean import top_mean

ScoreMap = Literal["likelihood", "multiplicative", "additive"]

LOG_DET_WEIGHT = 0.25
"""Weight of the log-determinant where images are scored; see :class:`AnomalyMapGenerator`."""
FREEDOM = 2.0
"""Degrees of freedom of the Student distribution that pixels are scored by, likewise."""
COARSER_WEIGHT = 0.8
"""Weight of a level in the map relative to the next finer one, likewise."""


class Scores(NamedTuple):
    """How anomalous the pixels and images of a batch are, in [0, 1], 0 = normal."""

    anomaly_map: Tensor  # (B, 1, H, W)
    pred_score: Tensor  # (B,)
    raw_map: Tensor  # (B, 1, H, W), the map before it is mapped to [0, 1] if it is absolute, else the map
    raw_score_map: Tensor  # (B, 1, H, W), whose top share is averaged


class AnomalyMapGenerator(nn.Module):
    r"""Score pixels and images by how unlikely their latents are.

    Per level :math:`\log p_i = -\tfrac12 \mathrm{mean}_c z_{i,c}^2`. Three maps can be made of these:

    - ``likelihood``: of the energy :math:`E_i = -\log p_i - \lambda \, \mathrm{mean}_c \log|\det J_i|` of each cell,
      in standard deviations :math:`t_i` from the mean of normal cells, which is learned in training. It is absolute:
      an image that is wrong everywhere scores high, and scores of images compare.

      Pixels are scored with :math:`\lambda` of ``map_log_det_weight``, 1 for the full likelihood, by a mean of
      :math:`\log(w \, \mathrm{softplus}(t_i))`, which is high only where the levels agree, and less near the border
      (:func:`.log_energies`); finer levels, which are sharper, count more. There the density of latents is Student's,
      :math:`\log p_i = -\tfrac{\nu + 1}{2} \mathrm{mean}_c \log(1 + z_{i,c}^2 / \nu)` with :math:`\nu = 2`: a
      defect changes many channels, and a few extreme ones, as normal cells have, must not count for as many.
      Images are scored by :math:`t = \mathrm{mean}_i t_i` with :math:`\lambda = \tfrac14`, which measured best on
      generated products of a seed that no reported number uses. Once :class:`.ConceptCalibration` is fitted, that is
      put on the scale of the image's concept, :math:`(t - m_k) / \tau_k`.
    - ``multiplicative``: :math:`1 - \exp(\sum_i \log p_i - \max)`, relative to the image's best pixel.
    - ``additive``: :math:`(\max - \sum_i \exp(\log p_i - \max_i)) / L`, each level relative to the image's best cell.

    The image score is the mean of a map's top share of pixels; the absolute one is averaged before it is mapped to
    [0, 1). Fine levels tell best where an anomaly is, and all of them whether there is one.

    Source: VQ-Flow's release for the last two (it detects with the multiplicative map and localizes with the additive
    one); the first is ours.

    Args:
        num_levels: Number of detail levels.
        num_concepts: Number of concepts.
        score_map: Which map to use for pixels and images.
        top_k_ratio: Share of the pixels averaged for the image score, in (0, 1]; 0.03 in the paper's release.
        map_levels: Levels that the map is made of, counted from the finest, 0; None for the two finest.
        score_levels: Levels that the image score is made of; None for all.
        map_log_det_weight: Weight of the log-determinant where pixels are scored, in the likelihood map.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> generator = AnomalyMapGenerator(
        ...     num_levels=2,
        ...     num_concepts=3,
        ...     score_map="likelihood",
        ...     top_k_ratio=0.03,
        ...     map_levels=[0],
        ...     score_levels=None,
        ...     map_log_det_weight=1.0,
        ... )
        >>> latents, log_dets = (
        ...     [torch.randn(2, 8, 8, 8), torch.randn(2, 8, 4, 4)],
        ...     [torch.zeros(2, 8, 8), torch.zeros(2, 4, 4)],
        ... )
        >>> scores = generator(latents, log_dets, torch.tensor([0, 2]), (64, 64))
        >>> scores.anomaly_map.shape, scores.pred_score.shape
        (torch.Size([2, 1, 64, 64]), torch.Size([2]))
    """

    level_mean: Tensor  # (L, 2), mean energies of the cells of normal images, for scores of images and of pixels
    level_variance: Tensor  # (L, 2)
    num_observed: Tensor  # (), batches seen

    def __init__(
        self,
        *,
        num_levels: int,
        num_concepts: int,
        score_map: ScoreMap,
        top_k_ratio: float,
        map_levels: Sequence[int] | None,
        score_levels: Sequence[int] | None,
        map_log_det_weight: float,
    ) -> None:
        super().__init__()
        if score_map not in get_args(ScoreMap):
            msg = f"score_map must be one of {get_args(ScoreMap)}, got {score_map!r}."
            raise ValueError(msg)
        if not 0 < top_k_ratio <= 1:
            msg = f"top_k_ratio must lie in (0, 1], got {top_k_ratio}."
            raise ValueError(msg)
        self.score_map = score_map
        self.top_k_ratio = top_k_ratio
        self.map_levels = _chosen_levels("map_levels", map_levels, num_levels, default=min(2, num_levels))
        self.score_levels = _chosen_levels("score_levels", score_levels, num_levels, default=num_levels)
        self.map_log_det_weight = map_log_det_weight
        self.register_buffer("level_mean", torch.zeros(num_levels, 2))
        self.register_buffer("level_variance", torch.ones(num_levels, 2))
        self.register_buffer("num_observed", torch.zeros(()))
        self.calibration = ConceptCalibration(num_concepts)

    @property
    def needs_log_det(self) -> bool:
        """Whether the map depends on the log-determinants."""
        return self.score_map == "likelihood"

    def forward(
        self, latents: Sequence[Tensor], log_dets: Sequence[Tensor], concept: Tensor, size: tuple[int, int]
    ) -> Scores:
        """Score a batch.

        Args:
            latents: z'_i of shape ``(B, C_i, h_i, w_i)`` per level.
            log_dets: Log-determinants of the cells in nats, shape ``(B, h_i, w_i)`` per level; only the
                likelihood map depends on them.
            concept: Concept of each image, shape ``(B,)``; only the likelihood map depends on it.
            size: Height and width of the map, in pixels.

        Returns:
            Maps and image scores.
        """
        if self.needs_log_det:
            for_images, for_pixels = self._standard_energies(latents, log_dets)
            raw_score_map = self.calibration(mean_map(for_images, self.score_levels, size), concept)
            raw_map = mean_map(log_energies(for_pixels), self.map_levels, size, COARSER_WEIGHT)
        else:
            levels = [-0.5 * z.square().mean(dim=1, keepdim=True) for z in latents]  # log p_i, (B, 1, h_i, w_i)
            combine = MAPS[self.score_map]
            raw_map = combine([levels[index] for index in self.map_levels], size)
            raw_score_map = raw_map.clone()  # of one tensor with two names, torch 2.10 may export the other one
            if self.score_levels != self.map_levels:
                raw_score_map = combine([levels[index] for index in self.score_levels], size)
        pred_score = self.tell(top_mean(raw_score_map, self.top_k_ratio))
        return Scores(self.tell(raw_map), pred_score, raw_map, raw_score_map)

    def tell(self, raw: Tensor) -> Tensor:
        """Map raw values of maps, or their means, to [0, 1].

        Args:
            raw: Values of any shape.

        Returns:
            Values of the same shape. What has no likelihood, such as NaN pixels, must not pass for normal, as NaN would
            under any threshold, so it is 1.
        """
        return (to_unit(raw) if self.needs_log_det else raw).nan_to_num(nan=1.0)

    def uncalibrated_scores(
        self, latents: Sequence[Tensor], log_dets: Sequence[Tensor], size: tuple[int, int]
    ) -> Tensor:
        """Average the top share of the likelihood before calibration; what calibration is fitted to.

        Args:
            latents: z'_i of shape ``(B, C_i, h_i, w_i)`` per level.
            log_dets: Log-determinants of the cells in nats, shape ``(B, h_i, w_i)`` per level.
            size: Height and width of the map, in pixels.

        Returns:
            Scores of images, shape ``(B,)``, in standard deviations of a cell's energy.
        """
        for_images, _ = self._standard_energies(latents, log_dets)
        return top_mean(mean_map(for_images, self.score_levels, size), self.top_k_ratio)

    @torch.no_grad()
    def observe_(self, latents: Sequence[Tensor], log_dets: Sequence[Tensor]) -> None:
        """Follow mean and variance of the energies of normal images, as running means over the last 100 batches or so.

        Args:
            latents: z'_i of shape ``(B, C_i, h_i, w_i)`` per level.
            log_dets: Log-determinants of the cells in nats, shape ``(B, h_i, w_i)`` per level.
        """
        levels = energies(latents, log_dets, self.map_log_det_weight)
        cells = (0, 2, 3)
        mean = torch.stack([level.mean(dim=cells) for level in levels]).to(self.level_mean.dtype)
        variance = torch.stack([level.var(dim=cells, correction=0) for level in levels]).to(self.level_mean.dtype)
        mean, variance = pooled(mean, variance, count=len(levels[0]))
        finite = mean.isfinite().all() & variance.isfinite().all()  # training stops at such a loss, in its own words
        weight = torch.where(finite, 1 / (self.num_observed + 1).clamp_max(100), 0.0)
        self.level_mean.lerp_(mean.nan_to_num(posinf=0.0, neginf=0.0), weight)
        self.level_variance.lerp_(variance.nan_to_num(posinf=0.0), weight)
        self.num_observed.add_(finite)

    def _standard_energies(
        self, latents: Sequence[Tensor], log_dets: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Standardize the energies that images, and that pixels are scored by, ``(B, 1, h_i, w_i)`` per level."""
        means, scales = self.level_mean[..., None, None], self.level_variance.clamp_min(1e-12).rsqrt()[..., None, None]
        of_levels = energies(latents, log_dets, self.map_log_det_weight)
        levels = [(level - means[i]) * scales[i] for i, level in enumerate(of_levels)]
        return [level[:, :1] for level in levels], [level[:, 1:] for level in levels]


def energies(latents: Sequence[Tensor], log_dets: Sequence[Tensor], map_log_det_weight: float) -> list[Tensor]:
    """Weigh latents and volume to the energies of each cell, in nats per dimension.

    Args:
        latents: z'_i of shape ``(B, C_i, h_i, w_i)`` per level.
        log_dets: Log-determinants of shape ``(B, h_i, w_i)`` per level, in nats.
        map_log_det_weight: Weight of the log-determinant where pixels are scored.

    Returns:
        Energies that images and that pixels are scored by, shape ``(B, 2, h_i, w_i)`` per level.
    """
    levels = []
    for z, log_det in zip(latents, log_dets, strict=True):
        squares, of_volume = z.square(), log_det / z.shape[1]
        gaussian = 0.5 * squares.mean(dim=1)  # (B, h_i, w_i)
        student = (FREEDOM + 1) / 2 * (squares / FREEDOM).log1p().mean(dim=1)
        levels.append(
            torch.stack((gaussian - LOG_DET_WEIGHT * of_volume, student - map_log_det_weight * of_volume), dim=1)
        )
    return levels


def to_unit(raw: Tensor) -> Tensor:
    """Map the real line to (0, 1), strictly monotone and far from saturation: 1e6 becomes 0.93.

    Args:
        raw: Standardized energies of any shape.

    Returns:
        Values of the same shape.
    """
    return 1 - 1 / (1 + F.softplus(raw).log1p())


def from_unit(told: Tensor) -> Tensor:
    """Map (0, 1) back to the real line: the inverse of :func:`to_unit`.

    Args:
        told: Values of any shape.

    Returns:
        Values of the same shape.
    """
    positive = torch.expm1(1 / (1 - told) - 1)
    return positive + torch.log(-torch.expm1(-positive))


def _chosen_levels(name: str, levels: Sequence[int] | None, num_levels: int, default: int) -> list[int]:
    chosen = sorted(set(range(default) if levels is None else levels))
    if not chosen or chosen[0] < 0 or chosen[-1] >= num_levels:
        msg = f"{name} must name some of the {num_levels} levels, 0 (the finest) to {num_levels - 1}, got {levels}."
        raise ValueError(msg)
    return chosen
