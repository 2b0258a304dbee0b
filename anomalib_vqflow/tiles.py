# SPDX-License-Identifier: Apache-2.0
"""Overlapping tiles: large images are cut into them, and their maps are put together again."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import ceil

import torch
from torch import Tensor

from .anomaly_map import Scores
from .features import Features

TILES_AT_ONCE = 64
"""Tiles that a training step takes, if its batch has no more images, and that the backbone sees at once."""

LEAST_OVERLAP = 1 / 8
"""Share of a tile, at least, that it has in common with its neighbor: four cells of the finest maps at 256 pixels."""


class Tiles:
    """Where an image is cut into overlapping tiles, and what becomes of these.

    There are as few tiles as overlap by an eighth. They are evenly spaced and end where the image does, so that nothing
    is padded. A training step draws some tiles of its batch, so that it costs what it does without tiles.

    The map of an image fades from each tile to the next around the middle of what these have in common: what a tile
    says of its border, where it sees the least, does not count. The score of an image is the highest of its tiles, in
    which a small defect is not averaged away, and its concept is that of this tile.

    Tiles are slices at fixed places, which every runtime computes. anomalib's ``Tiler`` fills in zeros where tiles do
    not fit, makes NaN 0, which is normal, and is set by a callback, of which checkpoints and exports know nothing.

    Args:
        image_size: Height and width of the images, in pixels.
        tile_size: Height and width of a tile.

    Raises:
        ValueError: If a tile is larger than the image.

    Example:
        >>> tiles = Tiles((96, 160), (64, 64))
        >>> tiles.tops, tiles.lefts, len(tiles)
        ([0, 32], [0, 48, 96], 6)
        >>> images = torch.rand(2, 3, 96, 160)
        >>> tiles.cut(images).shape, torch.equal(tiles.join(tiles.cut(images)), images)
        (torch.Size([12, 3, 64, 64]), True)
    """

    def __init__(self, image_size: tuple[int, int], tile_size: tuple[int, int]) -> None:
        if tile_size[0] > image_size[0] or tile_size[1] > image_size[1]:
            msg = (
                f"tile_size must not be larger than the images, got {tile_size} for images of {image_size} pixels, the "
                "size that the pre-processor resizes them to. Give input_size the size of your images."
            )
            raise ValueError(msg)
        self.image_size = image_size
        self.tile_size = tile_size
        self.tops, self.lefts = (_starts(*lengths) for lengths in zip(image_size, tile_size, strict=True))

    def __len__(self) -> int:
        """Count the tiles of an image."""
        return len(self.tops) * len(self.lefts)

    def cut(self, images: Tensor) -> Tensor:
        """Cut images into tiles.

        Args:
            images: Images of shape ``(B, C, H, W)``.

        Returns:
            Tiles of shape ``(B · T, C, h, w)``, image by image, row by row.

        Raises:
            ValueError: If the images are of another size than was said.
        """
        if tuple(images.shape[-2:]) != self.image_size:
            msg = (
                f"This model cuts images of {self.image_size} pixels into tiles, got {tuple(images.shape[-2:])}; let "
                "the pre-processor resize them to that size, or give input_size theirs."
            )
            raise ValueError(msg)
        height, width = self.tile_size
        rows = torch.stack([images[:, :, top : top + height] for top in self.tops], dim=1)
        return torch.stack([rows[..., left : left + width] for left in self.lefts], dim=2).flatten(0, 2)

    def see(self, backbone: Callable[[Tensor], Features], images: Tensor) -> Features:
        """Extract what a backbone sees in all tiles, some at once.

        Args:
            backbone: Function of images.
            images: Images of shape ``(B, 3, H, W)``.

        Returns:
            Maps of the tiles, in the order of :meth:`cut`.
        """
        tiles = self.cut(images)
        if torch.compiler.is_exporting():  # for batches of any size
            return backbone(tiles)
        parts = [backbone(part) for part in tiles.split(TILES_AT_ONCE)]
        details = [torch.cat(level) for level in zip(*(part.details for part in parts), strict=True)]
        tokens = [part.tokens for part in parts if part.tokens is not None]
        return Features(details, torch.cat([part.semantic for part in parts]), torch.cat(tokens) if tokens else None)

    def draw(self, images: Tensor, features: Features | None) -> tuple[Tensor, Features | None]:
        """Draw tiles for a training step; which ones does not depend on whether their maps are known.

        Args:
            images: Images of shape ``(B, 3, H, W)``.
            features: Maps of all their tiles, if known.

        Returns:
            Tiles, if their maps are unknown, and maps of the drawn tiles, if known.
        """
        drawn = torch.randperm(len(images) * len(self))[: max(TILES_AT_ONCE, len(images))].to(images.device)
        if features is None:
            return self.cut(images)[drawn], None
        return images, features.apply(lambda values: values[drawn])

    def gather(self, scores: Scores, concept: Tensor, tell: Callable[[Tensor], Tensor]) -> tuple[Scores, Tensor]:
        """Put scores of tiles together.

        Args:
            scores: Maps and scores of the tiles, in the order of :meth:`cut`.
            concept: Concept of each tile, shape ``(B · T,)``.
            tell: Function from raw maps to maps.

        Returns:
            Maps and scores of the images, and concepts, shape ``(B,)``.
        """
        pred_score, highest = scores.pred_score.unflatten(0, (-1, len(self))).max(dim=1)
        concept = concept.unflatten(0, (-1, len(self))).gather(1, highest[:, None]).squeeze(1)
        raw_map = self.join(scores.raw_map)
        return Scores(tell(raw_map), pred_score, raw_map, self.join(scores.raw_score_map)), concept

    def join(self, maps: Tensor) -> Tensor:
        """Put maps of tiles together.

        Args:
            maps: Maps of shape ``(B · T, C, h, w)``, in the order of :meth:`cut`.

        Returns:
            Maps of the images, shape ``(B, C, H, W)``.
        """
        grid = maps.unflatten(0, (-1, len(self.tops), len(self.lefts)))
        rows = _faded(grid.unbind(dim=2), self.lefts, dim=-1)  # (B, R, C, h, W)
        return _faded(rows.unbind(dim=1), self.tops, dim=-2)


def _starts(length: int, tile: int) -> list[int]:
    """Place as few tiles as overlap enough, evenly."""
    overlap = _least_overlap(tile)
    steps = ceil((length - overlap) / (tile - overlap)) - 1
    return [round(step * (length - tile) / max(steps, 1)) for step in range(steps + 1)]


def _least_overlap(tile: int) -> int:
    return int(LEAST_OVERLAP * tile)


def _faded(parts: Sequence[Tensor], starts: Sequence[int], dim: int) -> Tensor:
    """Lay overlapping parts side by side, each fading into the next."""
    tile = parts[0].shape[dim]
    fade = _least_overlap(tile)
    ramp = (torch.arange(fade, dtype=parts[0].dtype, device=parts[0].device) + 0.5) / fade
    ramp = ramp.view(-1, *[1] * (-1 - dim))
    pieces, begin = [], 0
    for (part, start), (following, later) in pairwise(zip(parts, starts, strict=True)):
        end = (start + tile + later - fade) // 2  # the fading lies in the middle of what both have in common
        both = part.narrow(dim, end - start, fade), following.narrow(dim, end - later, fade)
        pieces += [part.narrow(dim, begin - start, end - begin), both[0].lerp(both[1], ramp)]
        begin = end + fade
    pieces.append(parts[-1].narrow(dim, begin - starts[-1], starts[-1] + tile - begin))
    return torch.cat(pieces, dim=dim)
