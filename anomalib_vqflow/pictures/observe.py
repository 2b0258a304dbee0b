# SPDX-License-Identifier: Apache-2.0
"""Watch a model while it predicts: concepts, distances to prototypes, and scores without calibration."""

from contextlib import ExitStack
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anomalib_vqflow.anomaly_map import to_unit
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
        self.flow_outputs: tuple[Any, ...] = ()
        self._hooks = ExitStack()

    def __enter__(self) -> "Observer":
        """Attach the hooks."""
        concept, generator = self.model.concept.codebook, self.model.anomaly_map_generator
        self._hooks.enter_context(concept.register_forward_hook(self._keep_concept))
        self._hooks.enter_context(generator.register_forward_pre_hook(self._keep_flow_outputs))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the hooks."""
        self._hooks.close()

    def _keep_concept(self, module: nn.Module, inputs: tuple[Tensor], output: Quantized) -> None:
        del module
        self.embedding, self.indices = inputs[0], output.indices

    def _keep_flow_outputs(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        del module
        self.flow_outputs = inputs

    def concepts(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the concepts of the last batch and the distances of its embeddings to their prototypes, ``(B,)``."""
        prototypes = self.model.concept.codebook.codes[self.indices]
        distances = (self.embedding - prototypes).double().norm(dim=1)
        return self.indices.cpu().numpy(), distances.cpu().numpy()

    def plain_scores(self, scores: Tensor) -> Tensor:
        """Score the last batch without calibration.

        Args:
            scores: Its scores as the model gives them, shape ``(B,)``.

        Returns:
            Scores on the same scale, shape ``(B,)``; NaN if the model has no calibration.
        """
        generator = self.model.anomaly_map_generator
        if not generator.needs_log_det or not generator.calibration.fitted:
            return torch.full_like(scores, float("nan"))
        latents, cell_log_dets, _, size = self.flow_outputs
        return to_unit(generator.uncalibrated_scores(latents, cell_log_dets, size)).nan_to_num(nan=1.0)
