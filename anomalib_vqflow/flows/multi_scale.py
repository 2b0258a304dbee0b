# SPDX-License-Identifier: Apache-2.0
"""Assembly over the scales: one conditional flow per level, the concept-aware Gaussian, the fusion."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from anomalib_vqflow.discrete import Condition

from .coupling import ConditionalCoupling
from .fusion import FusionCoupling
from .gaussian import ConceptGaussian
from .whitening import Whitening


class Latents(NamedTuple):
    """What the flows make of the detail maps."""

    latents: list[Tensor]  # z'_i, (B, C_i, h_i, w_i), standard normal for normal images
    log_det: Tensor  # (B,), nats; zeros if it was not asked for
    cell_log_dets: list[Tensor]  # its parts, (B, h_i, w_i) per level


class MultiScaleFlow(nn.Module):
    r"""Map the detail maps to standard-normal latents under their patterns and concept.

    Per level :math:`z_i = F_i(h_i; [\hat h'_i; \hat y])`, then :math:`z'_i = (z_i - \mu_i(\hat y)) / \sigma_i(\hat y)`,
    and over all levels the fusion under the semantic condition.

    Source: VQ-Flow (Zhou et al., 2024), framework figure, panels 2 and 3, https://arxiv.org/abs/2409.00942. The fusion
    is not in the figure; it follows the behavior of the paper's release.

    Args:
        dims_in: Shapes ``[(C_i, h_i, w_i), ...]`` of the detail maps, fine to coarse.
        condition_dim: Channels of the conditions.
        concept_dim: Width D of the prototypes.
        flow_steps: Number of couplings per level.
        hidden_dim: Width of the coupling subnets; None for the width of their input, as published.
        affine_clamp: Bound α of the log-scales.
        use_concept_gaussian: Whether the base distribution depends on the concept.
        use_fusion: Whether the scales are coupled.
        use_whitening: Whether the detail maps are whitened first; see :class:`Whitening`. Ours.
        whitening_noise: Standard deviation of the Gaussian noise that whitened maps get in training. Without it, the
            density grows without bound where features never vary, and rounding them looks like an anomaly. Ours.

    Raises:
        ValueError: If ``flow_steps`` does not give one positive number per level, or the noise is negative.

    Example:
        >>> import torch
        >>> flow = MultiScaleFlow([(8, 4, 4), (6, 2, 2)], condition_dim=5, concept_dim=3, flow_steps=(1, 2))
        >>> details = [torch.randn(2, 8, 4, 4), torch.randn(2, 6, 2, 2)]
        >>> conditions = [torch.randn(2, 5, 4, 4), torch.randn(2, 5, 2, 2)]
        >>> latents, log_det, _ = flow(details, conditions, torch.randn(2, 5, 1, 1), torch.randn(2, 3))
        >>> [tuple(z.shape) for z in latents], log_det.shape
        ([(2, 8, 4, 4), (2, 6, 2, 2)], torch.Size([2]))
    """

    def __init__(
        self,
        dims_in: Sequence[tuple[int, int, int]],
        condition_dim: int,
        concept_dim: int,
        flow_steps: Sequence[int] = (2, 5, 8),
        hidden_dim: int | None = None,
        affine_clamp: float = 1.9,
        use_concept_gaussian: bool = True,
        use_fusion: bool = True,
        use_whitening: bool = False,
        whitening_noise: float = 0.15,
    ) -> None:
        super().__init__()
        if len(flow_steps) != len(dims_in) or min(flow_steps, default=0) < 1:
            msg = (
                f"flow_steps needs one positive number for each of the {len(dims_in)} detail levels "
                f"(all layers but the last), got {list(flow_steps)}."
            )
            raise ValueError(msg)
        if whitening_noise < 0:
            msg = f"whitening_noise, a standard deviation, must not be negative, got {whitening_noise}."
            raise ValueError(msg)
        self.whitening_noise = whitening_noise
        self.whitenings = nn.ModuleList(Whitening([dims]) for dims in (dims_in if use_whitening else ()))
        self.scale_flows = nn.ModuleList(
            nn.ModuleList(
                ConditionalCoupling([dims], [(condition_dim, *dims[1:])], hidden_dim, affine_clamp)
                for _ in range(steps)
            )
            for dims, steps in zip(dims_in, flow_steps, strict=True)
        )
        self.gaussians = nn.ModuleList(
            ConceptGaussian([dims], [(concept_dim,)]) for dims in (dims_in if use_concept_gaussian else ())
        )
        self.fusion = FusionCoupling(dims_in, [(condition_dim, *dims_in[-1][1:])], affine_clamp) if use_fusion else None

    def forward(
        self,
        details: Sequence[Tensor],
        conditions: Sequence[Condition],
        semantic_condition: Condition,
        prototype: Tensor,
        jac: bool = True,
    ) -> Latents:
        """Compute the latents and, on request, the log-determinant of the whole map.

        Args:
            details: h_i of shape ``(B, C_i, h_i, w_i)`` per level.
            conditions: [ĥ'_i; ŷ] of shape ``(B, K, h_i, w_i)`` per level, as maps or as what they are made of.
            semantic_condition: [ĥ'_4; ŷ] of shape ``(B, K, h_4, w_4)``; only the fusion uses it.
            prototype: ŷ of shape ``(B, D)``.
            jac: Whether to compute the log-determinant.

        Returns:
            Latents and log-determinant.
        """
        latents, cell_log_dets = [], []
        for level, (z, condition) in enumerate(zip(details, conditions, strict=True)):
            cell_log_det = torch.zeros_like(z[:, 0])
            if len(self.whitenings):
                z, step = cast("Whitening", self.whitenings[level]).transform(z)
                cell_log_det = cell_log_det + step
                if self.training:
                    z = z + self.whitening_noise * torch.randn_like(z)
            for coupling in cast("nn.ModuleList", self.scale_flows[level]):
                z, step = cast("ConditionalCoupling", coupling).transform(z, condition, jac)
                cell_log_det = cell_log_det + step
            if len(self.gaussians):
                z, step = cast("ConceptGaussian", self.gaussians[level]).transform(z, prototype)
                cell_log_det = cell_log_det + step
            latents.append(z)
            cell_log_dets.append(cell_log_det)
        if self.fusion is not None:
            latents, steps = self.fusion.transform(latents, semantic_condition, jac)
            cell_log_dets = [a + b for a, b in zip(cell_log_dets, steps, strict=True)]
        if not jac:
            cell_log_dets = [torch.zeros_like(level) for level in cell_log_dets]
        log_det = torch.stack([level.sum(dim=(1, 2)) for level in cell_log_dets]).sum(dim=0)
        return Latents(latents, log_det, cell_log_dets)
