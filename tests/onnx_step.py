# SPDX-License-Identifier: Apache-2.0
"""Most of the time of an export goes into its ONNX model, which exports of one model share here."""

import hashlib
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from filelock import FileLock

from anomalib_vqflow import VQFlow


@contextmanager
def one_onnx_step(folder):
    """Within, make the ONNX model once for the same model and arguments, also in processes that share the folder."""
    make = VQFlow._to_onnx

    def kept_or_made(self, export_root, model_file_name, input_size, camera_input, is_result, **arguments):
        given = (model_file_name, input_size, camera_input, is_result)
        kept = folder / fingerprint(self, given, arguments)
        folder.mkdir(exist_ok=True)
        with FileLock(f"{kept}.lock"):
            if kept.exists():
                self._prepare_export()
                self.eval()
            else:
                make(self, f"{kept}.part", *given, **arguments)
                os.rename(f"{kept}.part", kept)
        (path,) = Path(shutil.copytree(kept, export_root, dirs_exist_ok=True)).rglob("*.onnx")
        return path

    with patch.object(VQFlow, "_to_onnx", kept_or_made):
        yield


def fingerprint(model, *arguments):
    """Tell models and arguments apart."""
    post = model.post_processor
    settings = [getattr(post, name) for name in getattr(post, "_checkpoint_config_keys", ())]
    found = hashlib.sha256(repr((model, model.hparams, settings, arguments)).encode())
    for name, value in model.state_dict().items():
        found.update(name.encode() + value.numpy(force=True).tobytes())
    return found.hexdigest()
