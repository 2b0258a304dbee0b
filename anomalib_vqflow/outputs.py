# SPDX-License-Identifier: Apache-2.0
"""What the model makes of a batch."""

from typing import NamedTuple

from anomalib.data import InferenceBatch
from torch import Tensor


class VQFlowOutput(NamedTuple):
    """What the flows make of a batch: all that the loss needs."""

    latents: tuple[Tensor, ...]  # z'_i, (B, C_i, h_i, w_i)
    log_dets: tuple[Tensor, ...]  # their cells' share of log|det J|, (B, h_i, w_i), nats
    commitment: Tensor  # (), summed over the codebooks
    concept_indices: Tensor  # (B,), index of the prototype, int64


class Prediction(NamedTuple):
    """An anomalib ``InferenceBatch`` that also tells the concepts."""

    pred_score: Tensor  # (B,), in [0, 1], 0 = normal
    pred_label: Tensor | None  # (B,), bool; set by the post-processor
    anomaly_map: Tensor  # (B, 1, H, W), in [0, 1]
    pred_mask: Tensor | None  # (B, 1, H, W), bool; set by the post-processor
    concept: Tensor  # (B,), index of the prototype, int64; with tiles, of the one that scores highest
    raw_map: Tensor | None = None  # (B, 1, H, W), the map before it is mapped to [0, 1]; see Scores
    raw_score_map: Tensor | None = None  # (B, 1, H, W), what the score is made of


class TracedPrediction(NamedTuple):
    """What an exported model computes: a prediction, and its score before the post-processor."""

    pred_score: Tensor  # as in Prediction, as are the next six
    pred_label: Tensor | None
    anomaly_map: Tensor
    pred_mask: Tensor | None
    concept: Tensor
    raw_map: Tensor | None
    raw_score_map: Tensor | None
    raw_score: Tensor  # (B,)


class InferencerPrediction(Prediction):
    """A prediction that anomalib's inferencers take: they unpack it into a batch that knows nothing of ours."""

    __slots__ = ()

    def _asdict(self) -> dict[str, Tensor | None]:
        return {name: value for name, value in super()._asdict().items() if name in InferenceBatch._fields}
