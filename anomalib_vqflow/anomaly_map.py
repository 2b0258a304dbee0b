# SPDX-License-Identifier: Apache-2.0
"""From latents to a pixel map and an image score."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from torch import Tensor, nn
from torch.nn import functional as F

ScoreMap = Literal["likelihood", "multiplicative", "additive"]


class Scores(NamedTuple):
    """How anomalous the pixels and images of a batch are, in [0, 1], 0 = normal."""

    anomaly_map: Tensor  # (B, 1, H, W)
    pred_score: Tensor  # (B,)


class AnomalyMapGenerator(nn.Module):
    r"""Score pixels and images by how unlikely their latents are.

    Per level :math:`\log p_i = -\tfrac12 \mathrm{mean}_c z_{i,c}^2`. Three maps can be made of these:

    - ``likelihood``: :math:`e = -\sum_i \log p_i / L`, the levels upsampled, mapped by
      :math:`1 - 1 / (1 + \log(1 + e))`. It is absolute: an image that is wrong everywhere scores high, and scores of
      different images compare. The mapping is monotone and does not saturate in float32.
    - ``multiplicative``: :math:`1 - \exp(\sum_i \log p_i - \max)`, relative to the image's best pixel.
    - ``additive``: :math:`(\max - \sum_i \exp(\log p_i - \max_i)) / L`, each level relative to the image's best cell.

    The image score is the mean of the map's top share of pixels.

    Source: VQ-Flow's release for the last two (it detects with the multiplicative map and localizes with the additive
    one); the first is ours.

    Args:
        score_map: Which map to use for pixels and images.
        top_k_ratio: Share of the pixels averaged for the image score, in (0, 1]; 0.03 in the paper's release.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> scores = AnomalyMapGenerator()([torch.randn(2, 8, 8, 8), torch.randn(2, 8, 4, 4)], (64, 64))
        >>> scores.anomaly_map.shape, scores.pred_score.shape
        (torch.Size([2, 1, 64, 64]), torch.Size([2]))
    """

    def __init__(self, score_map: ScoreMap = "likelihood", top_k_ratio: float = 0.03) -> None:
        super().__init__()
        if score_map not in get_args(ScoreMap):
            msg = f"score_map must be one of {get_args(ScoreMap)}, got {score_map!r}."
            raise ValueError(msg)
        if not 0 < top_k_ratio <= 1:
            msg = f"top_k_ratio must lie in (0, 1], got {top_k_ratio}."
            raise ValueError(msg)
        self.score_map = score_map
        self.top_k_ratio = top_k_ratio

    def forward(self, latents: Sequence[Tensor], size: tuple[int, int]) -> Scores:
        """Score a batch.

        Args:
            latents: z'_i of shape ``(B, C_i, h_i, w_i)`` per level.
            size: Height and width of the map, in pixels.

        Returns:
            Maps and image scores.
        """
        log_p = [-0.5 * z.square().mean(dim=1, keepdim=True) for z in latents]  # (B, 1, h_i, w_i)
        # What has no likelihood, such as NaN pixels, must not pass for normal, as NaN would under any threshold.
        anomaly_map = MAPS[self.score_map](log_p, size).nan_to_num(nan=1.0)
        pixels = anomaly_map.flatten(1)
        top_k = max(int(self.top_k_ratio * size[0] * size[1]), 1)
        return Scores(anomaly_map, pixels.topk(top_k, dim=1).values.mean(dim=1))


def likelihood_map(log_p: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Map the mean negative log-likelihood to [0, 1).

    Args:
        log_p: Log-likelihoods of shape ``(B, 1, h_i, w_i)`` per level, at most 0.
        size: Height and width of the map, in pixels.

    Returns:
        Map of shape ``(B, 1, H, W)``.
    """
    energy = -_upsampled_sum(log_p, size) / len(log_p)
    return 1 - 1 / (1 + energy.log1p())


def multiplicative_map(log_p: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Multiply the likelihoods of the levels, relative to the best pixel; see :func:`likelihood_map` for shapes."""
    total = _upsampled_sum(log_p, size)
    return 1 - (total - total.amax(dim=(2, 3), keepdim=True)).exp()


def additive_map(log_p: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Add the likelihoods of the levels, each relative to its best cell; see :func:`likelihood_map` for shapes.

    Unlike the release's, the map is divided by the number of levels, so that it lies in [0, 1].
    """
    relative = [(level - level.amax(dim=(2, 3), keepdim=True)).exp() for level in log_p]
    total = _upsampled_sum(relative, size)
    return (total.amax(dim=(2, 3), keepdim=True) - total) / len(log_p)


def _upsampled_sum(maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    upsampled = [F.interpolate(m, size=size, mode="bilinear", align_corners=True) for m in maps]
    total = upsampled[0]
    for level in upsampled[1:]:
        total = total + level
    return total


MAPS = {"likelihood": likelihood_map, "multiplicative": multiplicative_map, "additive": additive_map}
