# SPDX-License-Identifier: Apache-2.0
"""Conceptual Prototype Codebook (CPC): which product is this?"""

from torch import Tensor, nn

from .codebook import Codebook, Quantized


class ConceptQuantizer(nn.Module):
    r"""Embed the semantic map and find its prototype, :math:`\hat y = Q_{cp}(\mathrm{MLP}(\mathrm{GAP}(h_4)))`.

    Source: VQ-Flow (Zhou et al., 2024), framework figure, "Conceptual Prototype Codebook",
    https://arxiv.org/abs/2409.00942

    Args:
        channels: Channels of the semantic map.
        concept_dim: Width D of the embedding and of the prototypes.
        num_concepts: Number of prototypes K.
        novelty: See :class:`Codebook`.

    Example:
        >>> import torch
        >>> concept = ConceptQuantizer(channels=32, concept_dim=16, num_concepts=4)(torch.randn(2, 32, 3, 3))
        >>> concept.codes.shape, concept.indices.shape
        (torch.Size([2, 16]), torch.Size([2]))
    """

    def __init__(self, channels: int, concept_dim: int, num_concepts: int, novelty: float = 0.0) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(channels, concept_dim),
            nn.BatchNorm1d(concept_dim),
            nn.ReLU(),
            nn.Linear(concept_dim, concept_dim),
            nn.BatchNorm1d(concept_dim),
            nn.ReLU(),
        )
        self.codebook = Codebook(num_concepts, concept_dim, novelty=novelty)

    def forward(self, semantic: Tensor) -> Quantized:
        """Quantize the semantic maps of a batch.

        Args:
            semantic: Map h_4 of shape ``(B, C, h, w)``.

        Returns:
            Prototypes ŷ of shape ``(B, D)``, concept indices of shape ``(B,)`` and the commitment.
        """
        return self.codebook(self.mlp(semantic.mean(dim=(2, 3))))
