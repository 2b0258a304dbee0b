# SPDX-License-Identifier: Apache-2.0
"""Every example runs."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from anomalib.deploy import OpenVINOInferencer
from lightning.pytorch import seed_everything
from PIL import Image

from .scripts import load_script
from .tiny import ARGUMENTS, tiny_root

FP32 = {"INFERENCE_PRECISION_HINT": "f32"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder with the images and with what examples/train.py writes."""
    folder = tmp_path_factory.mktemp("examples")
    root = tiny_root(folder / "products", size=(80, 72))
    seed_everything(0)
    options = ["--backbone", "vqflow_tiny", "--epochs", "1", "--input-size", "64"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        load_script("examples/train.py").main([str(root), *options, "--results-dir", str(folder / "results")])
    return folder


@pytest.fixture(scope="module")
def run(folder):
    """Folder of the run, which anomalib names after model and data."""
    return folder / "results" / "VQFlow" / "products" / "v0"


@pytest.mark.slow
def test_train(run):
    """Training reports per category and leaves a checkpoint and an exported model."""
    assert (run / "category_metrics.csv").read_text().startswith("category,")
    assert (run / "weights" / "lightning" / "model.ckpt").exists()
    assert (run / "weights" / "openvino" / "model.xml").exists()


@pytest.mark.slow
def test_predict(folder, run, capsys, tmp_path):
    """A folder of images is scored from the checkpoint as by the exported model, a line each."""
    images = folder / "products" / "nut" / "test" / "hole"
    arguments = [str(run / "weights/lightning/model.ckpt"), str(images), "--results-dir", str(tmp_path)]
    load_script("examples/predict.py").main(arguments)
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.endswith(".png")]
    predict = OpenVINOInferencer(run / "weights/openvino/model.xml", device="CPU", config=FP32).predict
    assert [Path(path).name for *_, path in lines] == ["000.png", "001.png"]
    for score, label, path in lines:
        expected = predict(path)
        assert float(score) == pytest.approx(expected.pred_score.item(), abs=1e-3)
        assert label == ("anomalous" if expected.pred_label.item() else "normal")
    assert len(list(tmp_path.rglob("*.png"))) == 2


@pytest.mark.slow
def test_quick_start(tmp_path, monkeypatch, capsys):
    """The whole job leaves a table, an image of each kind of defect, an overview, and a model; and says where."""
    monkeypatch.chdir(tmp_path)
    data = {"categories": ["cap", "gear", "tile"], "image_size": 64, "num_train": 4, "num_workers": 0}
    data |= {"num_test_good": 2, "num_test_defective": 7, "train_batch_size": 4, "root": str(tmp_path)}
    model = {**ARGUMENTS, "flow_steps": [1, 1, 1], "input_size": [64, 64], "visualizer": False}
    config = {
        "model": {"class_path": "anomalib_vqflow.VQFlow", "init_args": model},
        "data": {"class_path": "anomalib_vqflow.SyntheticProducts", "init_args": data},
        "trainer": {"max_epochs": 5, "accelerator": "cpu", "logger": False},
    }
    Path("tiny.yaml").write_text(yaml.safe_dump(config))
    load_script("examples/quick_start.py").main(["--config", "tiny.yaml", "--epochs", "1", "--results-dir", "out"])

    run = Path("out/VQFlow/SyntheticProducts/v0")
    printed = capsys.readouterr().out
    assert "Results per category" in printed
    assert str(run.resolve()) in printed
    defects = {path.parent.name for path in tmp_path.glob("SyntheticProducts/*/gear/test/*/*.png")}
    assert {path.stem for path in run.glob("defects/gear/*.png")} == defects
    for path in run.glob("defects/*/*.png"):
        assert Image.open(path).size == (4 * 256, 256)
    assert "gear        good" in printed
    for name in ("category_metrics.csv", "overview.png", "weights/lightning/model.ckpt", "weights/openvino/model.xml"):
        assert (run / name).exists()
        assert name in printed


def test_the_overview_shows_one_defect_of_each_product():
    """Two columns of panels, a caption above each; good images and further defects are left out."""
    quick_start = load_script("examples/quick_start.py")
    panels = {color: Image.new("RGB", (40, 10), color) for color in ("red", "lime", "blue", "black")}
    shown = [("cap", "crack", "red"), ("gear", "dent", "lime"), ("tile", "hole", "blue")]
    hidden = [("cap", "good", "black"), ("gear", "scratch", "black")]
    inspected = [
        quick_start.Inspected(category, defect, 0.5, is_anomalous=True, panels=panels[color])
        for category, defect, color in sorted(shown + hidden)
    ]
    overview = np.asarray(quick_start.draw_overview(inspected))
    height = quick_start.CAPTION_HEIGHT + 10
    assert overview.shape == (2 * height, 2 * 40, 3)
    assert overview[height - 1, 0].tolist() == [255, 0, 0]
    assert overview[height - 1, 40].tolist() == [0, 255, 0]
    assert overview[2 * height - 1, 0].tolist() == [0, 0, 255]
    assert (overview[: height - 10] == 255).any()
    assert (overview[: height - 10] < 128).any()  # the captions


def test_what_was_found_is_outlined(tmp_path, monkeypatch):
    """The last panel is red at the border of the predicted mask, and the first as the image is."""
    quick_start = load_script("examples/quick_start.py")
    path = tmp_path / "000.png"
    Image.new("RGB", (64, 64), (90, 90, 90)).save(path)
    mask = np.zeros((1, 64, 64), dtype=bool)
    mask[:, 16:48, 16:48] = True

    class Prediction:
        anomaly_map, pred_mask = mask.astype(np.float32), mask
        pred_score, pred_label = np.array([0.75]), np.array([True])

    class Inferencer:
        def __init__(self, *_, **__):
            self.predict = lambda _: Prediction

    class Data:
        class test_data:  # noqa: N801
            samples = pd.DataFrame(
                {"category": ["cap"], "label": ["crack"], "image_path": [str(path)], "mask_path": [""]}
            )

    monkeypatch.setattr(quick_start, "OpenVINOInferencer", Inferencer)
    ((category, defect, score, is_anomalous, panels),) = quick_start.inspect(Path("model.xml"), Data)
    assert (category, defect, score, is_anomalous) == ("cap", "crack", 0.75, True)
    image, truth, _, found = np.split(np.asarray(panels).astype(int), 4, axis=1)
    assert image[128, 128].tolist() == found[128, 128].tolist() == [90, 90, 90]
    assert not truth[128, 128].any()
    border = found[60:70, 128]
    assert (border[:, 0] > 200).any()
    assert (border[border[:, 0] > 200][:, 1:] < 60).all()
