# SPDX-License-Identifier: Apache-2.0
import warnings

import pytest

from anomalib_vqflow import VQFlow
from anomalib_vqflow.products import save_checkpoint


def test_a_saved_model_tells_labels(model, tmp_path):
    """It is as complete as the one that was loaded: loading it warns of nothing."""
    save_checkpoint(model, tmp_path / "new" / "model.ckpt")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*within a training.*")
        loaded = VQFlow.load_from_checkpoint(tmp_path / "new" / "model.ckpt", map_location="cpu")
    assert loaded.post_processor.image_threshold == model.post_processor.image_threshold


def test_no_file_is_overwritten(model, tmp_path):
    """Another name is asked for."""
    path = tmp_path / "model.ckpt"
    path.write_text("something")
    with pytest.raises(FileExistsError, match="choose another name"):
        save_checkpoint(model, path)
    assert path.read_text() == "something"
