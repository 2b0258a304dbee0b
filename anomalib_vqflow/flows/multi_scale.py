# SPDX-License-Identifier: Apache-2.0
"""Assembly over the scales: one conditional flow per level, and the fusion over all of them."""

from collections.abc import Sequence

from FrEIA.framework import SequenceINN
from FrEIA.modules import InvertibleModule
from torch import Tensor, nn

from anomalib_vqflow.condition import Condition

from .coupling import ConditionalCoupling
from .fusion import FusionCoupling
from .gaussian import ConceptGaussian
from .noise import Noise
from .whitening import Whitening


class MultiScaleFlow(InvertibleModule):
    r"""Map the detail maps to standard-normal latents under their patterns and concept.

    One flow per level: whitening and its noise (ours, optional), couplings under the level's condition,
    :math:`z_i = F_i(h_i; [\hat h'_i; \hat y])`, then the Gaussian of the concept,
    :math:`z'_i = (z_i - \mu_i(\hat y)) / \sigma_i(\hat y)`. Over all levels, the fusion under the semantic condition.

    Source: VQ-Flow (Zhou et al., 2024), framework figure, panels 2 and 3, https://arxiv.org/abs/2409.00942. The fusion
    is not in the figure; it follows the behavior of the paper's release.

    Args:
        dims_in: Shapes ``[(C_i, h_i, w_i), ...]`` of the detail maps, fine to coarse.
        dims_c: Shapes ``(K, h_i, w_i)`` of the condition of each level, ``(K, h, w)`` of the semantic condition, and
            ``(D,)`` of the prototype, in this order.
        flow_steps: Number of couplings per level.
        hidden_dim: Width of the coupling subnets; None for the width of their input, as published.
        second_kernel_size: Size of the second kernel of the coupling subnets; 3 as published.
        affine_clamp: Bound α of the log-scales.
        use_concept_gaussian: Whether the base distribution depends on the concept.
        use_fusion: Whether the scales are coupled.
        use_whitening: Whether the detail maps are whitened first; see :class:`Whitening`. Ours.
        whitening_noise: Standard deviation of the noise on whitened maps in training; see :class:`Noise`. Ours.

    Raises:
        ValueError: If ``flow_steps`` does not give one positive number per level, or an argument is out of its range.

    Example:
        >>> import torch
        >>> flow = MultiScaleFlow(
        ...     [(8, 4, 4), (6, 2, 2)],
        ...     [(5, 4, 4), (5, 2, 2), (5, 1, 1), (3,)],
        ...     flow_steps=(1, 2),
        ...     hidden_dim=None,
        ...     second_kernel_size=3,
        ...     affine_clamp=1.9,
        ...     use_concept_gaussian=True,
        ...     use_fusion=True,
        ...     use_whitening=False,
        ...     whitening_noise=0.0,
        ... )
        >>> details = [torch.randn(2, 8, 4, 4), torch.randn(2, 6, 2, 2)]
        >>> conditions = [torch.randn(2, 5, 4, 4), torch.randn(2, 5, 2, 2), torch.randn(2, 5, 1, 1)]
        >>> latents, log_dets = flow(details, (*conditions, torch.randn(2, 3)))
        >>> [tuple(z.shape) for z in latents], [tuple(log_det.shape) for log_det in log_dets]
        ([(2, 8, 4, 4), (2, 6, 2, 2)], [(2, 4, 4), (2, 2, 2)])
    """

    def __init__(
        self,
        dims_in: Sequence[tuple[int, ...]],
        dims_c: Sequence[tuple[int, ...]],
        *,
        flow_steps: Sequence[int],
        hidden_dim: int | None,
        second_kernel_size: int,
        affine_clamp: float,
        use_concept_gaussian: bool,
        use_fusion: bool,
        use_whitening: bool,
        whitening_noise: float,
    ) -> None:
        super().__init__(dims_in, dims_c)
        if len(flow_steps) != len(dims_in) or min(flow_steps, default=0) < 1:
            msg = (
                f"flow_steps needs one positive number for each of the {len(dims_in)} levels, which are "
                f"the layers, but for the last one if semantic_level is off; got {list(flow_steps)}."
            )
            raise ValueError(msg)
        *level_dims_c, semantic_dims, prototype_dims = dims_c
        flows = [SequenceINN(*dims, force_tuple_output=True) for dims in dims_in]
        for flow, steps, dims in zip(flows, flow_steps, level_dims_c, strict=True):
            if use_whitening:
                flow.append(Whitening)
                flow.append(Noise, std=whitening_noise)
            for _ in range(steps):
                flow.append(
                    ConditionalCoupling,
                    cond=0,
                    cond_shape=dims,
                    hidden_dim=hidden_dim,
                    second_kernel_size=second_kernel_size,
                    affine_clamp=affine_clamp,
                )
        for flow in flows if use_concept_gaussian else ():
            flow.append(ConceptGaussian, cond=1, cond_shape=prototype_dims)
        self.levels = nn.ModuleList(flows)
        self.fusion = FusionCoupling(dims_in, [semantic_dims], affine_clamp=affine_clamp) if use_fusion else None

    def forward(
        self, x_or_z: Sequence[Tensor], c: Sequence[Condition], rev: bool = False, jac: bool = True
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Compute the latents, or the maps that have them when ``rev`` is set.

        Args:
            x_or_z: h_i, or z'_i, of shape ``(B, C_i, h_i, w_i)`` per level.
            c: [ĥ'_i; ŷ] of shape ``(B, K, h_i, w_i)`` per level, [ĥ'_4; ŷ] of shape ``(B, K, h_4, w_4)``, and ŷ of
                shape ``(B, D)``.
            rev: Whether to run the inverse.
            jac: Whether to compute the log-determinants.

        Returns:
            The transformed maps, and per level what each cell contributes to ``log|det J|`` in nats, shape
            ``(B, h_i, w_i)``, negated when ``rev`` is set; zeros that broadcast to it if ``jac`` is off.
        """
        *conditions, semantic, prototype = c
        maps, fusion_log_dets = tuple(x_or_z), None
        if self.fusion is not None and rev:
            maps, fusion_log_dets = self.fusion(maps, (semantic,), rev, jac)
        results = [
            flow((level,), (condition, prototype), rev, jac)
            for flow, level, condition in zip(self.levels, maps, conditions, strict=True)
        ]
        maps, log_dets = tuple(level for (level,), _ in results), tuple(log_det for _, log_det in results)
        if self.fusion is not None and not rev:
            maps, fusion_log_dets = self.fusion(maps, (semantic,), rev, jac)
        if fusion_log_dets is None:
            return maps, log_dets
        return maps, tuple(a + b for a, b in zip(log_dets, fusion_log_dets, strict=True))
