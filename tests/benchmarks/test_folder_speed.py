# SPDX-License-Identifier: Apache-2.0
"""benchmarks/folder_speed.py compares ways that give the same scores."""

import re

import pytest
from lightning.pytorch import Trainer, seed_everything

from tests.data.folders import make_image
from tests.scripts import load_script
from tests.tiny import tiny_model

folder_speed = load_script("benchmarks/folder_speed.py")
WAYS = ("vqflow-predict", "OpenVINOInferencer", "Engine.predict")


@pytest.fixture
def images(tmp_path):
    for number in range(3):
        make_image(tmp_path / "images" / f"{number}.png", 60 + number)
    return tmp_path / "images"


@pytest.mark.slow
def test_all_ways_are_timed_and_agree(tmp_path, images, capsys):
    """Each has a rate, after its scores were found to be those of the engine."""
    seed_everything(0)
    model = tiny_model().eval()
    trainer = Trainer(logger=False, accelerator="cpu")
    trainer.strategy.connect(model)
    (tmp_path / "run/weights/lightning").mkdir(parents=True)
    trainer.save_checkpoint(tmp_path / "run/weights/lightning/model.ckpt")
    model.to_openvino(tmp_path / "run", onnx_kwargs={"verbose": False})
    folder_speed.main([str(tmp_path / "run"), str(images), "--threads", "1", "--rounds", "1"])
    printed = capsys.readouterr().out
    assert all(re.search(rf"{name}: [\d.]+ images/s", printed) for name in WAYS)
    assert "3 images, 1 threads" in printed


@pytest.mark.parametrize("change", [lambda scores: scores.popitem(), lambda scores: scores.update({"1.png": 0.6})])
def test_ways_that_disagree_are_an_error(images, monkeypatch, change):
    """One that loses an image, or gives another score, ends the comparison with its name."""
    right = {"0.png": 0.25, "1.png": 0.5}
    wrong = dict(right)
    change(wrong)
    for name, scores in (("by_command", right), ("by_inferencer", wrong), ("by_engine", right)):
        monkeypatch.setattr(folder_speed, name, lambda *_, scores=scores: lambda: scores)
    with pytest.raises(RuntimeError, match="OpenVINOInferencer disagrees"):
        folder_speed.main(["run", str(images), "--rounds", "1"])
