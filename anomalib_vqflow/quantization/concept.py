# SPDX-License-Identifier: Apache-2.0
"""Conceptual Prototype Codebook (CPC): which product is this?"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from anomalib_vqflow.distributed import SyncedBatchNorm1d

from .codebook import Codebook
from .regions import ConceptRegions


class Concept(NamedTuple):
    """What each image of a batch shows, and the prototypes that there are."""

    prototype: Tensor  # ŷ, (B, D), straight-through in training
    indices: Tensor  # (B,), int64, number of the prototype in the codebook
    commitment: Tensor  # (), see Quantized
    prototypes: Tensor  # (N, D), the distinct ones: the codebook's in inference, one per image in training
    rows: Tensor  # (B,), int64, the row of `prototypes` that is each image's
    lasting: bool  # whether `prototypes` stay the same from batch to batch, so that their products are worth keeping


class ConceptQuantizer(nn.Module):
    r"""Embed the semantic map and find its prototype, :math:`\hat y = Q_{cp}(\mathrm{MLP}(\mathrm{GAP}(h_4)))`.

    CLS and register tokens of a vision transformer, if there are any, are embedded beside the mean of the map.

    Source: VQ-Flow (Zhou et al., 2024), framework figure, "Conceptual Prototype Codebook",
    https://arxiv.org/abs/2409.00942

    Args:
        channels: Channels of the semantic map, and of the tokens if there are any, together.
        concept_dim: Width D of the embedding and of the prototypes.
        num_concepts: Number of prototypes K.
        novelty: See :class:`Codebook`.

    Example:
        >>> import torch
        >>> quantizer = ConceptQuantizer(channels=32, concept_dim=16, num_concepts=4, novelty=0.0)
        >>> concept = quantizer(torch.randn(2, 32, 3, 3))
        >>> concept.prototype.shape, concept.indices.shape
        (torch.Size([2, 16]), torch.Size([2]))
    """

    def __init__(self, *, channels: int, concept_dim: int, num_concepts: int, novelty: float) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(channels, concept_dim),
            SyncedBatchNorm1d(concept_dim),
            nn.ReLU(),
            nn.Linear(concept_dim, concept_dim),
            SyncedBatchNorm1d(concept_dim),
            nn.ReLU(),
        )
        self.codebook = Codebook(num_concepts, concept_dim, novelty=novelty)
        self.regions = ConceptRegions(num_concepts, concept_dim)

    def embed(self, semantic: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Embed the semantic maps of a batch.

        Args:
            semantic: Map h_4 of shape ``(B, C, h, w)``.
            tokens: Tokens beside it, shape ``(B, C_t)``.

        Returns:
            Embeddings of shape ``(B, D)``.
        """
        mean = semantic.mean(dim=(2, 3))
        embedding: Tensor = self.mlp(mean if tokens is None else torch.cat([mean, tokens], dim=1))
        return embedding

    def forward(self, semantic: Tensor, tokens: Tensor | None = None) -> Concept:
        """Quantize the semantic maps of a batch.

        Args:
            semantic: Map h_4 of shape ``(B, C, h, w)``.
            tokens: Tokens beside it, shape ``(B, C_t)``.

        Returns:
            The concept of each image.
        """
        embedding = self.embed(semantic, tokens)
        prototype, indices, commitment = self.codebook(embedding)
        indices = self.regions(embedding, indices)
        if self.regions.num_added:
            prototype = self.codebook.codes[indices]
        if self.training:  # the gradient passes to each image's embedding by a prototype of its own
            rows = torch.arange(prototype.shape[0], device=prototype.device)
            return Concept(prototype, indices, commitment, prototype, rows, lasting=False)
        return Concept(prototype, indices, commitment, self.codebook.codes, indices, lasting=True)

    def assign(self, embedding: Tensor) -> Tensor:
        """Find the concepts of embeddings in inference, those that were added included.

        Args:
            embedding: Embeddings of shape ``(B, D)``.

        Returns:
            Concepts of shape ``(B,)``.
        """
        indices: Tensor = self.regions(embedding, self.codebook.nearest(embedding))
        return indices

    def append_(self, embeddings: Tensor) -> None:
        """Add a concept, which takes the next number.

        Args:
            embeddings: Embeddings of its normal images in inference, shape ``(N, D)``.
        """
        self.codebook.append_(embeddings.mean(dim=0))
        self.regions.append_(embeddings)

    def retire_(self, concept: int) -> None:
        """Let no image be of a concept any more.

        Args:
            concept: Its number.
        """
        self.codebook.retire_(concept)
        self.regions.retire_(concept)
