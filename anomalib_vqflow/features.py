# SPDX-License-Identifier: Apache-2.0
"""Frozen timm backbone: images to detail maps and a semantic map."""

import difflib
from collections.abc import Iterable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple, cast

import safetensors.torch
import timm
import torch
from timm.models import FeatureInfo
from torch import Tensor, nn
from torch.nn import functional as F

from . import backbones  # also registers our own backbone with timm

CHECKPOINT_SUFFICES = (
    "A checkpoint carries these weights: to use one, set pre_trained=False (--model.pre_trained false)."
)

LONGEST_SIDE = 2**14
"""More pixels than memory holds maps for; beyond it, torch fails with errors that name no argument."""


class Features(NamedTuple):
    """What the backbone sees in a batch of images, without gradient."""

    details: list[Tensor]  # h_i, (B, C_i, h_i, w_i), fine to coarse, average-pooled by 2
    semantic: Tensor  # h_4, (B, C, h, w), as the backbone gives it


class FeaturePyramid(nn.Module):
    """Extract the detail maps and the semantic map with a frozen backbone.

    The last layer is the semantic one. The others are average-pooled (kernel 3, stride 2, padding 1, zeros counted), so
    that the flows of a four-stage backbone work at strides 8, 16 and 32. The backbone stays in eval mode, without
    gradient, whatever its parents do.

    Source: behavior of the paper's release.

    Args:
        backbone: Name of a timm model with ``features_only`` support.
        layers: Indices (negative ones count from the end) or timm module names of the maps to use, fine to coarse;
            None for the last four that the backbone has, or all if it has fewer.
        pre_trained: True for timm's weights, False for random ones, or the path of a state dict (``.safetensors``, or a
            torch file, which is loaded with ``weights_only=True``).
        input_size: Height and width of the images, in pixels. Only used to compute :attr:`shapes` and to find out early
            that the backbone cannot take this size.

    Raises:
        ValueError: If the backbone or a layer does not exist, fewer than two layers are left, there are no weights,
            they cannot be downloaded or do not fit, or the backbone refuses the input size.
        FileNotFoundError: If ``pre_trained`` is a path that does not exist.

    Example:
        >>> import torch
        >>> pyramid = FeaturePyramid(backbone="test_convnext2", layers=None, pre_trained=False, input_size=(64, 64))
        >>> features = pyramid(torch.rand(2, 3, 64, 64))
        >>> [tuple(h.shape) for h in features.details], tuple(features.semantic.shape)
        ([(2, 32, 8, 8), (2, 64, 4, 4), (2, 96, 2, 2)], (2, 128, 2, 2))
    """

    def __init__(
        self,
        *,
        backbone: str,
        layers: Sequence[int | str] | None,
        pre_trained: bool | str | Path,
        input_size: tuple[int, int],
    ) -> None:
        super().__init__()
        indices = _layer_indices(backbone, layers)
        self.fixed_size = (input_size[0], input_size[1]) if _has_fixed_size(backbone) else None
        self.body = _create_body(backbone, indices, pre_trained, self.fixed_size)
        self.body.requires_grad_(requires_grad=False)
        # Depthwise convolutions, and then the flows, run up to twice as fast in this layout on a CPU.
        self.body.to(memory_format=torch.channels_last)
        self.eval()
        self.channels_last = False
        maps = self._dry_run(backbone, input_size)
        channels = _feature_info(self.body).channels()
        # Swin and its relatives give (B, h, w, C). One map cannot tell: at 384 pixels, swin's first is 96 x 96 x 96.
        self.channels_last = any(m.shape[1] != c for m, c in zip(maps, channels, strict=True))
        self.shapes = [
            (c, *(m.shape[1:3] if self.channels_last else m.shape[2:])) for m, c in zip(maps, channels, strict=True)
        ]

    @property
    def detail_shapes(self) -> list[tuple[int, int, int]]:
        """Shapes ``(C_i, h_i, w_i)`` of the pooled detail maps at the nominal input size."""
        return [(channels, (height + 1) // 2, (width + 1) // 2) for channels, height, width in self.shapes[:-1]]

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
            Detail maps and semantic map, in float32 or wider.

        Raises:
            ValueError: If the backbone takes one size only, and the images have another.
        """
        if self.fixed_size is not None and images.shape[-2:] != self.fixed_size:
            msg = (
                f"This backbone was built for images of {self.fixed_size} pixels, got {tuple(images.shape[-2:])}; "
                "resize the images, or give input_size the size that you want."
            )
            raise ValueError(msg)
        maps = self.body(images.contiguous(memory_format=torch.channels_last))
        if self.channels_last:
            maps = [m.permute(0, 3, 1, 2) for m in maps]
        maps = [m.float() if m.dtype in {torch.float16, torch.bfloat16} else m for m in maps]
        *details, semantic = maps
        return Features([F.avg_pool2d(m, kernel_size=3, stride=2, padding=1) for m in details], semantic)

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


def height_and_width(size: Sequence[int] | int, name: str = "input_size") -> list[int]:
    """Read an image size.

    Args:
        size: Height and width in pixels, or one number for both.
        name: Name of the argument.

    Returns:
        Height and width.

    Raises:
        ValueError: If it is anything else.
    """
    sizes = list(size) if isinstance(size, Iterable) else [size, size]
    if len(sizes) != 2 or not all(map(_is_length, sizes)):
        msg = (
            f"{name} must be height and width in pixels, such as [256, 256], or one number, up to {LONGEST_SIDE}, got "
            f"{size!r}."
        )
        raise ValueError(msg)
    return list(map(int, sizes))


def _is_length(value: object) -> bool:
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    return 1 <= value <= LONGEST_SIDE and float(value).is_integer()  # type: ignore[operator]


def _size_refused(backbone: str, input_size: tuple[int, int], error: Exception) -> str:
    nearest = tuple(max(round(size / 32), 1) * 32 for size in input_size)
    cfg = timm.get_pretrained_cfg(backbone)
    own = f"; {tuple(cfg.input_size[-2:])}, the size it is made for, is safe" if cfg is not None else ""
    return (
        f"Backbone '{backbone}' cannot take images of {input_size[0]}x{input_size[1]} pixels. The nearest size in "
        f"multiples of 32 is {nearest}{own}; give it as input_size, or as tile_size if there are tiles. The "
        f"backbone said: {str(error) or type(error).__name__}"
    )


def _feature_info(body: nn.Module) -> FeatureInfo:
    return cast("FeatureInfo", body.feature_info)


def _layer_indices(backbone: str, layers: Sequence[int | str] | None) -> list[int]:
    """Translate the user's layers to timm's ``out_indices``, fine to coarse."""
    try:
        with torch.device("meta"):
            info = _feature_info(timm.create_model(backbone, pretrained=False, features_only=True))
    except (RuntimeError, OSError) as error:  # OSError: a model from the hub whose description cannot be had
        near = difflib.get_close_matches(backbone.split(".")[0], timm.list_models(), n=8)
        msg = (
            f"timm cannot build backbone '{backbone}' with features_only: {error} Similar names: {near}; "
            "timm.list_models() gives all."
        )
        raise ValueError(msg) from error
    names = [str(name) for name in info.module_name()]
    if layers is None:
        return list(range(max(len(names) - 4, 0), len(names)))
    indices = []
    for layer in layers:
        known = names.index(layer) if layer in names else layer
        if not isinstance(known, int) or not -len(names) <= known < len(names):
            msg = f"layers: backbone '{backbone}' has no layer {layer!r}. It has 0 to {len(names) - 1}, named {names}."
            raise ValueError(msg)
        indices.append(known % len(names))
    if len(indices) < 2 or indices != sorted(set(indices)):
        msg = f"layers must name at least two different layers, fine to coarse, got {list(layers)} of {names}."
        raise ValueError(msg)
    return indices


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
    cfg = timm.get_pretrained_cfg(backbone)
    if pre_trained is True and cfg is not None and not cfg.has_weights:
        msg = f"timm has no weights for backbone '{backbone}'. {ways_round}"
        raise ValueError(msg)
    try:
        body = timm.create_model(
            backbone, pretrained=pre_trained is True, features_only=True, out_indices=tuple(indices), **sized
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
    if not isinstance(pre_trained, bool):
        _load_weights(body, Path(pre_trained), backbone)
    return body


def _load_weights(body: nn.Module, path: Path, backbone: str) -> None:
    """Load a state dict file into ``body``, upcast to its types, whether saved from timm's whole or feature model."""
    if not path.is_file():
        msg = f"pre_trained names the weights file {path}, which is no existing file. {CHECKPOINT_SUFFICES}"
        raise FileNotFoundError(msg)
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state)
        # Feature extraction renames "stages.0" to "stages_0" in some architectures.
        found = {key.replace(".", "_"): value for key, value in state.items()}
    except Exception as error:
        reason = str(error).split(". ")[0]  # torch goes on to advise loading without weights_only
        msg = f"{path} is no readable state dict ({type(error).__name__}: {reason}); give a .safetensors or torch file."
        raise ValueError(msg) from error
    wanted = body.state_dict()
    loaded = {
        key: found[key.replace(".", "_")]
        for key, value in wanted.items()
        if key.replace(".", "_") in found and found[key.replace(".", "_")].shape == value.shape
    }
    missing = [key for key in wanted if key not in loaded and not key.endswith("num_batches_tracked")]
    if missing:
        used = {key.replace(".", "_") for key in wanted}
        unexpected = [key for key in state if key.replace(".", "_") not in used and not key.endswith("batches_tracked")]
        msg = (
            f"{path} does not fit backbone '{backbone}'. Missing or of another shape ({len(missing)}): "
            f"{missing[:8]}{'...' if len(missing) > 8 else ''}. Unexpected ({len(unexpected)}): "
            f"{unexpected[:8]}{'...' if len(unexpected) > 8 else ''}. The file must hold a state dict of timm's "
            f"'{backbone}'."
        )
        raise ValueError(msg)
    body.load_state_dict(loaded, strict=False)
