# SPDX-License-Identifier: Apache-2.0
"""Which module a node of an exported graph comes from: written into its name, and read from there."""

from collections.abc import Iterable
from pathlib import Path

from torch import nn

SCOPES_KEY = "pkg.torch.onnx.name_scopes"
"""Where torch's exporter notes the modules that a node comes from, outermost first, and the node last."""


def name_nodes_by_module(path: Path) -> None:
    """Prefix the name of every node of an ONNX file with the path of the module that it comes from.

    OpenVINO keeps names, unlike metadata, so that profiles and compression can tell modules apart.

    Args:
        path: A file that torch exported, changed in place; its weights may be in other files.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        for entry in node.metadata_props:
            if entry.key == SCOPES_KEY:
                modules = [scope.strip(" '\"") for scope in entry.value.strip("[]").split(",")][:-1]
                node.name = f"{modules[-1] if modules else ''}/{node.name}"
    onnx.save(model, path)


def paths_of(model: nn.Module, classes: tuple[type[nn.Module], ...]) -> list[str]:
    """List the paths of all modules of some classes.

    Args:
        model: The module that was exported.
        classes: Classes of modules inside.

    Returns:
        Paths, as in ``named_modules()``.

    Example:
        >>> paths_of(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), (nn.Linear,))
        ['0', '2']
    """
    return [path for path, module in model.named_modules() if isinstance(module, classes)]


def is_in_module(name: str, paths: Iterable[str]) -> bool:
    """Tell whether a node comes from one of some modules, or from a module inside.

    Args:
        name: Name of the node; what OpenVINO appends to it makes no difference.
        paths: Paths of modules.

    Returns:
        Whether it does.

    Example:
        >>> is_in_module("model.levels.1.conv/node_7", ["model.levels.1"])
        True
        >>> is_in_module("model.levels.10/node_7", ["model.levels.1"])
        False
    """
    module, _, _ = name.partition("/")
    return any(f"{module}.".startswith(f"{path}.") for path in paths)
