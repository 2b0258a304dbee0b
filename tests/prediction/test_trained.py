# SPDX-License-Identifier: Apache-2.0
"""Checkpoints predict as their model does, and other files are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.models import Padim
from PIL import Image

from anomalib_vqflow.data.files import UNREADABLE
from anomalib_vqflow.prediction.predictions import ModelError
from anomalib_vqflow.prediction.trained import TrainedModel
from tests.tiny import tiny_engine, tiny_model


def test_a_checkpoint_predicts_what_its_model_does(trained, root):
    """Scores, labels, maps, masks and concepts."""
    model, path = TrainedModel(Path(trained[-1]), device="CPU"), root / "bolt" / "test" / "hole" / "000.png"
    picture = model.read(path)
    found = model.start(picture)()
    expected = trained[0].cpu().eval()(torch.from_numpy(picture.pixels).permute(2, 0, 1)[None])
    assert found.score == pytest.approx(expected.pred_score.item(), abs=1e-5)
    assert (found.label, found.threshold) == (bool(expected.pred_label.item()), 0.5)
    assert found.concept == expected.concept.item()
    np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map[0, 0], atol=1e-5)
    assert (found.mask == expected.pred_mask[0, 0].numpy()).all()


def test_a_sensitivity_moves_the_threshold(trained, root):
    """The one that is told, too."""
    model = TrainedModel(Path(trained[-1]), device="cpu")
    model._model.post_processor.image_sensitivity = 0.8
    found = model.start(model.read(root / "bolt" / "test" / "good" / "000.png"))()
    assert found.threshold == pytest.approx(0.2)
    assert found.label == (found.score > found.threshold)


def test_a_model_without_a_threshold_tells_none(trained, root):
    """Nor labels and masks."""
    model = TrainedModel(Path(trained[-1]), device="cpu")
    model._model.post_processor.reset_()
    found = model.start(model.read(root / "bolt" / "test" / "good" / "000.png"))()
    assert (found.label, found.threshold, found.mask) == (None, None, None)


def test_images_are_read_by_the_range_of_the_training(trained, tmp_path):
    """Without one, 16 bits are refused."""
    Image.fromarray(np.full((8, 9), 1365, dtype=np.uint16)).save(tmp_path / "a.png")
    model = TrainedModel(Path(trained[-1]), device="cpu")
    with pytest.raises(UNREADABLE, match=r"a\.png .*16 bits"):
        model.read(tmp_path / "a.png")
    model._model.bit_depth = 12
    np.testing.assert_allclose(model.read(tmp_path / "a.png").pixels, np.full((8, 9, 3), 1 / 3), atol=1e-6)


def test_threads_are_those_asked_for(trained):
    """As in OpenVINO."""
    before = torch.get_num_threads()
    TrainedModel(Path(trained[-1]), device="cpu", num_threads=before + 1)
    assert torch.get_num_threads() == before + 1
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precision": "bf16"}, "computed in f32, not in bf16; export the model"),
        ({"device": "toaster"}, "torch cannot use the device toaster"),
    ],
)
def test_what_torch_cannot_do_is_refused(trained, arguments, message):
    """By its name."""
    with pytest.raises(ModelError, match=message):
        TrainedModel(Path(trained[-1]), **arguments)


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    """By their names."""
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    torch.save({"state_dict": {}}, tmp_path / "bare.ckpt")
    for name in ("text.ckpt", "bare.ckpt"):
        with pytest.raises(ModelError, match=rf"Cannot load \S*{name}"):
            TrainedModel(tmp_path / name)


def test_checkpoints_of_other_models_are_refused(tmp_path):
    """With the name of the file."""
    engine = tiny_engine(tmp_path)
    engine._setup_trainer(tiny_model())
    engine.trainer.strategy.connect(Padim(pre_trained=False))
    engine.trainer.save_checkpoint(tmp_path / "padim.ckpt")
    with pytest.raises(ModelError, match=r"Cannot load \S*padim\.ckpt"):
        TrainedModel(tmp_path / "padim.ckpt")
