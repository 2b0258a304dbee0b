# SPDX-License-Identifier: Apache-2.0
"""Load a model of any kind, and only the libraries that its kind needs."""

from pathlib import Path

from .predictions import Model, ModelError

EXPORTED = frozenset({".onnx", ".xml"})
TRAINED = ".ckpt"


def load_model(
    path: Path, device: str | None = None, precision: str = "f32", num_threads: int = 0, tells_raw: bool = False
) -> Model:
    """Load a model.

    Args:
        path: ``model.xml``, ``model.onnx`` or ``model.ckpt``.
        device: Device of OpenVINO, or of torch; None for the CPU in OpenVINO, and for a GPU in torch if there is one.
        precision: Type that is computed in.
        num_threads: Threads that compute; 0 for the library's choice.
        tells_raw: Whether predictions shall have raw scores and maps; those of a checkpoint always do.

    Returns:
        The model.

    Raises:
        ModelError: If there is no such model, or it cannot be used.
    """
    suffix = path.suffix.lower()
    if not path.is_file():
        msg = f"There is no model {path}."
        raise ModelError(msg)
    if suffix not in {*EXPORTED, TRAINED}:
        msg = f"{path} is no model; give a model.xml or model.onnx of an export, or a model.ckpt of a training."
        raise ModelError(msg)
    try:
        if suffix in EXPORTED:
            from .exported import ExportedModel

            return ExportedModel(path, device or "CPU", precision, num_threads, tells_raw)
        from .trained import TrainedModel

        return TrainedModel(path, device, precision, num_threads)
    except ImportError as error:
        msg = f"{path} needs a library that is not installed ({error}); install it."
        raise ModelError(msg) from error
