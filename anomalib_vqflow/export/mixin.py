# SPDX-License-Identifier: Apache-2.0
"""The steps of an export, as anomalib's hooks."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from anomalib import TaskType
from anomalib.data import AnomalibDataModule, InferenceBatch
from anomalib.deploy import CompressionType, ExportType
from anomalib.metrics import F1Score
from anomalib.models.components.base.export_mixin import ExportMixin
from anomalib.models.components.base.export_mixin.utils import create_export_root
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torchmetrics import Metric

from anomalib_vqflow.condition import frozen_tables
from anomalib_vqflow.data.resize import resize_images
from anomalib_vqflow.outputs import Prediction, TracedPrediction
from anomalib_vqflow.post_processor import SeparatingPostProcessor
from anomalib_vqflow.quantization import Codebook

from .arguments import (
    ONNX_OPSET,
    check_file_name,
    check_onnx_arguments,
    compression_named,
    known_outputs,
    size_of_images,
    take_map_only,
    yes_or_no,
)
from .camera import take_frames_in_onnx, take_frames_in_openvino
from .files import finish_onnx, whole_files
from .int8 import ignored_scope, quantize, quantize_with_accuracy_control, rebatch, set_up_images
from .metadata import METADATA_KEY, as_text, describe, write_metadata
from .model_api import MAP, fixed_size, keep_colors, keep_map, tell_model_api
from .module_paths import name_nodes_by_module
from .openvino import conversion_extensions
from .pre_processor import resize_as_in_training
from .resize import SizeError
from .told_scores import told_thresholds

if TYPE_CHECKING:
    import openvino


class AntialiasExportMixin(ExportMixin, LightningModule):
    """Export of a model with the resizing of its training, and INT8 where it does no harm.

    Exported models tell the concept of each image, its score and map before the post-processor (``raw_score``,
    ``raw_map``), and what the score is made of (``raw_score_map``). anomalib's ``OpenVINOInferencer`` fails at outputs
    that it does not know, so these are tensors inside, unless ``output_names`` of ``torch.onnx.export`` ask for them.
    In OpenVINO, ``model.add_outputs`` reveals them.
    """

    input_size: tuple[int, int] | None
    bit_depth: int | None
    post_processor: nn.Module | None
    agree_with: Callable[[AnomalibDataModule], None]
    is_exported = False  # while torch.onnx traces the model

    def to_torch(self, export_root: Path | str, model_file_name: str = "model") -> Path:
        """Export to torch like anomalib.

        Args:
            export_root: Folder to export to.
            model_file_name: Name of the file, without suffix.

        Returns:
            Path of the model.

        Raises:
            ValueError: If the name is none of a file.
        """
        check_file_name(model_file_name)
        self._prepare_export()
        with whole_files(export_root, ExportType.TORCH) as folder:
            path = super().to_torch(folder, model_file_name)
        return _place(export_root, path)

    def to_onnx(  # type: ignore[override]  # anomalib's signature, not Lightning's
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        camera_input: bool = False,
        **kwargs: Any,  # noqa: ANN401
    ) -> Path:
        """Export to ONNX like anomalib, in the operator set that torch's exporter writes.

        anomalib asks for an older one, to which the conversion fails noisily.

        Args:
            export_root: Folder to export to.
            model_file_name: Name of the file, without suffix.
            input_size: Height and width of the images, in pixels; None for any.
            camera_input: Whether the model takes bytes of shape ``(B, H, W, 3)`` in the order BGR.
            kwargs: Further arguments of ``torch.onnx.export``; ``output_names`` choose among the outputs.

        Returns:
            Path of the model, whose nodes are named by their modules.

        Raises:
            ValueError: If an argument is not possible, or the pre-processor cannot be exported for any size.
        """
        return self._to_onnx(export_root, model_file_name, input_size, camera_input, is_result=True, **kwargs)

    def _to_onnx(
        self,
        export_root: Path | str,
        model_file_name: str,
        input_size: tuple[int, int] | None,
        camera_input: bool,
        is_result: bool,
        **kwargs: Any,  # noqa: ANN401
    ) -> Path:
        """Export to ONNX; metadata are added if that is not only a step of an export."""
        check_file_name(model_file_name)
        input_size = size_of_images(input_size)
        opset = kwargs.setdefault("opset_version", ONNX_OPSET)
        outputs = kwargs.pop("output_names", None)
        check_onnx_arguments(kwargs)
        yes_or_no("camera_input", camera_input)
        self._prepare_export()
        examples = self._example_images(input_size)
        prediction = Prediction._asdict(self.eval()(examples[0]))  # that of inferencers leaves the concept out
        not_told = {name for name, value in prediction.items() if value is None}
        told = [name for name in TracedPrediction._fields if name not in not_told]
        outputs = known_outputs(outputs, told, [name for name in told if name in InferenceBatch._fields])
        notes = {} if self.bit_depth is None else {"bit_depth": str(self.bit_depth)}
        with whole_files(export_root, ExportType.ONNX) as folder:
            self.is_exported = True
            try:
                with frozen_tables(self, examples):
                    path = super().to_onnx(folder, model_file_name, input_size, **kwargs)
            except torch.onnx.errors.OnnxExporterError as error:
                if isinstance(error.__cause__, SizeError):
                    raise error.__cause__ from None
                raise
            finally:
                self.is_exported = False
            name_nodes_by_module(path)
            if is_result:
                metadata = describe(self, path.name, input_size, outputs, "fp32", camera_input)
                write_metadata(path.parent, metadata)
                notes[METADATA_KEY] = as_text(metadata)
            finish_onnx(path, outputs, opset, notes)
            if camera_input:
                take_frames_in_onnx(path)
        return _place(export_root, path)

    def _prepare_export(self) -> None:
        """Antialias with any pre-processor of anomalib's, too, and warn of a model that knows nothing, or no labels."""
        if type(self.pre_processor) is PreProcessor:
            resize_as_in_training(self.pre_processor)
        if not any(part.code_counts.any() for part in self.modules() if isinstance(part, Codebook)):
            rank_zero_warn("This model was never trained, so what it predicts means nothing.")
        elif isinstance(self.post_processor, SeparatingPostProcessor) and not any(self.post_processor.known):
            rank_zero_warn(
                "This model has no threshold, so its export tells raw scores and maps, but no labels and masks. Train "
                "with validation images (val_split_mode) to set one."
            )

    def _example_images(self, input_size: tuple[int, int] | None) -> list[Tensor]:
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
        camera_input: bool = False,
        map_only: bool = False,
    ) -> Path:
        """Export to OpenVINO like anomalib, with INT8 only where it does no harm.

        INT8 is for where most of the work is; see :func:`.ignored_scope`. The backbone is among it if the flows were
        trained on whitened maps with at least as much noise as INT8 makes, the default.

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
            onnx_kwargs: Further arguments of ``torch.onnx.export``; the next two may be among them, because
                ``engine.export`` does not pass them otherwise.
            camera_input: Whether the model takes bytes of shape ``(B, H, W, 3)`` in the order BGR.
            map_only: Whether the map is the only output, as DL Streamer wants it; needs an ``input_size``.

        Returns:
            Path of the ``.xml`` file.

        Raises:
            TypeError: If the metric is none.
            ValueError: If another argument is not possible, or there are no images to quantize with.
        """
        check_file_name(model_file_name)
        compression = compression_named(compression_type)
        if metric is not None and not isinstance(metric, Metric):
            msg = f"metric must be a metric object, such as anomalib.metrics.F1Score(...), got {metric!r}."
            raise TypeError(msg)
        onnx_arguments = {"camera_input": camera_input, "map_only": map_only, **(onnx_kwargs or {})}
        camera_input = yes_or_no("camera_input", onnx_arguments.pop("camera_input"))
        map_only = take_map_only(onnx_arguments, camera_input, input_size, self.post_processor)
        with whole_files(export_root, ExportType.OPENVINO) as folder, TemporaryDirectory() as onnx_folder:
            import openvino

            onnx_path = self._to_onnx(
                onnx_folder, model_file_name, input_size, camera_input=False, is_result=False, **onnx_arguments
            )
            model = openvino.convert_model(onnx_path, **{"extension": conversion_extensions(), **(ov_kwargs or {})})
            if compression not in {None, CompressionType.FP16}:
                model = self._compress(model, compression, datamodule, metric, task, max_drop)
            path = create_export_root(folder, ExportType.OPENVINO) / f"{model_file_name}.xml"
            if map_only:
                keep_map(model)
            self._save_openvino(model, path, compression, camera_input)
        return _place(export_root, path)

    def _save_openvino(
        self, model: "openvino.Model", path: Path, compression: CompressionType | None, camera_input: bool
    ) -> None:
        """Let a converted model say what it is, and save it."""
        import openvino

        outputs = [output.any_name for output in model.outputs]
        precision = compression.value if compression else "fp32"
        metadata = describe(self, path.name, fixed_size(model), outputs, precision, camera_input)
        write_metadata(path.parent, metadata)
        keep_colors(model)
        thresholds = told_thresholds(self.post_processor, by_map=outputs == [MAP])
        tell_model_api(model, *thresholds, takes_frames=camera_input)
        model.set_rt_info(as_text(metadata), [METADATA_KEY])
        if camera_input:
            model = take_frames_in_openvino(model)
        openvino.save_model(model, path, compress_to_fp16=compression == CompressionType.FP16)

    def _compress(
        self,
        model: "openvino.Model",
        compression_type: CompressionType | None = None,
        datamodule: AnomalibDataModule | None = None,
        metric: Metric | None = None,
        task: TaskType | None = None,
        max_drop: float = 0.01,
    ) -> "openvino.Model":
        """Compress a model where it does no harm; anomalib would compress all of it."""
        del task
        import nncf

        names = {name for output in model.outputs for name in output.names}
        if compression_type == CompressionType.INT8_ACQ and metric is None and "pred_label" not in names:
            msg = (
                "INT8_ACQ judges by labels, which a model without a threshold does not tell; give a metric of scores, "
                'such as metric=AUROC(fields=["pred_score", "gt_label"]).'
            )
            raise ValueError(msg)
        ignored = ignored_scope(model, self)
        if compression_type == CompressionType.INT8:
            return nncf.compress_weights(model, ignored_scope=ignored)
        datamodule = set_up_images(datamodule, CompressionType(compression_type))
        self.agree_with(datamodule)
        batch = model.input(0).partial_shape[0]
        size = fixed_size(model) or self.input_size
        if size is not None:
            resize_images(datamodule, size)
        batch_size = batch.get_length() if batch.is_static else None
        images = rebatch(datamodule.val_dataloader(), batch_size)
        if compression_type == CompressionType.INT8_PTQ:
            return quantize(model, ignored, images)
        labeled_images = rebatch(datamodule.test_dataloader(), batch_size)
        metric = metric or F1Score(fields=["pred_label", "gt_label"])
        return quantize_with_accuracy_control(model, ignored, images, labeled_images, metric, max_drop)


def _place(export_root: Path | str, path: Path) -> Path:
    """Tell where a file is that was exported to another root before it was moved."""
    return Path(export_root).joinpath(*path.parts[-3:])
