# SPDX-License-Identifier: Apache-2.0
"""Let only convolutions and matrix products read quantized values."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import openvino

INT8_OPERATORS = {"Convolution", "GroupConvolution", "MatMul"}
"""Operators that compute in INT8."""

REARRANGING_OPERATORS = {"Concat", "Reshape", "Split", "Squeeze", "Transpose", "Unsqueeze", "VariadicSplit"}
"""Operators that only rearrange values, and may stand between a quantized value and the operator that computes."""


def bypass_fake_quantize(model: "openvino.Model") -> None:
    """Let all but :data:`INT8_OPERATORS` read values as they were before they were quantized.

    NNCF quantizes what an operator writes for everything that reads it: the latents in every coupling, and the
    backbone's maps, whose smallest variations are what a whitening shows to the flow.

    Args:
        model: Model that NNCF quantized, changed in place.
    """
    for quantizer in model.get_ops():
        if quantizer.get_type_name() != "FakeQuantize":
            continue
        exact = quantizer.input_value(0)
        if exact.get_node().get_type_name() != "Constant":  # weights stay quantized for all
            for reader in quantizer.output(0).get_target_inputs():
                if not _computes_in_int8(reader.get_node()):
                    _quantize_behind(reader.get_node(), quantizer)
                    reader.replace_source_output(exact)


def _computes_in_int8(reader: "openvino.Node") -> bool:
    """Whether an operator computes in INT8, or only rearranges values for operators that do."""
    if reader.get_type_name() in INT8_OPERATORS:
        return True
    readers = [value.get_node() for output in reader.outputs() for value in output.get_target_inputs()]
    return reader.get_type_name() in REARRANGING_OPERATORS and all(_computes_in_int8(node) for node in readers)


def _quantize_behind(operator: "openvino.Node", quantizer: "openvino.Node") -> None:
    """Quantize behind a rearranging operator instead, such as the half of the latents that a subnet sees."""
    import openvino.opset13 as ops

    limits, levels = quantizer.input_values()[1:], quantizer.get_attributes()["levels"]
    per_channel = any(len(limit.get_partial_shape()) for limit in limits)  # which may be another axis behind
    # The other inputs of a concatenation may be quantized otherwise.
    if per_channel or operator.get_type_name() not in REARRANGING_OPERATORS - {"Concat"}:
        return
    for output in operator.outputs():
        for reader in output.get_target_inputs():
            if reader.get_node().get_type_name() in INT8_OPERATORS:
                reader.replace_source_output(ops.fake_quantize(output, *limits, levels).output(0))
            else:
                _quantize_behind(reader.get_node(), quantizer)
