# SPDX-License-Identifier: Apache-2.0
"""The suffix of a model decides which library loads it."""

from pathlib import Path

import pytest

from anomalib_vqflow.prediction.exported import ExportedModel
from anomalib_vqflow.prediction.loading import load_model
from anomalib_vqflow.prediction.predictions import ModelError
from anomalib_vqflow.prediction.trained import TrainedModel


def test_suffixes_decide(toy, trained, tmp_path):
    """In any case."""
    assert isinstance(load_model(toy), ExportedModel)
    assert isinstance(load_model(Path(trained[-1]), "cpu"), TrainedModel)
    (tmp_path / "MODEL.CKPT").write_bytes(Path(trained[-1]).read_bytes())
    assert isinstance(load_model(tmp_path / "MODEL.CKPT", "cpu"), TrainedModel)


@pytest.mark.parametrize(("name", "message"), [("a.xml", "There is no model"), ("a.pt", "is no model; give a")])
def test_other_files_are_refused(tmp_path, name, message):
    """By their names."""
    (tmp_path / "a.pt").touch()
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path / name)
