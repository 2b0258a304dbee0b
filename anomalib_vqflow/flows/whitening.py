# SPDX-License-Identifier: Apache-2.0
"""Whitening of the detail maps: where the flow of one scale starts from."""

from collections.abc import Sequence

import torch
from FrEIA.modules import InvertibleModule
from torch import Tensor
from torch.nn import functional as F

from anomalib_vqflow.distributed import num_processes, sum_over_processes

SMALLEST_VARIANCE = 1e-3
"""Variance along a direction, as a share of the mean one, below which directions are not stretched further."""
SMALLEST_POSSIBLE = 1e-12
"""The same in absolute terms, for maps that are constant in all channels."""


class Moments:
    """Mean and covariance of vectors that come in batches.

    Batches are summed up in float32 where they are, and added up in float64 on the CPU.

    Args:
        num_channels: Width C of the vectors.
    """

    def __init__(self, num_channels: int) -> None:
        self.count = 0
        self.total = torch.zeros(num_channels, dtype=torch.float64)
        self.products = torch.zeros(num_channels, num_channels, dtype=torch.float64)

    def add_(self, x: Tensor) -> None:
        """Add vectors of shape ``(N, C)``; those that are not finite are left out."""
        x = x[x.isfinite().all(dim=1)]
        if not len(x):
            return
        mean = x.mean(dim=0)
        spread = (x - mean).T @ (x - mean)
        self.count += len(x)
        self.total = self.total + len(x) * mean.to("cpu", torch.float64)
        products = spread + len(x) * torch.outer(mean, mean)
        self.products = self.products + products.to("cpu", torch.float64)

    def add_moments_(self, other: "Moments") -> None:
        """Add the vectors that others are the moments of."""
        self.count += other.count
        self.total = self.total + other.total
        self.products = self.products + other.products

    def add_other_processes_(self, device: torch.device) -> None:
        """Add the vectors of all other processes, which communicate by the device."""
        if num_processes() > 1:
            state = torch.tensor(self.count, device=device), self.total.to(device), self.products.to(device)
            count, total, products = (sum_over_processes(value).cpu() for value in state)
            self.count, self.total, self.products = int(count), total, products

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        """Compute the mean, shape ``(C,)``, and the covariance, shape ``(C, C)``, in float64.

        Raises:
            ValueError: If there were no vectors.
        """
        if not self.count:
            msg = "Expected at least one vector that is finite, got none; check the training images."
            raise ValueError(msg)
        mean = self.total / self.count
        return mean, self.products / self.count - torch.outer(mean, mean)

    def mean_and_shrunk_covariance(self) -> tuple[Tensor, Tensor]:
        r"""Compute the mean, and the covariance as few vectors tell it: oracle approximating shrinkage.

        Few vectors vary in few directions, and what whitens these alone takes every new vector for an outlier. So the
        covariance S is shrunk to a multiple of the identity, :math:`(1 - \rho) S + \rho \operatorname{tr}(S) I / C`,
        where :math:`\rho` is about the number of directions that matter over that of vectors.

        Source: Chen et al. (2010), https://arxiv.org/abs/0907.4698, in the form of scikit-learn's ``OAS``.

        Returns:
            Shapes ``(C,)`` and ``(C, C)``, in float64.

        Raises:
            ValueError: If there were no vectors.
        """
        mean, covariance = self.mean_and_covariance()
        usual, mean_square = covariance.diagonal().mean(), covariance.square().mean()
        uneven = (self.count + 1) * (mean_square - usual.square() / len(mean))
        shrinkage = ((mean_square + usual.square()) / uneven).nan_to_num(1.0).clamp(0.0, 1.0)
        return mean, torch.lerp(covariance, usual * torch.eye(len(mean), dtype=usual.dtype), shrinkage)


