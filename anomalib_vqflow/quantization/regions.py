# SPDX-License-Identifier: Apache-2.0
"""Where the images of each concept lie: this tells those of a concept that was added from those of the others."""

from typing import Any

import torch
from torch import Tensor, nn

from anomalib_vqflow.buffers import resize_buffers_

SHRINKAGE = 5.0
"""Images that the usual spread counts for beside those of a concept."""
REACH = 6.0
"""Squared distance from its mean, in spreads, up to which an image may be of an added concept. Normal images are within
about three; what is further off is left to the trained concepts, by which it is foreign, and so anomalous."""
SMALLEST_SPREAD = 1e-6
"""Of the embeddings of a concept, as a share of the largest squared center: of equal images there is only rounding."""


class ConceptRegions(nn.Module):
    r"""Mean and spread of the embeddings of each concept's normal images, as they are in inference.

    A prototype follows the embeddings of the training, whose batches normalize them, so that it may lie beside those of
    inference. That does no harm among the prototypes of one training. A prototype that is added later lies right among
    its images, though, and would win images of others. So an image is of an added concept only if it fits better into
    the region of that than into the region of the concept that it would have had. For embedding e, an isotropic
    Student's t of as many degrees of freedom as there are dimensions makes this a comparison of

    .. math:: (s_k + \lVert e - m_k \rVert^2) / \sqrt{s_k}

    where :math:`m_k` is the mean of concept k and :math:`s_k` the mean squared distance from it; the smaller fits. Far
    from an added concept nothing is of it, so that defects of other products do not become its normal images.

    Source: ours.

    Args:
        num_concepts: Number of concepts K, those that were added included.
        concept_dim: Width D of the embeddings.

    Example:
        >>> import torch
        >>> regions = ConceptRegions(num_concepts=1, concept_dim=2)
        >>> regions.fit_(torch.tensor([[0.0, 1.0], [0.0, -1.0]]), torch.tensor([0, 0]), codes=torch.zeros(1, 2))
        >>> regions.append_(torch.tensor([[3.0, 0.0], [3.2, 0.0]]))
        >>> regions(torch.tensor([[0.1, 0.5], [3.1, 0.1]]), torch.tensor([0, 0]))
        tensor([0, 1])
    """

    means: Tensor  # (K, D)
    spreads: Tensor  # (K,), positive; 0 until it is fitted, and for a concept that was given up
    added: Tensor  # (A,), int64, numbers of the concepts that were added

    def __init__(self, num_concepts: int, concept_dim: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(num_concepts, concept_dim))
        self.register_buffer("spreads", torch.zeros(num_concepts))
        self.register_buffer("added", torch.zeros(0, dtype=torch.long))

    @property
    def num_added(self) -> int:
        """Number of concepts that were added."""
        return len(self.added)

    @property
    def fitted(self) -> bool:
        """Whether the regions are known."""
        return bool((self.spreads > 0).any())

    def forward(self, embedding: Tensor, indices: Tensor) -> Tensor:
        """Find the images that fit better into the region of an added concept, if there are any.

        Args:
            embedding: Embeddings of shape ``(B, D)``.
            indices: Concept of each image without the added ones, shape ``(B,)``.

        Returns:
            Concept of each image, shape ``(B,)``.
        """
        if not self.num_added:
            return indices
        own = _misfit((embedding - self.means[indices]).square().sum(dim=1), self.spreads[indices])
        distances = (embedding[:, None] - self.means[self.added]).square().sum(dim=2)  # (B, A)
        spreads = self.spreads[self.added]
        misfits = torch.where(distances > REACH * spreads, torch.inf, _misfit(distances, spreads))
        best, place = misfits.min(dim=1)
        return torch.where(best < own, self.added[place], indices)

    @torch.no_grad()
    def fit_(self, embeddings: Tensor, concepts: Tensor, codes: Tensor) -> None:
        """Fit to normal images.

        Args:
            embeddings: Embeddings of shape ``(N, D)``; those that are not finite are left out.
            concepts: Concept of each, shape ``(N,)``.
            codes: The prototypes, shape ``(K, D)``, for concepts without an image.
        """
        finite = embeddings.isfinite().all(dim=1)
        embeddings, concepts = embeddings[finite], concepts[finite]
        counts = torch.zeros_like(self.spreads).index_add_(0, concepts, torch.ones_like(embeddings[:, 0]))
        sums = torch.zeros_like(self.means).index_add_(0, concepts, embeddings)
        self.means = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], codes)
        distances = (embeddings - self.means[concepts]).square().sum(dim=1)
        usual = distances.mean() if len(distances) else codes.new_ones(())
        totals = torch.zeros_like(self.spreads).index_add_(0, concepts, distances)
        self.spreads = self._at_least((totals + SHRINKAGE * usual) / (counts + SHRINKAGE))

    @torch.no_grad()
    def append_(self, embeddings: Tensor) -> None:
        """Add a concept, which takes the next number.

        Args:
            embeddings: Embeddings of its normal images, shape ``(N, D)``.
        """
        mean = embeddings.mean(dim=0)
        total = (embeddings - mean).square().sum()
        usual = self.spreads[self.spreads > 0].median()
        spread = (total + SHRINKAGE * usual) / (len(embeddings) + SHRINKAGE)
        self.added = torch.cat((self.added, self.added.new_tensor([len(self.means)])))
        self.means = torch.cat((self.means, mean[None]))
        self.spreads = torch.cat((self.spreads, self._at_least(spread[None])))

    @torch.no_grad()
    def retire_(self, concept: int) -> None:
        """Let no image be of an added concept any more.

        Args:
            concept: Its number.
        """
        self.spreads[concept] = 0

    def _at_least(self, spreads: Tensor) -> Tensor:
        return torch.maximum(spreads, SMALLEST_SPREAD * self.means.square().sum(dim=1).amax()).clamp_min(1e-12)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:  # noqa: ANN401
        resize_buffers_(self, ("added",), state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _misfit(distances: Tensor, spreads: Tensor) -> Tensor:
    """Tell how badly embeddings at squared distances fit into regions; not at all into one that was given up."""
    return torch.where(spreads > 0, (spreads + distances) * spreads.clamp_min(1e-12).rsqrt(), torch.inf)
