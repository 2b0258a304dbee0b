# SPDX-License-Identifier: Apache-2.0
"""What an exported model needs beyond anomalib: its training's resizing, and quantization that is judged afresh."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import torch
from anomalib import TaskType
from anomalib.data import AnomalibDataModule, Batch
from anomalib.deploy import CompressionType
from anomalib.metrics import F1Score
from anomalib.models.components.base.export_mixin import ExportMixin
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics import Metric
from torchvision.transforms.v2 import Compose, Resize, Transform

from .condition import frozen_tables
from .precision import careful_compression, name_by_room

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from openvino import Output
    from openvino.frontend import NodeContext
    from openvino.frontend.onnx import ConversionExtension

ONNX_OPSET = 18
"""The lowest operator set that torch's exporter writes itself, and the first whose ``Resize`` can antialias."""

ONNX_TO_OPENVINO_MODE = {"nearest": "nearest", "linear": "linear_onnx", "cubic": "cubic"}
ANTIALIASED_MODE = {"linear": "bilinear_pillow", "cubic": "bicubic_pillow"}


class AntialiasPreProcessor(PreProcessor):
    """Pre-processor that resizes images in an exported model as it does in training.

    anomalib switches antialiasing off in exported models. Images that have to shrink then look different from those
    of the training, for which score normalization and thresholds were fitted. This pre-processor exports antialiasing
    where the transform has it. ONNX Runtime computes it as torch does; for OpenVINO it needs :func:`resize_extension`.

    Args:
        transform: Transform of the images.

    Example:
        >>> AntialiasPreProcessor(Resize((64, 64), antialias=True)).export_transform.antialias
        True
    """

    def __init__(self, transform: Transform | None = None) -> None:
        super().__init__(transform)
        _copy_antialias(self.transform, self.export_transform)

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Restore the transform, also of the exported model.

        Args:
            config: What :meth:`checkpoint_config` returned.
        """
        super().load_checkpoint_config(config)
        _copy_antialias(self.transform, self.export_transform)


def _copy_antialias(source: Transform | None, target: Transform | None) -> None:
    """Let every ``Resize`` in ``target`` antialias if its counterpart in ``source`` does."""
    if isinstance(source, Resize) and isinstance(target, Resize):
        target.antialias = source.antialias
    if isinstance(source, Compose) and isinstance(target, Compose):
        for one, other in zip(source.transforms, target.transforms, strict=True):
            _copy_antialias(one, other)


class FreshMetric(Metric):
    """Metric that starts anew after it was read.

    anomalib's accuracy-aware quantization (``INT8_ACQ``) judges many candidate models by one metric, which it never
    resets: each would be judged by the predictions of all models so far.

    Args:
        metric: Metric of anomalib that judges.
    """

    def __init__(self, metric: Metric) -> None:
        super().__init__()
        self.metric = metric

    def update(self, batch: Batch) -> None:
        """Add the predictions for a batch."""
        self.metric.update(batch)

    def compute(self) -> Tensor:
        """Return the value over the batches since the last call."""
        value = self.metric.compute()
        self.metric.reset()
        return value


@contextmanager
def calibration_size(datamodule: AnomalibDataModule | None, size: tuple[int, int] | None) -> Iterator[None]:
    """Let a datamodule resize its images, as it does in training, while a model is quantized with it.

    anomalib's datamodules ask their trainer for the size, and have none in an export. Images of different sizes would
    not fit into one batch, and none into a model that was exported for another size.

    Args:
        datamodule: Datamodule to calibrate with, if there is one.
        size: Height and width, in pixels; None leaves the images as they are.
    """
    if datamodule is None or size is None:
        yield
        return
    pre_processor = SimpleNamespace(transform=Resize(list(size), antialias=True))
    trainer, stand_in = datamodule.trainer, SimpleNamespace(model=SimpleNamespace(pre_processor=pre_processor))
    datamodule.trainer = cast("Trainer", stand_in)
    try:
        yield
    finally:
        datamodule.trainer = trainer


def resize_extension() -> "ConversionExtension":
    """Make OpenVINO antialias where ONNX's ``Resize`` says so.

    OpenVINO (2026.4) converts every ``Resize`` to an interpolation that ignores the flag. Its ``pillow`` modes compute
    what torch does. All other cases are converted as OpenVINO would.

    Returns:
        Extension for ``openvino.convert_model``.
    """
    import numpy as np
    import openvino.opset13 as ops
    from openvino.frontend.onnx import ConversionExtension

    def convert(node: "NodeContext") -> "list[Output]":
        image = node.get_input(0)
        axes = ops.constant(np.arange(len(image.get_partial_shape()), dtype=np.int64))
        by_size = node.get_input_size() == 4  # image, region, scales, sizes; the last ones are optional
        mode = node.get_attribute("mode", "nearest")
        antialias = node.get_attribute("antialias", 0)
        resized = ops.interpolate(
            image,
            node.get_input(3 if by_size else 2),
            mode=(ANTIALIASED_MODE if antialias else ONNX_TO_OPENVINO_MODE)[mode],
            shape_calculation_mode="sizes" if by_size else "scales",
            axes=axes,
            coordinate_transformation_mode=node.get_attribute("coordinate_transformation_mode", "half_pixel"),
            nearest_mode=node.get_attribute("nearest_mode", "round_prefer_floor"),
            cube_coeff=node.get_attribute("cubic_coeff_a", -0.75),
        )
        return [resized.output(0)]

    return ConversionExtension("Resize", convert)


def look_up_extension() -> "ConversionExtension":
    """Make OpenVINO add up table rows as it reads them, where ONNX gathers them all and sums afterwards.

    ONNX has no such operator; OpenVINO's ``EmbeddingBagPackedSum`` is one. All other sums are converted as OpenVINO
    would.

    Returns:
        Extension for ``openvino.convert_model``.
    """
    import numpy as np
    import openvino.opset13 as ops
    from openvino.frontend.onnx import ConversionExtension

    def convert(node: "NodeContext") -> "list[Output]":
        summed, axes = node.get_input(0), node.get_input(1)
        gather, axis = summed.get_node(), axes.get_node()
        if gather.get_type_name() == "GatherND" and axis.get_type_name() == "Constant":
            table, rows = gather.input_value(0), gather.input_value(1)  # (R, d) and (cells, n, 1)
            ranks = [len(value.get_partial_shape()) for value in (table, rows)]
            if ranks == [2, 3] and axis.get_vector().tolist() == [1] and not node.get_attribute("keepdims", 1):
                rows = ops.squeeze(rows, ops.constant(np.array([-1], dtype=np.int64))).output(0)
                return [ops.embedding_bag_packed_sum(table, rows).output(0)]
        return [ops.reduce_sum(summed, axes, bool(node.get_attribute("keepdims", 1))).output(0)]

    return ConversionExtension("ReduceSum", convert)


def suit_openvino(path: Path) -> None:
    """Turn the concept of an ONNX model into an inner value of the same name, and name its nodes by their rooms.

    Args:
        path: Path of a model that torch exported; its weights may be in other files.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    for output in [output for output in model.graph.output if output.name == "concept"]:
        model.graph.output.remove(output)
    name_by_room(model)
    onnx.save(model, path)