def whitening_of(covariance: Tensor) -> tuple[Tensor, Tensor]:
    r"""Find the linear map that whitens vectors.

    Args:
        covariance: Covariance of the vectors, shape ``(C, C)``.

    Returns:
        :math:`W` with :math:`W^\top W` the inverse covariance, shape ``(C, C)``, and its ``log|det W|`` in nats, shape
        ``()``; in float64. Directions of nearly no variance are stretched to a limit only.
    """
    # MPS has no float64, and eigenvectors of near-singular covariances need it.
    values, vectors = torch.linalg.eigh(covariance.to("cpu", torch.float64))
    values = values.clamp_min(SMALLEST_VARIANCE * values.mean()).clamp_min(SMALLEST_POSSIBLE)
    return values.rsqrt()[:, None] * vectors.T, -0.5 * values.log().sum()


class Whitening(InvertibleModule):
    r"""Decorrelate the channels of a map and give them unit variance, :math:`y = W (x - m)`.

    A fixed linear map, fitted to the normal images once before training: :math:`m` is the mean and :math:`W^\top W` the
    inverse covariance of the cells' channels. A flow whose couplings start at the identity then starts at the best
    single Gaussian instead of at the raw features, whose scales differ by orders of magnitude between channels. Until
    it is fitted, it is the identity.

    Source: ours. Data-driven initialization of a flow follows Glow (Kingma and Dhariwal, 2018),
    https://arxiv.org/abs/1807.03039, which does it per channel.

    Args:
        dims_in: One input shape ``[(C, h, w)]``, without the batch.

    Raises:
        ValueError: If there is not exactly one input.

    Example:
        >>> import torch
        >>> whitening = Whitening([(2, 4, 4)])
        >>> whitening.fit_(torch.zeros(2), torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
        >>> (y,), log_det = whitening([torch.ones(1, 2, 4, 4)])
        >>> y.abs().amax(dim=(0, 2, 3)).sort().values, log_det.round(decimals=2)
        (tensor([0.5000, 1.0000]), tensor([[[-0.6900]]]))
    """

    mean: Tensor  # (C,)
    weight: Tensor  # (C, C)
    log_det_per_cell: Tensor  # (), nats
    fitted: Tensor  # (), bool

    def __init__(self, dims_in: Sequence[tuple[int, ...]]) -> None:
        super().__init__(dims_in)
        if len(dims_in) != 1:
            msg = f"Expected one input, got {len(dims_in)}."
            raise ValueError(msg)
        channels = dims_in[0][0]
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("weight", torch.eye(channels))
        self.register_buffer("log_det_per_cell", torch.zeros(()))
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def fit_(self, mean: Tensor, covariance: Tensor) -> None:
        """Fit to the first two moments of the cells.

        Args:
            mean: Mean of the channels, shape ``(C,)``.
            covariance: Covariance of the channels, shape ``(C, C)``.
        """
        weight, log_det = whitening_of(covariance)
        self.mean.copy_(mean)
        self.weight.copy_(weight)
        self.log_det_per_cell.copy_(log_det)
        self.fitted.fill_(value=True)

    def forward(
        self, x_or_z: Sequence[Tensor], c: Sequence[Tensor] = (), rev: bool = False, jac: bool = True
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Whiten the input, or restore it when ``rev`` is set.

        Args:
            x_or_z: One tensor of shape ``(B, C, h, w)``.
            c: Unused.
            rev: Whether to run the inverse.
            jac: Unused; the log-determinant is free here.

        Returns:
            The transformed tensor, and what every cell contributes to ``log|det J|`` in nats, shape ``(1, 1, 1)``,
            negated when ``rev`` is set.
        """
        del c, jac
        (x,), log_det = x_or_z, self.log_det_per_cell.expand(1, 1, 1)
        if rev:
            return (F.conv2d(x, self.weight.inverse()[..., None, None]) + self.mean[:, None, None],), -log_det
        return (F.conv2d(x - self.mean[:, None, None], self.weight[..., None, None]),), log_det

    def output_dims(self, input_dims: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Return the shapes unchanged."""
        return input_dims

    def extra_repr(self) -> str:
        """Tell the number of channels when printed."""
        return f"channels={len(self.mean)}"
