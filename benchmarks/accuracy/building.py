# SPDX-License-Identifier: Apache-2.0
"""Data and models of a run, as its definition says: with the backbone's weights, its normalization, our evaluator."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import timm
import torchvision
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule, TimmFeatureExtractor
from safetensors.torch import load_file
from torch import nn
from torch.fx import GraphModule

from anomalib_vqflow import MultiCategory, VQFlow
from anomalib_vqflow.backbones.weights import load_packaged_weights, packaged_weights
from anomalib_vqflow.export import pre_processor_of

Weights = bool | str


class WeightsMissingError(RuntimeError):
    """The weights of a backbone are not at hand."""


def instantiate(value: Any) -> Any:  # noqa: ANN401  (whatever YAML holds)
    """Build the objects that a definition describes by ``class_path`` and ``init_args``, at any depth."""
    if isinstance(value, list):
        return [instantiate(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "class_path" in value:
        return import_class(value["class_path"])(**instantiate(value.get("init_args", {})))
    return {name: instantiate(item) for name, item in value.items()}


def import_class(path: str) -> type:
    """Import a class by its full path."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def build_data(definition: Mapping[str, Any]) -> list[MultiCategory]:
    """Build the data of a run.

    Args:
        definition: Definition of the run.

    Returns:
        One datamodule with all categories, or one for each category.

    Raises:
        TypeError: If the data have no categories.
    """
    data = instantiate(definition["data"])
    if not isinstance(data, MultiCategory):
        msg = f"Expected data of several categories, such as MultiCategory, got {type(data).__name__}."
        raise TypeError(msg)
    if not definition["per_category"]:
        return [data]
    sizes = {name: getattr(data, name) for name in ("train_batch_size", "eval_batch_size", "num_workers")}
    parts = []
    for name, datamodule in data.by_category.items():
        part = MultiCategory(datamodules=[datamodule], **sizes)
        part.by_category = {name: datamodule}  # its name beside the others
        parts.append(part)
    return parts


def build_model(definition: Mapping[str, Any], evaluator: Evaluator) -> AnomalibModule:
    """Build the model of a run.

    Thresholds and the normalization of scores are left out: no metric depends on them, and the default post-processor
    would fit them to test images, and clamp.

    Args:
        definition: Definition of the run.
        evaluator: Evaluator.

    Returns:
        The model, with the weights of its backbone.

    Raises:
        WeightsMissingError: If the weights are not at hand.
        ValueError: If the model got other layers than it was asked for, or the weights do not fit.
    """
    kind, weights, size = import_class(definition["class_path"]), definition["weights"], definition["input_size"]
    arguments = instantiate(definition["init_args"])
    if isinstance(weights, str) and not Path(weights).is_file():
        msg = f"no file {weights}"
        raise WeightsMissingError(msg)
    common = {"evaluator": evaluator, "post_processor": False, "visualizer": False}
    if issubclass(kind, VQFlow):
        own = {"pre_trained": weights} | ({} if size is None else {"input_size": [size, size]})
        with reporting_downloads(random_weights=False):
            return kind(**own, **common, **arguments)
    backbone = _backbone_name(arguments)
    packaged = packaged_weights(backbone) if weights is True else None
    downloads = weights is True and packaged is None
    own = {}
    if "pre_trained" in inspect.signature(kind).parameters:
        own["pre_trained"] = downloads
    if size is not None:
        own["pre_processor"] = pre_processor_of(backbone, (size, size))
    with reporting_downloads(random_weights=not downloads):
        model = kind(**own, **common, **arguments)
    if isinstance(weights, str):
        load_weights_(model, Path(weights))
    for body in _backbones(model) if packaged else ():
        load_packaged_weights(body, packaged, backbone)
    _check_layers(model, arguments.get("layers"))
    return model


@contextmanager
def reporting_downloads(random_weights: bool) -> Iterator[None]:
    """Keep models from downloads, which some ask for whatever they are told, or tell when one fails.

    Args:
        random_weights: Whether backbones are built with random weights.

    Yields:
        Nothing; models are to be built meanwhile.
    """
    create, find = timm.create_model, torchvision.models.get_model_weights

    def create_model(*args: object, pretrained: bool = False, **kwargs: object) -> nn.Module:
        body = create(*args, pretrained=False, **kwargs)
        if not pretrained or random_weights:
            return body
        try:
            return create(*args, pretrained=True, **kwargs)
        except Exception as error:  # the same model without weights was built, so it is the weights
            msg = f"the weights of {args[0]} could not be downloaded ({type(error).__name__})"
            raise WeightsMissingError(msg) from error

    def get_model_weights(name: str) -> object:
        return SimpleNamespace(DEFAULT=None) if random_weights else find(name)

    with (
        patch.object(timm, "create_model", create_model),
        patch.object(torchvision.models, "get_model_weights", get_model_weights),
    ):
        try:
            yield
        except OSError as error:
            msg = f"the weights could not be downloaded ({type(error).__name__}: {error})"
            raise WeightsMissingError(msg) from error


def load_weights_(model: nn.Module, path: Path) -> None:
    """Load a weights file into the backbones of a model: what timm built, or torchvision's teachers.

    Args:
        model: The model.
        path: A safetensors file with the keys of timm's model.

    Raises:
        ValueError: If the file lacks a weight of a backbone, or the model has no backbone that we can find.
    """
    state = {key.replace(".", "_"): value for key, value in load_file(path).items()}
    bodies = list(_backbones(model))
    if not bodies:
        msg = f"Found no backbone in {type(model).__name__} to load {path} into; give it `true`, or skip the model."
        raise ValueError(msg)
    for body in bodies:
        wanted = [key for key in body.state_dict() if not key.endswith("num_batches_tracked")]
        lacking = [key for key in wanted if key.replace(".", "_") not in state]
        if lacking:
            msg = f"{path} lacks {len(lacking)} weights of {type(model).__name__}'s backbone, such as {lacking[:3]}."
            raise ValueError(msg)
        body.load_state_dict({key: state[key.replace(".", "_")] for key in wanted}, strict=False)


def _backbones(module: nn.Module) -> Iterator[nn.Module]:
    """Find the outermost modules that are timm's, or traced as torchvision's are."""
    for child in module.children():
        if type(child).__module__.startswith("timm.models.") or isinstance(child, GraphModule):
            yield child
        else:
            yield from _backbones(child)


def _backbone_name(arguments: Mapping[str, Any]) -> str:
    names = ("backbone", "encoder_name", "teacher_backbone")
    return next((str(arguments[name]) for name in names if name in arguments), "")


def _check_layers(model: nn.Module, layers: list[int | str] | None) -> None:
    """Refuse a model whose extractor has dropped layers, as anomalib's does with names that it does not know."""
    for extractor in (module for module in model.modules() if isinstance(module, TimmFeatureExtractor)):
        if layers is not None and len(extractor.out_dims) != len(layers):
            msg = f"Expected maps of the layers {layers}, got {len(extractor.out_dims)}; see the names in timm."
            raise ValueError(msg)
