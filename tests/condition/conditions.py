# SPDX-License-Identifier: Apache-2.0
"""Discrete conditions of every kind, as the encoder makes them in training and in inference."""

import torch

from anomalib_vqflow.condition import DiscreteCondition
from anomalib_vqflow.quantization import Anchor, Concept, Patterns

BATCH, CONCEPT_DIM, NUM_CODES, NUM_CONCEPTS = 3, 6, 7, 4
GRIDS = [(1, 1), (1, 5), (4, 1), (2, 2), (2, 3), (5, 4)]
KINDS = {
    "residual": {},
    "independent": {"anchored": False},
    "without patterns": {"patterns": False},
    "without the semantic codebook": {"patterns": False, "joined": True},
    "residual, no position": {"position_dim": 0},
    "independent, no position": {"anchored": False, "position_dim": 0},
    "without patterns, no position": {"patterns": False, "position_dim": 0},
}


def make_condition(
    grid,
    *,
    patterns=True,
    anchored=True,
    joined=None,
    position_dim=4,
    trains=False,
    lasting=False,
    dtype=torch.float64,
    batch=BATCH,
):
    """Build a condition, and name what a gradient may flow to: the prototype and, in training, the query."""
    height, width = grid
    half = position_dim // 2
    columns, rows = torch.randn(half, width, dtype=dtype), torch.randn(half, height, dtype=dtype)
    num_prototypes = NUM_CONCEPTS if lasting else batch
    prototypes = torch.randn(num_prototypes, CONCEPT_DIM, dtype=dtype, requires_grad=not lasting)
    chosen = torch.randint(num_prototypes, (batch,)) if lasting else torch.arange(batch)
    prototype = prototypes[chosen] if lasting else prototypes
    concept = Concept(prototype, chosen, prototype.new_zeros(()), prototypes, chosen, lasting)
    anchor, chosen_patterns, query = Anchor(columns, rows, concept), None, None
    if patterns:
        codebook = torch.randn(NUM_CODES, position_dim + CONCEPT_DIM, dtype=dtype)
        indices = torch.randint(NUM_CODES, (batch, height, width))
        codes = codebook[indices].permute(0, 3, 1, 2)
        if trains:
            query = torch.randn(batch, position_dim + CONCEPT_DIM, height, width, dtype=dtype, requires_grad=True)
            residual = query - anchor.map if anchored else query
            codes = residual + (codes - residual).detach()
        chosen_patterns = Patterns(codes, indices, codes.new_zeros(()), codebook)
    condition = DiscreteCondition(
        anchor, chosen_patterns, anchored=anchored, joined=patterns if joined is None else joined
    )
    return condition, [t for t in (prototypes, query) if t is not None and t.requires_grad]
