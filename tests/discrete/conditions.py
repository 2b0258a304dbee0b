# SPDX-License-Identifier: Apache-2.0
"""Discrete conditions of every kind, as the encoder makes them in training and in inference."""

import torch

from anomalib_vqflow.discrete import Concepts, DiscreteCondition

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
    codes = indices = pattern = query = None
    if patterns:
        codes = torch.randn(NUM_CODES, position_dim + CONCEPT_DIM, dtype=dtype)
        indices = torch.randint(NUM_CODES, (batch, height, width))
    if patterns and trains:
        query = torch.randn(batch, position_dim + CONCEPT_DIM, height, width, dtype=dtype, requires_grad=True)
        spread = prototypes[chosen][..., None, None].expand(-1, -1, height, width)
        position = torch.cat((columns[:, None].expand(-1, height, -1), rows[:, :, None].expand(-1, -1, width)))
        anchor = torch.cat((position.expand(batch, -1, -1, -1), spread), dim=1) if anchored else 0.0
        residual = query - anchor
        pattern = anchor + residual + (codes[indices].permute(0, 3, 1, 2) - residual).detach()
    condition = DiscreteCondition(
        Concepts(prototypes, chosen),
        columns,
        rows,
        codes,
        indices,
        pattern,
        anchored=anchored,
        joined=patterns if joined is None else joined,
        lasting=lasting,
    )
    return condition, [t for t in (prototypes, query) if t is not None and t.requires_grad]
