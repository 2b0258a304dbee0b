# SPDX-License-Identifier: Apache-2.0
"""Small convolutional nets that predict the scale and shift of a coupling."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomalib_vqflow.condition import Condition, ConditionedConv2d


def same_conv(in_channels: int, out_channels: int, kernel_size: int = 3) -> nn.Conv2d:
    """Make a convolution that keeps the grid. Its kernel lies in memory as its maps do, so that no call reorders it."""
    conv: nn.Conv2d = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
    conv.to(memory_format=torch.channels_last)
    return conv


class ChannelNorm(nn.LayerNorm):
    """Layer normalization over the channels of a map, cell by cell.

    Args:
        channels: Number of channels.

    Example:
        >>> import torch
        >>> ChannelNorm(8)(torch.randn(2, 8, 4, 4)).shape
        torch.Size([2, 8, 4, 4])
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x`` of shape ``(B, C, h, w)``."""
        if torch.compiler.is_exporting():
            # Written out along the channels: OpenVINO would reorder maps that are permuted in shape, though it keeps
            # their channels last in memory.
            x = x - x.mean(dim=1, keepdim=True)
            scale = (x.square().mean(dim=1, keepdim=True) + self.eps).rsqrt()
            return x * scale * self.weight[:, None, None] + self.bias[:, None, None]
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvSubnet(nn.Module):
    """Predict the raw scale and shift of a conditional coupling: 3×3 conv, LayerNorm, ReLU, conv.

    The last convolution starts at zero, so that a new flow is the identity up to its permutations (Glow, Kingma and
    Dhariwal, 2018); the paper's release starts it at random.

    Source: behavior of the paper's release; the framework figure shows the net as a box.

    Args:
        in_channels: Channels of the untouched half and of the condition together.
        out_channels: Channels of scale and shift together.
        hidden_dim: Width between the convolutions.
        second_kernel_size: Height and width of the second convolution's kernel; 3 as published. With 1, a cell of the
            latents depends on half as wide a neighborhood, so that anomalies stay where they are.

    Example:
        >>> import torch
        >>> subnet = ConvSubnet(14 + 6, 8, hidden_dim=12, second_kernel_size=1)
        >>> subnet(torch.randn(2, 14, 4, 4), torch.randn(2, 6, 4, 4)).shape
        torch.Size([2, 8, 4, 4])
    """

    def __init__(self, in_channels: int, out_channels: int, *, hidden_dim: int, second_kernel_size: int) -> None:
        super().__init__()
        self.conv1 = ConditionedConv2d(in_channels, hidden_dim)
        self.norm = ChannelNorm(hidden_dim)
        self.conv2 = same_conv(hidden_dim, out_channels, second_kernel_size)
        for parameter in self.conv2.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        """Predict scale and shift.

        Args:
            x: Untouched half of shape ``(B, C, h, w)``.
            condition: Condition with the remaining channels, on the same grid.

        Returns:
            Map of shape ``(B, out_channels, h, w)``.
        """
        hidden = self.norm(self.conv1(x, condition))
        # In place where no gradient needs the map: fresh memory costs as much time as the arithmetic.
        return self.conv2(F.relu(hidden, inplace=not torch.is_grad_enabled()))
