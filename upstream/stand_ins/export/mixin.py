# SPDX-License-Identifier: Apache-2.0
"""Export to ONNX with the outputs of an ``InferenceBatch``, and conditions looked up in constant tables."""

from pathlib import Path
from typing import Any

import torch
from anomalib.data import InferenceBatch
from anomalib.models.components.base.export_mixin import ExportMixin
from lightning.pytorch import LightningModule

from anomalib_vqflow.condition import frozen_tables

ONNX_OPSET = 18
"""The operator set that torch's exporter writes; a conversion to an older one fails."""


class FrozenTablesExportMixin(ExportMixin, LightningModule):
    """Export of a model whose condition is looked up in tables, which become constants of the exported model."""

    input_size: tuple[int, int] | None
    is_exported = False  # while torch.onnx traces the model

    def to_onnx(  # type: ignore[override]  # the mixin's signature, not Lightning's
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Path:
        """Export to ONNX.

        Args:
            export_root: Folder to export to.
            model_file_name: Name of the file, without suffix.
            input_size: Height and width of the images, in pixels; None for any.
            kwargs: Further arguments of ``torch.onnx.export``.

        Returns:
            Path of the model, which gives the fields of an ``InferenceBatch`` that it knows.
        """
        import onnx

        kwargs.setdefault("opset_version", ONNX_OPSET)
        height, width = input_size or self.input_size or (256, 256)
        sizes = [(height, width)] if input_size else [(height, width), (height + 64, width + 64)]
        examples = [torch.zeros(1, 3, *size, device=self.device) for size in sizes]
        self.is_exported = True
        try:
            with frozen_tables(self, examples):
                path = super().to_onnx(export_root, model_file_name, input_size, **kwargs)
        finally:
            self.is_exported = False
        model = onnx.load(path)
        outputs = [output for output in model.graph.output if output.name in InferenceBatch._fields]
        del model.graph.output[:]
        model.graph.output.extend(outputs)
        onnx.save(model, path)
        return path
