# SPDX-License-Identifier: Apache-2.0
"""Frozen timm backbone: images to detail maps and a semantic map."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import timm
import torch
from timm.models.hiera import MaskUnitAttention
from torch import Tensor, nn
from torch.nn import functional as F

from . import backbones  # also registers our own backbone with timm
from .backbones.layers import Layer, choose_layers, common_stride, feature_info
from .backbones.weights import CHECKPOINT_SUFFICES, load_packaged_weights, load_weights, packaged_weights

DetailPooling = Literal["stride_2", "stride_1", "none"]


class Features(NamedTuple):
    """What the backbone sees in a batch of images, without gradient."""

    details: list[Tensor]  # h_i, (B, C_i, h_i, w_i), fine to coarse, pooled
    semantic: Tensor  # h_4, (B, C, h, w), as the backbone gives it
    tokens: Tensor | None = None  # (B, C_t), CLS and register tokens beside h_4, one after another, if asked for

    def apply(self, function: Callable[[Tensor], Tensor]) -> "Features":
        """Apply a function to each tensor."""
        tokens = None if self.tokens is None else function(self.tokens)
        return Features([function(detail) for detail in self.details], function(self.semantic), tokens)


class FeaturePyramid(nn.Module):
    """Extract the detail maps and the semantic map with a frozen backbone.

    The last layer is the semantic one. The backbone stays in eval mode, without gradient, whatever its parents do.

    Source: behavior of the paper's release, which pools at stride 2, so that the flows of a four-stage backbone work at
    strides 8, 16 and 32.

    Args:
        backbone: Name of a timm model with ``features_only`` support.
        layers: Indices (negative ones count from the end) or timm module names of the maps to use, fine to coarse, or
            of blocks, shallow to deep; a list of them in place of one is a group whose maps are averaged. None: see
            :func:`.choose_layers`.
        num_levels: How many detail maps there are if ``layers`` is None.
        detail_pooling: How detail maps are averaged over 3 × 3 cells: ``stride_2`` (zeros around counted, published),
            ``stride_1``, or ``none`` of it.
        semantic_level: Whether the semantic map is the last detail map as well.
        prefix_tokens: Whether the CLS and register tokens beside the semantic map are given, too.
        pre_trained: True for timm's weights, or those of an installed package of weights; False for random ones; or the
            path of a state dict (``.safetensors``, or a torch file, which is loaded with ``weights_only=True``).
        input_size: Height and width of the images, in pixels. Only used to compute :attr:`shapes` and to find out early
            that the backbone cannot take this size.

    Raises:
        ValueError: If an argument is out of its range, the backbone or a layer does not exist, fewer than two layers
            are left, there are no weights, they cannot be downloaded or do not fit, or the backbone refuses the input
            size or has no prefix tokens.
        FileNotFoundError: If ``pre_trained`` is a path that does not exist.

    Example:
        >>> import torch
        >>> pyramid = FeaturePyramid(
        ...     backbone="test_convnext2",
        ...     layers=None,
        ...     num_levels=3,
        ...     detail_pooling="stride_2",
        ...     semantic_level=False,
        ...     prefix_tokens=False,
        ...     pre_trained=False,
        ...     input_size=(64, 64),
        ... )
        >>> features = pyramid(torch.rand(2, 3, 64, 64))
        >>> [tuple(h.shape) for h in features.details], tuple(features.semantic.shape)
        ([(2, 32, 8, 8), (2, 64, 4, 4), (2, 96, 2, 2)], (2, 128, 2, 2))
    """

    def __init__(
        self,
        *,
        backbone: str,
        layers: Sequence[Layer | Sequence[Layer]] | None,
        num_levels: int,
        detail_pooling: DetailPooling,
        semantic_level: bool,
        prefix_tokens: bool,
        pre_trained: bool | str | Path,
        input_size: tuple[int, int],
    ) -> None:
        super().__init__()
        if detail_pooling not in get_args(DetailPooling):
            msg = f"detail_pooling must be one of {get_args(DetailPooling)}, got {detail_pooling!r}."
            raise ValueError(msg)
        self.detail_pooling = detail_pooling
        self.semantic_level = semantic_level
        self.prefix_tokens = prefix_tokens
        groups = choose_layers(backbone, layers, num_levels + (not semantic_level))
        indices = sorted({index for group in groups for index in group})
        self.groups = [[indices.index(index) for index in group] for group in groups]
        self.fixed_size = (input_size[0], input_size[1]) if _has_fixed_size(backbone) else None
        patch = common_stride(backbone)
        if self.fixed_size is not None and patch is not None and any(size % patch for size in input_size):
            error = ValueError(f"its patches of {patch} pixels leave a rest.")  # which timm would cut off in silence
            raise ValueError(_size_refused(backbone, input_size, error))
        self.body = _create_body(backbone, indices, pre_trained, self.fixed_size)
        self.body.requires_grad_(requires_grad=False)
        # Depthwise convolutions, and then the flows, run up to twice as fast in this layout on a CPU.
        self.body.to(memory_format=torch.channels_last)
        self.eval()
        self.channels_last = False
        maps = self._dry_run(backbone, input_size)
        channels = feature_info(self.body).channels()
        # Swin and its relatives give (B, h, w, C). One map cannot tell: at 384 pixels, swin's first is 96 x 96 x 96.
        self.channels_last = any(m.shape[1] != c for m, c in zip(maps, channels, strict=True))
        sizes = [tuple(m.shape[1:3] if self.channels_last else m.shape[2:]) for m in maps]
        shapes = [(c, int(height), int(width)) for c, (height, width) in zip(channels, sizes, strict=True)]
        self.shapes = [shapes[group[0]] for group in self.groups]  # (C, h, w) of each layer, before pooling
        self.token_channels = self.shapes[-1][0] * _num_prefix_tokens(self.body) if prefix_tokens else 0
        if prefix_tokens and not self.token_channels:
            msg = f"prefix_tokens: timm gives no CLS or register tokens of backbone '{backbone}'; leave it False."
            raise ValueError(msg)

    def extra_repr(self) -> str:
        """Tell what maps are made of besides modules and weights."""
        return (
            f"indices={feature_info(self.body).out_indices}, groups={self.groups}, "
            f"detail_pooling={self.detail_pooling!r}, semantic_level={self.semantic_level}, "
            f"prefix_tokens={self.prefix_tokens}"
        )

    @property
    def detail_shapes(self) -> list[tuple[int, int, int]]:
        """Shapes ``(C_i, h_i, w_i)`` of the pooled detail maps at the nominal input size."""
        step = 2 if self.detail_pooling == "stride_2" else 1
        details = self.shapes if self.semantic_level else self.shapes[:-1]
        return [(channels, -(-height // step), -(-width // step)) for channels, height, width in details]

    @property
    def semantic_shape(self) -> tuple[int, int, int]:
        """Shape ``(C, h, w)`` of the semantic map at the nominal input size."""
        return self.shapes[-1]

    def train(self, mode: bool = True) -> "FeaturePyramid":
        """Stay in eval mode: the backbone is frozen, its batch statistics included."""
        del mode
        return super().train(mode=False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Features:
        """Extract the maps.

        Args:
            images: Normalized images of shape ``(B, 3, H, W)``.

        Returns:
            Detail maps, semantic map and, if asked for, tokens, in float32 or wider.

        Raises:
            ValueError: If the backbone takes one size only, and the images have another.
        """
        if self.fixed_size is not None and images.shape[-2:] != self.fixed_size:
            msg = (
                f"This backbone was built for images of {self.fixed_size} pixels, got {tuple(images.shape[-2:])}; "
                "resize the images, or give input_size the size that you want."
            )
            raise ValueError(msg)
        images = images.contiguous(memory_format=torch.channels_last)
        tokens = None
        if self.prefix_tokens:
            pairs = self.body.model.forward_intermediates(  # type: ignore[operator, union-attr]  # as timm's wrapper does
                images, indices=self.body.out_indices, intermediates_only=True, return_prefix_tokens=True
            )
            maps = [grid for grid, _ in pairs]
            tokens = _average([_at_least_float32(pairs[index][1]) for index in self.groups[-1]]).flatten(1)
        else:
            maps = self.body(images)
        if self.channels_last:
            maps = [m.permute(0, 3, 1, 2) for m in maps]
        maps = [_at_least_float32(m) for m in maps]
        layers = [_average([maps[index] for index in group]) for group in self.groups]
        details = layers if self.semantic_level else layers[:-1]
        return Features([self._pool(detail) for detail in details], layers[-1], tokens)

    def _pool(self, detail: Tensor) -> Tensor:
        if self.detail_pooling == "stride_2":
            return F.avg_pool2d(detail, kernel_size=3, stride=2, padding=1)
        if self.detail_pooling == "stride_1":
            return F.avg_pool2d(detail, kernel_size=3, stride=1, padding=1, count_include_pad=False)
        return detail

    def _dry_run(self, backbone: str, input_size: tuple[int, int]) -> list[Tensor]:
        """Run the backbone on the meta device, which computes shapes only."""
        tensors = dict(self.body.named_parameters()) | dict(self.body.named_buffers())
        meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
        images = torch.empty(1, 3, *input_size, device="meta")
        try:
            maps = torch.func.functional_call(self.body, meta, (images,))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ValueError(_size_refused(backbone, input_size, error)) from error
        if not all(m.numel() for m in maps):  # torch 2.10 refuses images smaller than a kernel on real devices only
            raise ValueError(_size_refused(backbone, input_size, ValueError("a map would have no cells.")))
        return maps


def _at_least_float32(values: Tensor) -> Tensor:
    return values.float() if values.dtype in {torch.float16, torch.bfloat16} else values


def _num_prefix_tokens(body: nn.Module) -> int:
    model = getattr(body, "model", None)  # timm wraps transformers
    forward = getattr(model, "forward_intermediates", None)
    gives_them = forward is not None and "return_prefix_tokens" in inspect.signature(forward).parameters
    return int(getattr(model, "num_prefix_tokens", 0)) if gives_them else 0


def _average(maps: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(maps)).mean(dim=0) if len(maps) > 1 else maps[0]


def _size_refused(backbone: str, input_size: tuple[int, int], error: Exception) -> str:
    step = common_stride(backbone) or 32
    nearest = tuple(max(round(size / step), 1) * step for size in input_size)
    cfg = timm.get_pretrained_cfg(backbone)
    own = f"; {tuple(cfg.input_size[-2:])}, the size it is made for, is safe" if cfg is not None else ""
    return (
        f"Backbone '{backbone}' cannot take images of {input_size[0]}x{input_size[1]} pixels. The nearest size in "
        f"multiples of {step} is {nearest}{own}; give it as input_size, or as tile_size if there are tiles. The "
        f"backbone said: {str(error) or type(error).__name__}"
    )


def _has_fixed_size(backbone: str) -> bool:
    """Whether the backbone must know the image size when it is built, as windowed transformers must."""
    cfg = timm.get_pretrained_cfg(backbone)  # None for models that timm looks up elsewhere
    return cfg is not None and bool(cfg.fixed_input_size)


def _create_body(
    backbone: str, indices: list[int], pre_trained: bool | str | Path, fixed_size: tuple[int, int] | None
) -> nn.Module:
    """Build the timm feature extractor with the weights asked for."""
    sized: dict[str, Any] = {} if fixed_size is None else {"img_size": fixed_size}
    ways_round = (
        f"Either pass pre_trained='path/to/weights.safetensors', a state dict of timm's '{backbone}', or choose "
        f"backbone='{backbones.SHIPPED}', whose weights come with this package. {CHECKPOINT_SUFFICES}"
    )
    packaged = packaged_weights(backbone) if pre_trained is True else None
    downloads = pre_trained is True and packaged is None
    cfg = timm.get_pretrained_cfg(backbone)
    if downloads and cfg is not None and not cfg.has_weights:
        msg = f"timm has no weights for backbone '{backbone}'. {ways_round}"
        raise ValueError(msg)
    try:
        body = timm.create_model(
            backbone, pretrained=downloads, features_only=True, out_indices=tuple(indices), **sized
        )
    except OSError as error:  # timm and huggingface_hub raise subclasses of it when a download fails
        msg = (
            f"The weights of backbone '{backbone}' could not be downloaded ({type(error).__name__}: {error}). "
            f"{ways_round}"
        )
        raise ValueError(msg) from error
    except (RuntimeError, AssertionError, ValueError) as error:
        if fixed_size is None:
            raise
        raise ValueError(_size_refused(backbone, fixed_size, error)) from error
    for module in body.modules():
        if isinstance(module, MaskUnitAttention):
            module.fused_attn = False  # type: ignore[misc]  # torch's ONNX exporter refuses attention of five dimensions
    if packaged is not None:
        load_packaged_weights(body, packaged, backbone)
    elif not isinstance(pre_trained, bool):
        load_weights(body, Path(pre_trained), backbone)
    return body
