# SPDX-License-Identifier: Apache-2.0
"""Only convolutions and matrix products read quantized values."""

import numpy as np
import openvino
import openvino.opset13 as ops

from anomalib_vqflow.export.fake_quantize import bypass_fake_quantize

LIMITS = [np.float32(limit) for limit in (-1, 1, -1, 1)]
ORDER = ops.constant(np.array([0, 1, 3, 2]))


def convolve(values, kernel):
    return ops.convolution(values, kernel, [1, 1], [0, 0], [0, 0], [1, 1])


def source(node, index=0):
    return node.input_value(index).get_node()


def test_only_int8_operators_read_quantized_values():
    """What a convolution and a sum read is quantized for the convolution; rearranging between makes no difference."""
    image = ops.parameter([1, 3, 4, 4], np.float32)
    quantized = ops.fake_quantize(image, *LIMITS, levels=256)
    kernel = ops.fake_quantize(ops.constant(np.ones((3, 3, 1, 1), np.float32)), *LIMITS, levels=255)
    halved = ops.multiply(kernel, np.float32(0.5))  # weights stay quantized for all
    moved, moved_for_both = ops.transpose(quantized, ORDER), ops.transpose(quantized, ORDER)
    convolved, behind, behind_both = (convolve(values, halved) for values in (quantized, moved, moved_for_both))
    total = ops.add(convolved, quantized)
    model = openvino.Model([total, behind, behind_both, ops.relu(moved_for_both)], [image])
    bypass_fake_quantize(model)

    assert source(total, 1) == image
    assert {node: source(node) for node in (convolved, moved, moved_for_both, halved)} == {
        convolved: quantized,
        moved: quantized,
        moved_for_both: image,
        halved: kernel,
    }
    again = source(behind_both)
    assert again.get_type_name() == "FakeQuantize"
    assert source(again) == moved_for_both
    assert again.input_values()[1:] == quantized.input_values()[1:]


def test_limits_per_channel_stay_where_they_are():
    """Behind a transposition, channels may be another axis: the convolution then reads exact values."""
    image = ops.parameter([1, 4, 4, 4], np.float32)
    limits = [np.full((1, 4, 1, 1), limit, np.float32) for limit in (-1, 1, -1, 1)]
    moved = ops.transpose(ops.fake_quantize(image, *limits, levels=256), ORDER)
    convolved = convolve(moved, ops.constant(np.ones((2, 4, 1, 1), np.float32)))
    bypass_fake_quantize(openvino.Model([convolved, ops.relu(moved)], [image]))
    assert source(convolved) == moved
    assert source(moved) == image


def test_concatenations_are_not_quantized_for_one_input():
    """What else is concatenated may have other limits, so that behind the concatenation no limits fit."""
    image = ops.parameter([1, 3, 4, 4], np.float32)
    joined = ops.concat([ops.fake_quantize(image, *LIMITS, levels=256), ops.exp(image)], axis=1)
    convolved = convolve(joined, ops.constant(np.ones((2, 6, 1, 1), np.float32)))
    bypass_fake_quantize(openvino.Model([convolved, ops.relu(joined)], [image]))
    assert source(convolved) == joined
    assert source(joined) == image
