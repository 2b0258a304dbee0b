# SPDX-License-Identifier: Apache-2.0
"""Models for the benchmarks: built as a command line says, with table lookup or without; their parts; their export."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import openvino
import torch
import yaml
from torch import Tensor, nn

from anomalib_vqflow import VQFlow, VQFlowModel
from anomalib_vqflow.condition import Conditions, dense_condition
from anomalib_vqflow.features import Features
from anomalib_vqflow.quantization import Codebook

ONNX = {"opset_version": 18, "verbose": False}
"""The operator set that torch's exporter writes itself; anomalib's is older, and the conversion to it fails noisily."""


def add_model_options(parser: argparse.ArgumentParser, config: Path | None = None) -> None:
    """Let a command line name the model that :func:`build` builds.

    Args:
        parser: Parser of the command line.
        config: Default of the configuration file.
    """
    parser.add_argument("pairs", nargs="*", metavar="name=value", help="arguments of VQFlow, values as in YAML")
    parser.add_argument("--config", type=Path, default=config, help="configuration file, as in configs/")
    parser.add_argument("--input-size", type=int, nargs=2, metavar=("H", "W"), help="size of the image in pixels")


def build(config: Path | None, pairs: Sequence[str], input_size: Sequence[int] | None) -> VQFlow:
    """Build a model with random weights.

    Args:
        config: Configuration file with ``model: {init_args: ...}``, if there is one.
        pairs: ``name=value``, with values as in YAML; they go before the file's.
        input_size: Height and width in pixels, before all others.

    Returns:
        The model in eval mode.

    Raises:
        ValueError: If a pair has no ``=``.
    """
    settings = {} if config is None else yaml.safe_load(config.read_text(encoding="utf-8"))["model"]
    arguments = settings.get("init_args", {})
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            msg = f"Expected name=value, such as hidden_dim=64, got {pair!r}."
            raise ValueError(msg)
        arguments[name] = yaml.safe_load(value)
    if input_size is not None:
        arguments["input_size"] = list(input_size)
    torch.manual_seed(0)
    return VQFlow(**{**arguments, "pre_trained": False}).eval()


@torch.no_grad()
def randomize_(model: VQFlow) -> None:
    """Draw codes, and the parameters of the flows that are zero at first, so that outputs depend on everything."""
    for module in model.modules():
        if isinstance(module, Codebook):
            module.codes.normal_()
            module.code_sums.copy_(module.codes)
            module.code_counts.fill_(1.0)
    for parameter in model.model.flow.parameters():
        if not parameter.any():
            parameter.normal_(std=0.01)


@contextmanager
def dense_conditions(model: VQFlowModel) -> Iterator[None]:
    """Let the flows get their conditions as maps, and so convolve them like any other map.

    This is the form that the paper describes, with the same weights; without it, the flows look the conditions up in
    tables.
    """

    def dense(_module: nn.Module, _inputs: object, conditions: Conditions) -> Conditions:
        details = [dense_condition(condition) for condition in conditions.details]
        return conditions._replace(details=details, semantic=dense_condition(conditions.semantic))

    handle = model.conditions.register_forward_hook(dense)
    try:
        yield
    finally:
        handle.remove()


class Backbone(nn.Module):
    """The backbone with its pooling, as the model uses it."""

    def __init__(self, model: VQFlow) -> None:
        super().__init__()
        self.features = model.model.features

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return all maps."""
        features = self.features(images)
        return (*features.details, features.semantic)


class FlowSide(nn.Module):
    """Everything but the backbone, in eval mode."""

    def __init__(self, model: VQFlow) -> None:
        super().__init__()
        self.model = model.model

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Score the images that the maps belong to, the detail maps fine to coarse and the semantic map."""
        images = maps[0].new_zeros(maps[0].shape[0], 3, *self.model.input_size)
        prediction = self.model(images, Features(list(maps[:-1]), maps[-1]))
        return prediction.pred_score, prediction.anomaly_map


def draw_features(model: VQFlow, batch: int) -> Features:
    """Draw maps as the backbone would return them, where the model is."""
    features = model.model.features
    details = [torch.randn(batch, *shape, device=model.device) for shape in features.detail_shapes]
    return Features(details, torch.rand(batch, *features.semantic_shape, device=model.device))


def export_openvino(
    module: nn.Module,
    example: Tensor | tuple[Tensor, ...],
    path: Path,
    *,
    any_batch: bool = False,
    extension: Sequence[openvino.Extension] = (),
) -> Path:
    """Export a module with one argument to OpenVINO in FP32.

    Args:
        module: What to export, in eval mode.
        example: Its argument, for one image.
        path: Path of the ``.xml`` file; its folder is made if it is missing.
        any_batch: Whether the model takes batches of any size, or one image only.
        extension: Extensions of OpenVINO's converter.

    Returns:
        The path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx, dynamic_shapes = path.with_suffix(".onnx"), None
    if any_batch:
        batch = {0: torch.export.Dim("batch")}
        is_one = isinstance(example, Tensor)
        example = torch.cat((example, example)) if is_one else tuple(torch.cat((level, level)) for level in example)
        dynamic_shapes = (batch if is_one else (batch,) * len(example),)
    torch.onnx.export(module, (example,), onnx, dynamo=True, dynamic_shapes=dynamic_shapes, **ONNX)
    converted = openvino.convert_model(onnx, extension=list(extension) or None)  # it refuses an empty list
    openvino.save_model(converted, path, compress_to_fp16=False)
    for leftover in path.parent.glob(f"{onnx.name}*"):
        leftover.unlink()
    return path


def configuration_overrides(rest: Sequence[str]) -> dict[str, str]:
    """Turn options that are not the benchmark's, as ``--trainer.max_epochs 5``, into overrides of a configuration."""
    return {name.removeprefix("--"): value for name, value in zip(rest[::2], rest[1::2], strict=True)}
