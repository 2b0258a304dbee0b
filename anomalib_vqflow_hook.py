# SPDX-License-Identifier: Apache-2.0
"""Entry point in the group ``torch.backends``: makes anomalib find VQ-Flow without an import.

torch calls it at ``import torch`` and fails if it fails. It stands outside the package and is copied even into an
editable install, so that torch still works where the package has been moved or deleted by hand.
``TORCH_DEVICE_BACKEND_AUTOLOAD=0`` switches it off.
"""

import logging
from importlib import import_module


def register() -> None:
    """Import the package, which waits for anomalib; log a warning if it can't be imported."""
    try:
        import_module("anomalib_vqflow").register()
    except Exception as error:  # noqa: BLE001  (torch must work without us)
        logging.getLogger(__name__).warning(
            "anomalib-vqflow is installed but can't be imported, so anomalib does not know VQFlow: %s: %s. "
            "Reinstall it, or remove it with `pip uninstall anomalib-vqflow`.",
            type(error).__name__,
            error,
        )
