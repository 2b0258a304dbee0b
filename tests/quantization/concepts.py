# SPDX-License-Identifier: Apache-2.0
"""Concepts as the quantizer gives them, of any prototypes."""

import torch

from anomalib_vqflow.quantization import Concept


def make_concept(prototype: torch.Tensor) -> Concept:
    """Let every image have a prototype of its own, as in training."""
    rows = torch.arange(prototype.shape[0])
    return Concept(prototype, rows, prototype.new_zeros(()), prototype, rows, lasting=False)
