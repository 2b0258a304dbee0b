# SPDX-License-Identifier: Apache-2.0
"""VQ-Flow as the paper's release trains and scores it, from switches that the package does not have.

What is switched, each known from the release's behavior (docs/differences.md), none from its code:

- Codebooks begin with codes drawn from N(0, 1) and empty running counts. Codes are running sums divided by smoothed
  running counts, as in van den Oord et al., 2017 (https://arxiv.org/abs/1711.00937), so the first update multiplies the
  codes that no vector chose by about 1e5. None is ever put back into use: what the release writes into dead codes, its
  next update undoes.
- The concept's Gaussian adds nothing to the log-determinant of the flows.
- Scores are relative to each image's own best pixel: the multiplicative map detects, the additive one localizes.
  Nothing is calibrated.
- The learning rate is 1e-4, constant after the warm-up. Nothing is whitened.

What is not: a new flow is the identity, and the Gaussian's scale the exponential of a linear map, as in the package.
Widths and epochs are those that the run asks for, so that recipes compare at equal cost.
"""

from typing import Any

import torch
from anomalib.data import Batch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn

from anomalib_vqflow import VQFlow
from anomalib_vqflow.flows.gaussian import ConceptGaussian
from anomalib_vqflow.quantization import Codebook
from anomalib_vqflow.score_maps import MAPS

RECIPE = {
    "use_whitening": False,
    "tail_weight": 0.0,
    "lr": 1e-4,
    "lr_schedule": "constant",
    "concept_novelty": 0.0,
    "score_map": "multiplicative",
}
SMOOTHING = 1e-5


class PublishedRecipe(VQFlow):
    """VQ-Flow with the published recipe.

    Args:
        arguments: Those of VQFlow, but for what the recipe says.
    """

    def __init__(self, **arguments: Any) -> None:  # noqa: ANN401
        super().__init__(**{**arguments, **RECIPE})
        for parent in list(self.model.modules()):
            for name, module in list(parent.named_children()):
                if type(module) is Codebook:
                    setattr(parent, name, NormalCodebook(module))
                if isinstance(module, ConceptGaussian):
                    module.register_forward_hook(without_log_det)
        self._last_latents: list[Tensor] = []
        self.model.flow.register_forward_hook(self._keep_latents)

    def validation_step(self, batch: Batch, *args: object, **kwargs: object) -> STEP_OUTPUT:
        """Predict scores by one map, and pixels by the other."""
        super().validation_step(batch, *args, **kwargs)
        log_p = [-0.5 * z.square().mean(dim=1, keepdim=True) for z in self._last_latents]
        size = (batch.image.shape[-2], batch.image.shape[-1])
        return batch.update(anomaly_map=MAPS["additive"](log_p, size))

    test_step = predict_step = validation_step

    def _keep_latents(self, _module: nn.Module, _inputs: object, output: tuple[tuple[Tensor, ...], object]) -> None:
        if not self.training:
            self._last_latents = list(output[0])


class NormalCodebook(Codebook):
    """A codebook that begins at random and never puts a code back into use.

    Args:
        like: The codebook whose place it takes.
    """

    def __init__(self, like: Codebook) -> None:
        super().__init__(like.num_codes, like.code_dim, novelty=0.0, decay=like.decay, dead_below=like.dead_below)
        self.codes.normal_()
        self.code_sums.copy_(self.codes)

    def nearest(self, x: Tensor) -> Tensor:
        """Index the nearest of all codes of each vector, ``(..., D)``, whether or not it was ever chosen."""
        return torch.cdist(x.reshape(-1, self.code_dim), self.codes).argmin(dim=-1).view(x.shape[:-1])

    @torch.no_grad()
    def _learn_(self, x: Tensor) -> None:
        x = x.reshape(-1, self.code_dim)
        chosen = self.nearest(x)
        counts = torch.zeros_like(self.code_counts).index_add_(0, chosen, torch.ones_like(x[:, 0]))
        self.code_counts.lerp_(counts, 1 - self.decay)
        self.code_sums.lerp_(torch.zeros_like(self.code_sums).index_add_(0, chosen, x), 1 - self.decay)
        total = self.code_counts.sum()
        smoothed = (self.code_counts + SMOOTHING) / (total + self.num_codes * SMOOTHING) * total
        self.codes.copy_(self.code_sums / smoothed[:, None])


def without_log_det(
    _module: nn.Module, _inputs: object, output: tuple[tuple[Tensor, ...], Tensor]
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Leave the latents of a step as they are, and take its log-determinant for zero."""
    return output[0], torch.zeros_like(output[1])
