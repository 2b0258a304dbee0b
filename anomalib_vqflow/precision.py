# SPDX-License-Identifier: Apache-2.0
"""Lower precision where it does no harm: NNCF compresses everything but the backbone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx
    import openvino

BACKBONE = "model.features"
"""Path of the backbone's room in the Lightning model."""

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


def backbone_operators(model: "openvino.Model") -> list[str]:
    """Name what the backbone computes: its own operators, and all before them.

    Args:
        model: Model whose nodes :func:`name_by_room` named.

    Returns:
        Friendly names, without those of constants.

    Raises:
        ValueError: If no operator has the backbone's name.
    """
    pending = [operator for operator in model.get_ops() if operator.get_friendly_name().startswith(BACKBONE)]
    if not pending:
        msg = f"No operator of the model is named {BACKBONE}; its names were lost in the conversion."
        raise ValueError(msg)
    found = {}
    while pending:
        operator = pending.pop()
        name = operator.get_friendly_name()
        if name not in found:
            found[name] = operator.get_type_name()
            pending += [value.get_node() for value in operator.input_values()]
    return [name for name, kind in found.items() if kind not in {"Constant", "Parameter"}]


@contextmanager
def precise_backbone() -> Iterator[None]:
    """Let NNCF leave the backbone as it is, whoever calls it.

    A normalizing flow learns how little the features of normal images vary. Eight bits move the features of a backbone
    by more, so that all images look anomalous. The rooms behind it bear eight bits well. anomalib's export does not say
    what to leave alone.
    """
    import nncf

    names = ("compress_weights", "quantize", "quantize_with_accuracy_control")
    originals: dict[str, Callable[..., Any]] = {name: getattr(nncf, name) for name in names}

    def sparing(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def compress(model: "openvino.Model", *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            scope = nncf.IgnoredScope(names=backbone_operators(model), validate=False)
            return function(model, *args, ignored_scope=scope, **kwargs)

        return compress

    for name, function in originals.items():
        setattr(nncf, name, sparing(function))
    try:
        yield
    finally:
        for name, function in originals.items():
            setattr(nncf, name, function)
