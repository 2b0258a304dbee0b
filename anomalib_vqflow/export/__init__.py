# SPDX-License-Identifier: Apache-2.0
"""Export to ONNX and OpenVINO.

What happens, in this order:

1. ``mixin.to_onnx`` checks the ``arguments``, freezes the tables of the condition, lets anomalib trace the model, pre-
   and post-processing included, and prefixes the name of every node with the path of its module (``module_paths``).
   The ``files`` come to their place when all is done.
2. The traced pre-processing antialiases as in training (``pre_processor``, ``resize``).
3. ``mixin.to_openvino`` converts the ONNX model with a conversion of our own (``openvino``).
4. INT8 leaves in FP32 what rounding would harm (``int8``), and lets only convolutions and matrix products read
   quantized values (``fake_quantize``).
5. Files say what they are (``metadata``), also to Model API and DL Streamer (``model_api``), with thresholds of what
   they tell (``told_scores``), and may take frames (``camera``).
"""

from .mixin import AntialiasExportMixin
from .normalizing import pre_processor_of, warn_of_normalization
from .pre_processor import AntialiasPreProcessor

__all__ = ["AntialiasExportMixin", "AntialiasPreProcessor", "pre_processor_of", "warn_of_normalization"]
