# SPDX-License-Identifier: Apache-2.0
"""Eight bits where they do no harm: NNCF compresses what computes most, and rounds only what that reads."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx
    import openvino

BACKBONE = "model.features"
"""Path of the backbone's room in the Lightning model."""

WHITENING = "model.flow/node_Conv"
"""What torch's exporter calls the whitening's convolutions, the only ones that are the flow's own and no subnet's."""

PRECISE_ROOMS = ("model.concept", "model.conditions", WHITENING, "model.flow.gaussians", "model.anomaly_map_generator")
"""Rooms that are a small part of the work, in which rounding changes codes, or shifts whole maps of scores."""

NUM_PRECISE_LAYERS = 3
"""Layers at the backbone's start that are left alone. Rounding all layers of MobileNetV2 moves whitened maps by 0.25 to
0.33 standard deviations, rounding all but these by 0.06 to 0.13."""

SMALLEST_NOISE = 0.1
"""Noise on the whitened maps in training, in their standard deviations, from which a flow bears such a backbone."""

PRODUCTS = {"Convolution", "GroupConvolution", "MatMul"}
"""Operators that compute in eight bits."""

MOVES = {"Concat", "Reshape", "Split", "Squeeze", "Transpose", "Unsqueeze", "VariadicSplit"}
"""Operators that only move values, and may stand between a product and the value that is rounded for it."""

SCOPES_KEY = "pkg.torch.onnx.name_scopes"
"""Where torch's exporter notes the modules that a node comes from, outermost first, and the node last."""


def name_by_room(model: "onnx.ModelProto") -> None:
    """Put the path of the module that it comes from before the name of every node of an ONNX model.

    OpenVINO keeps these names, so that profiles and compression can tell the rooms apart.

    Args:
        model: A model that torch exported.
    """
    for node in model.graph.node:
        for entry in node.metadata_props:
            if entry.key == SCOPES_KEY:
                modules = [scope.strip(" '\"") for scope in entry.value.strip("[]").split(",")][:-1]
                node.name = f"{modules[-1] if modules else ''}/{node.name}"


def precise_operators(model: "openvino.Model", *, precise_backbone: bool) -> list[str]:
    """Name what is not to be compressed.

    Args:
        model: Model whose nodes :func:`name_by_room` named.
        precise_backbone: Whether the whole backbone is among it, or only its start.

    Returns:
        Friendly names, without those of constants.

    Raises:
        ValueError: If no operator has the backbone's name.
    """
    operators = [o for o in model.get_ordered_ops() if o.get_type_name() not in {"Constant", "Parameter"}]
    names = [operator.get_friendly_name() for operator in operators]
    if not any(name.startswith(BACKBONE) for name in names):
        msg = f"No operator of the model is named {BACKBONE}; its names were lost in the conversion."
        raise ValueError(msg)
    backbone = [name for name in names if name.startswith(BACKBONE)]
    if not precise_backbone:
        products = [o.get_friendly_name() for o in operators if o.get_type_name() in PRODUCTS]
        backbone = [name for name in products if name.startswith(BACKBONE)][:NUM_PRECISE_LAYERS]
    return backbone + [name for name in names if name.startswith(PRECISE_ROOMS)]


def round_for_products_only(model: "openvino.Model") -> None:
    """Let all but convolutions and matrix products read values as they were before they were rounded.

    NNCF rounds what an operator writes for everything that reads it: the latents in every coupling, and the backbone's
    maps, whose smallest variations are what a whitening shows to the flow.

    Args:
        model: Model that NNCF quantized; it is changed in place.
    """
    for rounding in model.get_ops():
        if rounding.get_type_name() != "FakeQuantize":
            continue
        exact = rounding.input_value(0)
        if exact.get_node().get_type_name() != "Constant":  # weights stay rounded for all
            for reader in rounding.output(0).get_target_inputs():
                if not _is_for_products(reader.get_node()):
                    _round_behind(reader.get_node(), rounding)
                    reader.replace_source_output(exact)


def _round_behind(move: "openvino.Node", rounding: "openvino.Node") -> None:
    """Round what an operator moves to products, such as the half of the latents that a subnet sees."""
    import openvino.opset13 as ops

    limits, levels = rounding.input_values()[1:], rounding.get_attributes()["levels"]
    by_channel = any(len(limit.get_partial_shape()) for limit in limits)  # which may be another axis behind
    if by_channel or move.get_type_name() not in MOVES - {"Concat"}:  # other inputs of which may be rounded otherwise
        return
    for output in move.outputs():
        for reader in output.get_target_inputs():
            if reader.get_node().get_type_name() in PRODUCTS:
                reader.replace_source_output(ops.fake_quantize(output, *limits, levels).output(0))
            else:
                _round_behind(reader.get_node(), rounding)


def _is_for_products(reader: "openvino.Node") -> bool:
    """Whether an operator is a product, or only moves values for products."""
    if reader.get_type_name() in PRODUCTS:
        return True
    readers = [value.get_node() for output in reader.outputs() for value in output.get_target_inputs()]
    return reader.get_type_name() in MOVES and all(_is_for_products(node) for node in readers)


@contextmanager
def careful_compression(*, precise_backbone: bool) -> Iterator[None]:
    """Let NNCF spare :data:`PRECISE_ROOMS`, and round only for products, whoever calls it.

    anomalib's export neither says what to leave alone nor how to quantize.

    Args:
        precise_backbone: Whether the backbone is left alone, too. A normalizing flow learns how little the features of
            normal images vary. Eight bits move the features of a backbone by more, so that all images look anomalous,
            unless the flow was trained with as much noise.
    """
    import nncf

    names = ("compress_weights", "quantize", "quantize_with_accuracy_control")
    originals: dict[str, Callable[..., Any]] = {name: getattr(nncf, name) for name in names}

    def careful(function: Callable[..., Any], **settings: object) -> Callable[..., Any]:
        @wraps(function)
        def compress(model: "openvino.Model", *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            operators = precise_operators(model, precise_backbone=precise_backbone)
            scope = nncf.IgnoredScope(names=operators, validate=False)
            compressed = function(model, *args, ignored_scope=scope, **settings, **kwargs)
            round_for_products_only(compressed)
            return compressed

        return compress

    for name, function in originals.items():
        # Symmetric weights, asymmetric activations: what GELU and affine couplings write is not symmetric.
        settings = {} if name == "compress_weights" else {"preset": nncf.QuantizationPreset.MIXED}
        setattr(nncf, name, careful(function, **settings))
    try:
        yield
    finally:
        for name, function in originals.items():
            setattr(nncf, name, function)