class AntialiasExportMixin(ExportMixin, LightningModule):
    """Export of a model with the resizing of its training, and quantization with images of any sizes.

    Exported models tell the concept of each image. In ONNX it is an output. anomalib's ``OpenVINOInferencer`` fails at
    an output that it does not know, so in OpenVINO it is an inner tensor of that name, which ``model.add_outputs``
    makes an output.
    """

    input_size: tuple[int, int] | None
    is_exported = False  # while torch.onnx traces the model
    supports_int8_backbone: bool  # whether the backbone may compute in them
    _is_for_openvino = False

    def to_onnx(  # type: ignore[override]  # anomalib's signature, not Lightning's
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Path:
        """Export to ONNX like anomalib, in the operator set that torch's exporter writes.

        anomalib asks for an older one, to which the conversion fails noisily.

        Args:
            export_root: Folder to export to.
            model_file_name: Name of the file, without suffix.
            input_size: Height and width of the images, in pixels; None for any.
            kwargs: Further arguments of ``torch.onnx.export``.

        Returns:
            Path of the model.
        """
        kwargs.setdefault("opset_version", ONNX_OPSET)
        self.is_exported = True
        try:
            with frozen_tables(self.eval(), self._examples(input_size)):
                path = super().to_onnx(export_root, model_file_name, input_size, **kwargs)
        finally:
            self.is_exported = False
        if self._is_for_openvino:
            suit_openvino(path)
        return path

    def _examples(self, input_size: tuple[int, int] | None) -> list[Tensor]:
        """Make images of the only size that the exported model takes, or of two of many."""
        height, width = input_size or self.input_size or (256, 256)
        sizes = [(height, width)] if input_size else [(height, width), (height + 64, width + 64)]
        return [torch.zeros(1, 3, *size, device=self.device) for size in sizes]

    def to_openvino(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        compression_type: CompressionType | None = None,
        datamodule: AnomalibDataModule | None = None,
        metric: Metric | None = None,
        task: TaskType | None = None,
        max_drop: float = 0.01,
        ov_kwargs: dict[str, Any] | None = None,
        onnx_kwargs: dict[str, Any] | None = None,
    ) -> Path:
        """Export to OpenVINO like anomalib, with antialiased resizing and with calibration on images of any sizes.

        Eight bits are for where most of the work is; see :func:`.careful_compression`. The backbone is among it if the
        flows were trained on whitened maps with at least as much noise as eight bits make, the default.

        Args:
            export_root: Folder to export to.
            model_file_name: Name of the files, without suffix.
            input_size: Height and width of the images, in pixels; None for any.
            compression_type: None for FP32, ``FP16``, ``INT8`` (weights only), ``INT8_PTQ`` or ``INT8_ACQ``.
            datamodule: Data for ``INT8_PTQ`` (validation images) and ``INT8_ACQ`` (also test images).
            metric: Judges ``INT8_ACQ``, higher is better; None for the image labels' F1 score.
            task: Unused, as in anomalib.
            max_drop: Largest drop of the metric under ``INT8_ACQ``.
            ov_kwargs: Further arguments of ``openvino.convert_model``.
            onnx_kwargs: Further arguments of ``torch.onnx.export``.

        Returns:
            Path of the ``.xml`` file.
        """
        metric = metric or F1Score(fields=["pred_label", "gt_label"])
        self._is_for_openvino = True
        try:
            eight_bits = compression_type not in {None, CompressionType.FP16}
            with (
                calibration_size(datamodule, input_size or self.input_size),
                careful_compression(precise_backbone=not self.supports_int8_backbone) if eight_bits else nullcontext(),
            ):
                return super().to_openvino(
                    export_root,
                    model_file_name,
                    input_size,
                    compression_type,
                    datamodule,
                    FreshMetric(metric),
                    task,
                    max_drop,
                    {"extension": [resize_extension(), look_up_extension()], **(ov_kwargs or {})},
                    onnx_kwargs,
                )
        finally:
            self._is_for_openvino = False
