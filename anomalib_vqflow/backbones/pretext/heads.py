# SPDX-License-Identifier: Apache-2.0

"""Losses of the pretext task: which formula a cell shows, its color and contrast, and which formula the scene shows."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from .scenes import Scenes

CLEAR = 0.1  # a cell belongs to a picture when the other one covers less of it than this
FLAT = 0.06  # a cell whose contrast is below this says little about its formula and weighs less
MAX_CELLS = 40  # cells per scene and level that enter the loss


class Targets(NamedTuple):
    """What there is to know about a batch of scenes.

    Attributes:
        scenes: The scenes.
        first: Class of the first picture, shape ``(B,)``.
        second: Class of the second picture, shape ``(B,)``.
    """

    scenes: Scenes
    first: Tensor
    second: Tensor


class PretextHeads(nn.Module):
    """Linear read-outs of every feature map, and their summed loss.

    The three detail maps are average-pooled by two first, as VQ-Flow pools them, so that it is the pooled maps that
    become easy to tell apart. Colors vary freely within a class, so the second read-out, of mean color and contrast,
    is what keeps the network from forgetting them: a stain is nothing but a color.

    Args:
        channels: Channels of the feature maps, coarsest last.
        num_classes: Number of formulas.
    """

    def __init__(self, channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.formulas = nn.ModuleList(nn.Linear(width, num_classes) for width in channels)
        self.colors = nn.ModuleList(nn.Linear(width, 4) for width in channels)
        self.scene = nn.Linear(channels[-1], num_classes)

    def forward(self, maps: Sequence[Tensor], targets: Targets, rng: Generator) -> tuple[Tensor, Tensor]:
        """Return the loss and the accuracies.

        Args:
            maps: Feature maps, each of shape ``(B, C, h, w)``.
            targets: What the maps should tell.
            rng: Chooses the cells that enter the loss.

        Returns:
            The loss, shape ``()``, and the share of right answers per level and of scenes, shape ``(levels + 1,)``.
        """
        pooled = [F.avg_pool2d(level, 3, 2, 1) for level in maps[:-1]] + [maps[-1]]
        images, cover = targets.scenes
        gray = images.mean(dim=1, keepdim=True)
        stacked = torch.cat([images, gray**2, cover], dim=1)
        results = []
        for index, level in enumerate(pooled):
            stacked = F.avg_pool2d(stacked, stacked.shape[-1] // level.shape[-1])
            results.append(self._level(index, level, stacked, targets, rng))
        logits = self.scene(maps[-1].mean(dim=(2, 3)))
        plain = targets.scenes.cover.mean(dim=(1, 2, 3)) < 0.4
        labels = torch.where(plain, targets.first, -100)
        loss = F.cross_entropy(logits, labels, label_smoothing=0.05)
        right = (logits.argmax(1) == labels)[plain].float().mean()
        total = loss + torch.stack([result[0] for result in results]).sum()
        return total, torch.stack([*(result[1] for result in results), right]).detach()

    def _level(
        self, index: int, level: Tensor, stacked: Tensor, targets: Targets, rng: Generator
    ) -> tuple[Tensor, Tensor]:
        """Return loss and accuracy of one level, from at most ``MAX_CELLS`` cells of each scene.

        Args:
            index: Index of the level.
            level: Pooled features, shape ``(B, C, g, g)``.
            stacked: Means over each cell of color, squared gray and cover, shape ``(B, 5, g, g)``.
            targets: Classes of the scenes.
            rng: Chooses the cells.
        """
        cells = torch.randperm(level.shape[-1] ** 2, generator=rng)[:MAX_CELLS]
        features = level.flatten(2)[:, :, cells].transpose(1, 2)  # (B, cells, C)
        facts = stacked.flatten(2)[:, :, cells].transpose(1, 2)  # (B, cells, 5)
        color, power, share = facts[..., :3], facts[..., 3], facts[..., 4]
        contrast = (power - color.mean(dim=-1) ** 2).clamp(min=0).sqrt()
        answer = torch.cat([color, torch.log(contrast + 0.05)[..., None]], dim=-1)
        labels = torch.where(share < 0.5, targets.first[:, None], targets.second[:, None])
        weight = (contrast / FLAT).clamp(0.02, 1) * ((share < CLEAR) | (share > 1 - CLEAR))
        logits = self.formulas[index](features)
        losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
        loss = (losses * weight.flatten()).sum() / weight.sum().clamp(min=1)
        loss = loss + F.smooth_l1_loss(self.colors[index](features), answer)
        right = ((logits.argmax(-1) == labels) * weight).sum() / weight.sum().clamp(min=1e-6)
        return loss, right
