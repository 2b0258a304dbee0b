# SPDX-License-Identifier: Apache-2.0
"""Which operators compute in INT8: most, but none whose rounding changes codes or shifts whole maps of scores."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

import torch
from anomalib.data import AnomalibDataModule, ImageBatch
from anomalib.deploy import CompressionType
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import Metric

from anomalib_vqflow.anomaly_map import AnomalyMapGenerator
from anomalib_vqflow.condition import ConditionEncoder
from anomalib_vqflow.features import FeaturePyramid
from anomalib_vqflow.flows import AddedConcepts, ConceptGaussian, Noise, Whitening
from anomalib_vqflow.quantization import ConceptQuantizer

from .fake_quantize import INT8_OPERATORS, bypass_fake_quantize
from .module_paths import is_in_module, paths_of
from .resize import ExportableResize

if TYPE_CHECKING:
    import nncf
    import openvino

FP32_MODULES = (ConceptQuantizer, ConditionEncoder, AnomalyMapGenerator)
"""Modules that stay in FP32: a small part of the work, in which rounding changes codes, or shifts whole maps."""

FP32_FLOW_STEPS = (Whitening, ConceptGaussian)
"""Steps of the flow whose layers stay in FP32, for the same reasons. Their sums and products are not named to NNCF,
which would place its quantizers elsewhere; :func:`.bypass_fake_quantize` keeps these exact in any case."""

NUM_FP32_BACKBONE_LAYERS = 3
"""Convolutions at the backbone's start that stay in FP32. Rounding all layers of MobileNetV2 moves whitened maps by
0.25 to 0.33 standard deviations, rounding all but these by 0.06 to 0.13."""

SMALLEST_NOISE = 0.1
"""Noise on the whitened maps in training, in their standard deviations, from which a flow supports an INT8 backbone."""


ENOUGH_IMAGES = 300
"""Images that NNCF recommends to quantize with."""


def ignored_scope(model: "openvino.Model", torch_model: nn.Module) -> "nncf.IgnoredScope":
    """Tell NNCF which operators stay in FP32.

    Those of the resize, of the Gaussians of added products and of :data:`FP32_MODULES`, the layers of
    :data:`FP32_FLOW_STEPS`, and the whole backbone or its first layers.

    Args:
        model: Model to compress, whose nodes have the names of :func:`.name_nodes_by_module`.
        torch_model: The module that it was exported from.

    Returns:
        Names of the operators.

    Raises:
        ValueError: If one of these modules has no operator of its name.
    """
    import nncf

    operators = [o for o in model.get_ordered_ops() if o.get_type_name() not in {"Constant", "Parameter"}]
    names = [operator.get_friendly_name() for operator in operators]
    layers = [operator.get_friendly_name() for operator in operators if operator.get_type_name() in INT8_OPERATORS]
    backbone, modules, steps = (
        paths_of(torch_model, kinds) for kinds in ((FeaturePyramid,), FP32_MODULES, FP32_FLOW_STEPS)
    )
    for path in (*backbone, *modules, *steps):
        if not any(is_in_module(name, [path]) for name in names):
            msg = f"No operator of the model is named {path}; its names were lost in the conversion."
            raise ValueError(msg)
    # These have no operators where images need no resizing, and where no product was added.
    modules += paths_of(torch_model, (ExportableResize, AddedConcepts))
    fp32 = [name for name in names if is_in_module(name, modules)]
    fp32 += [name for name in layers if is_in_module(name, steps)]
    if supports_int8_backbone(torch_model):
        fp32 += [name for name in layers if is_in_module(name, backbone)][:NUM_FP32_BACKBONE_LAYERS]
    else:
        fp32 += [name for name in names if is_in_module(name, backbone)]
    return nncf.IgnoredScope(names=fp32, validate=False)


def supports_int8_backbone(torch_model: nn.Module) -> bool:
    """Whether the backbone may compute in INT8: what is normal was learned with at least as much noise as that makes.

    A normalizing flow learns how little the features of normal images vary. INT8 moves the features of a backbone by
    more, so that all images would look anomalous. A product that was added without training was learned without noise:
    some of its images would not even find its concept.

    Args:
        torch_model: The module to export.

    Returns:
        Whether every level has :class:`.Noise` of at least :data:`SMALLEST_NOISE`, and no concept was added.
    """
    modules = list(torch_model.modules())
    noise = min((module.std for module in modules if isinstance(module, Noise)), default=0.0)
    return noise >= SMALLEST_NOISE and not any(len(m) for m in modules if isinstance(m, AddedConcepts))


def quantize(model: "openvino.Model", ignored: "nncf.IgnoredScope", images: DataLoader) -> "openvino.Model":
    """Store weights and compute in INT8.

    Args:
        model: Model to compress.
        ignored: What stays in FP32.
        images: Images from which NNCF takes the range of every value.

    Returns:
        The compressed model.
    """
    import nncf

    # Symmetric weights, asymmetric activations: what GELU and affine couplings write is not symmetric.
    preset = nncf.QuantizationPreset.MIXED
    quantized = nncf.quantize(model, nncf.Dataset(images, _model_input), preset=preset, ignored_scope=ignored)
    bypass_fake_quantize(quantized)
    return quantized


def quantize_with_accuracy_control(
    model: "openvino.Model",
    ignored: "nncf.IgnoredScope",
    images: DataLoader,
    labeled_images: DataLoader,
    metric: Metric,
    max_drop: float,
) -> "openvino.Model":
    """Store weights and compute in INT8, all but the operators that cost most accuracy.

    Args:
        model: Model to compress.
        ignored: What stays in FP32 in any case.
        images: Images from which NNCF takes the range of every value.
        labeled_images: Images that the metric judges.
        metric: Metric of anomalib, higher is better.
        max_drop: Largest drop of the metric that is accepted.

    Returns:
        The compressed model.

    Raises:
        ValueError: If the drop is not in [0, 1].
    """
    import nncf

    if not 0 <= max_drop <= 1:
        msg = f"max_drop must be between 0 and 1, got {max_drop}."
        raise ValueError(msg)

    def judge(compiled: "openvino.CompiledModel", batches: Iterable[ImageBatch]) -> float:
        return evaluate(compiled, batches, metric)

    quantized = nncf.quantize_with_accuracy_control(
        model,
        nncf.Dataset(images, _model_input),
        nncf.Dataset(labeled_images),
        judge,
        max_drop=max_drop,
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=ignored,
    )
    bypass_fake_quantize(quantized)
    return quantized


def evaluate(compiled: "openvino.CompiledModel", batches: Iterable[ImageBatch], metric: Metric) -> float:
    """Judge a compiled model by its own predictions only, whatever the metric has seen before.

    Args:
        compiled: An exported model.
        batches: Images with their ground truth.
        metric: Metric of anomalib.

    Returns:
        Value of the metric.
    """
    metric.reset()
    for batch in batches:
        outputs = compiled(_model_input(batch))
        named: dict[str, Any] = {output.any_name: torch.from_numpy(outputs[output]) for output in compiled.outputs}
        metric.update(batch.update(**named))
    return float(metric.compute())


def _model_input(batch: ImageBatch) -> Tensor:
    return cast("Tensor", batch.image)


def set_up_images(datamodule: AnomalibDataModule | None, compression: CompressionType) -> AnomalibDataModule:
    """Make sure that there are images to quantize with.

    Args:
        datamodule: Data of the user, or None.
        compression: ``INT8_PTQ`` or ``INT8_ACQ``.

    Returns:
        The datamodule, set up.

    Raises:
        ValueError: If images are missing.
    """
    if datamodule is None:
        msg = f"{compression.name} needs images: give a datamodule, or --data on a command line."
        raise ValueError(msg)
    datamodule.setup("fit")
    num_images = len(getattr(datamodule, "val_data", ()))
    if not num_images:
        msg = f"{compression.name} needs validation images: give the datamodule a val_split_mode."
        raise ValueError(msg)
    test_data = getattr(datamodule, "test_data", None)
    if compression == CompressionType.INT8_ACQ and (test_data is None or not test_data.has_anomalous):
        msg = f"{compression.name} judges by test images, of which none is anomalous; use INT8_PTQ."
        raise ValueError(msg)
    if num_images < ENOUGH_IMAGES:
        rank_zero_warn(f"{compression.name} has {num_images} validation images; NNCF recommends {ENOUGH_IMAGES}.")
    return datamodule


def rebatch(loader: DataLoader, batch_size: int | None) -> DataLoader:
    """Read the same images in batches of a size that a model demands, if it does; those that remain are left out.

    Args:
        loader: Loader of the images.
        batch_size: Images that the model takes at once; None for any number.

    Returns:
        A loader.
    """
    if batch_size is None:
        return loader
    return DataLoader(
        loader.dataset,
        batch_size,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        drop_last=True,
    )
