# SPDX-License-Identifier: Apache-2.0
"""Variations of VQ-Flow that were tried and that the package does not have; see docs/results.md."""

from typing import Any

import torch
from torch import Tensor, nn

from anomalib_vqflow import VQFlow
from anomalib_vqflow.features import Features
from anomalib_vqflow.flows.gaussian import ConceptGaussian
from anomalib_vqflow.quantization import Codebook, PatternQuantizer, Patterns


class MixedUpPatterns(VQFlow):
    """Noise on the conditions: in training, some cells take the pattern of another cell of their image.

    Args:
        share: Share of the cells, in [0, 1].
        arguments: Those of VQFlow.
    """

    def __init__(self, share: float, **arguments: Any) -> None:  # noqa: ANN401
        super().__init__(**arguments)
        self.share = share
        for module in self.model.modules():
            if isinstance(module, PatternQuantizer):
                module.register_forward_hook(self._mix_up)

    def _mix_up(self, module: nn.Module, _inputs: object, patterns: Patterns) -> Patterns:
        if not module.training:
            return patterns
        codes, indices = patterns.codes.flatten(2), patterns.indices.flatten(1)
        others = torch.randperm(indices.shape[1], device=indices.device)
        chosen = torch.rand(indices.shape, device=indices.device) < self.share
        return patterns._replace(
            codes=torch.where(chosen[:, None], codes[..., others], codes).view_as(patterns.codes),
            indices=torch.where(chosen, indices[:, others], indices).view_as(patterns.indices),
        )


class Recentered(VQFlow):
    """The detail maps of an image are taken relative to their mean, so that what all of its cells share is no anomaly.

    Args:
        arguments: Those of VQFlow.
    """

    def __init__(self, **arguments: Any) -> None:  # noqa: ANN401
        super().__init__(**arguments)
        self.model.features.register_forward_hook(self._recenter)

    def _recenter(self, _module: nn.Module, _inputs: object, features: Features) -> Features:
        return features._replace(details=[d - d.mean(dim=(2, 3), keepdim=True) for d in features.details])


class SoftAssignment(VQFlow):
    r"""The Gaussian of an image is that of a mean of prototypes, weighted by :math:`\exp(-d^2 / \tau)`.

    The temperature :math:`\tau` is the mean squared distance of a batch's images to their nearest prototypes, averaged
    over the training.

    Args:
        arguments: Those of VQFlow.
    """

    temperature: Tensor

    def __init__(self, **arguments: Any) -> None:  # noqa: ANN401
        super().__init__(**arguments)
        self.register_buffer("temperature", torch.ones(()))
        self._prototype = torch.empty(0)
        self.model.concept.codebook.register_forward_hook(self._weigh)
        for module in self.model.modules():
            if isinstance(module, ConceptGaussian):
                module.register_forward_pre_hook(self._replace_prototype, with_kwargs=True)

    def _weigh(self, codebook: Codebook, inputs: tuple[Tensor], _output: object) -> None:
        codes = codebook.codes.clone()  # the next batch moves them
        distances = torch.cdist(inputs[0], codes).square()
        distances = distances.masked_fill(codebook.code_counts == 0, torch.inf)
        if codebook.training:
            self.temperature.lerp_(distances.detach().amin(dim=1).mean(), 0.01)
        self._prototype = torch.softmax(-distances / self.temperature.clamp_min(1e-6), dim=1) @ codes

    def _replace_prototype(
        self, _module: nn.Module, inputs: tuple[Any, ...], arguments: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return inputs, {**arguments, "c": [self._prototype]}
