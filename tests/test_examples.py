# SPDX-License-Identifier: Apache-2.0
"""Every example and every block of code in the README runs."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from anomalib.data import AnomalibDataModule
from anomalib.deploy import OpenVINOInferencer
from jsonargparse import ArgumentParser
from lightning.pytorch import seed_everything
from PIL import Image

from .tiny import ARGUMENTS, tiny_root

ROOT = Path(__file__).parents[1]
README = re.sub(r"<!--.*?-->", "", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
FP32 = {"INFERENCE_PRECISION_HINT": "f32"}


def example(name):
    """Import an example, which has no package."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder with the images and with what examples/train.py writes."""
    folder = tmp_path_factory.mktemp("examples")
    root = tiny_root(folder / "products", size=(80, 72))
    seed_everything(0)
    options = ["--backbone", "vqflow_tiny", "--epochs", "1", "--input-size", "64"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        example("train").main([str(root), *options, "--results-dir", str(folder / "results")])
    return folder


@pytest.fixture(scope="module")
def run(folder):
    """Folder of the run, which anomalib names after model and data."""
    return folder / "results" / "VQFlow" / "products" / "v0"


# Training and prediction


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
    example("predict").main([str(run / "weights/lightning/model.ckpt"), str(images), "--results-dir", str(tmp_path)])
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.endswith(".png")]
    predict = OpenVINOInferencer(run / "weights/openvino/model.xml", device="CPU", config=FP32).predict
    assert [Path(path).name for *_, path in lines] == ["000.png", "001.png"]
    for score, label, path in lines:
        expected = predict(path)
        assert float(score) == pytest.approx(expected.pred_score.item(), abs=1e-3)
        assert label == ("anomalous" if expected.pred_label.item() else "normal")
    assert len(list(tmp_path.rglob("*.png"))) == 2


# The quick start


@pytest.mark.slow
def test_quick_start(tmp_path, monkeypatch, capsys):
    """The whole job leaves a table, a picture of each kind of defect, an overview, and a model; and says where."""
    monkeypatch.chdir(tmp_path)
    data = {"categories": ["cap", "gear", "tile"], "image_size": 64, "num_train": 4, "num_workers": 0}
    data |= {"num_test_good": 2, "num_test_defective": 7, "train_batch_size": 4, "root": str(tmp_path)}
    model = {**ARGUMENTS, "flow_steps": [1, 1, 1], "input_size": [64, 64], "visualizer": False}
    config = {
        "model": {"class_path": "anomalib_vqflow.VQFlow", "init_args": model},
        "data": {"class_path": "anomalib_vqflow.SyntheticProducts", "init_args": data},
        "trainer": {"max_epochs": 5, "check_val_every_n_epoch": 5, "accelerator": "cpu", "logger": False},
    }
    Path("tiny.yaml").write_text(yaml.safe_dump(config))
    example("quick_start").main(["--config", "tiny.yaml", "--epochs", "1", "--results-dir", "out"])

    run = Path("out/VQFlow/SyntheticProducts/v0")
    printed = capsys.readouterr().out
    assert "Results per category" in printed
    assert str(run.resolve()) in printed
    defects = {path.parent.name for path in tmp_path.glob("SyntheticProducts/*/gear/test/*/*.png")}
    assert {path.stem for path in run.glob("pictures/gear/*.png")} == defects
    assert Image.open(run / "pictures" / "gear" / "good.png").size == (4 * 64, 64)
    assert "gear        good" in printed
    assert (run / "overview.png").stat().st_size > 10_000
    for name in ("category_metrics.csv", "weights/lightning/model.ckpt", "weights/openvino/model.xml"):
        assert (run / name).exists()
        assert name in printed


def test_the_contour_surrounds_what_was_found():
    """The outline is red at the border of the mask and leaves its inside and the image around as they were."""
    mask = np.zeros((40, 40), dtype=bool)
    mask[10:30, 10:30] = True
    image = np.full((40, 40, 3), 90, dtype=np.uint8)
    drawn = example("quick_start").with_contour(image, mask)
    assert drawn[10, 20].tolist() == list(example("quick_start").RED)
    assert drawn[20, 20].tolist() == drawn[3, 3].tolist() == [90, 90, 90]
    assert image[10, 20].tolist() == [90, 90, 90]


# The README


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("python"))
def test_python_in_the_readme(block, tmp_path, monkeypatch):
    """The README's Python runs, here on small images, for an epoch, and without the download of weights."""
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)
    tiny_root(tmp_path / "products")
    code = (
        block.replace("input_size=256", "input_size=64").replace("epochs=20", "epochs=1").replace("epoch=20", "epoch=1")
    )
    assert code != block
    exec(compile(code, "README.md", "exec"), {})
    assert list(tmp_path.rglob("model.xml"))


def test_data_in_the_readme(tmp_path, monkeypatch):
    """The README's file that mixes data sets is a datamodule with all their categories."""
    monkeypatch.chdir(tmp_path)
    tiny_root(tmp_path / "products")
    (block,) = (block for block in blocks("yaml") if "datamodules" in block)
    parser = ArgumentParser()
    parser.add_subclass_arguments(AnomalibDataModule, "data")  # as anomalib's command line
    datamodule = parser.instantiate_classes(parser.parse_object({"data": yaml.safe_load(block)})).data
    assert datamodule.categories == ["candle", "pcb1", "bolt", "nut", "lid"]


def test_files_in_the_readme_exist():
    """Every file of the repository that the README names is there."""
    names = set(re.findall(r"\b(?:configs|examples|benchmarks|anomalib_vqflow|tests|docs)/[\w/]+\.\w+", README))
    assert "examples/quick_start.py" in names
    assert not [name for name in names if not (ROOT / name).exists()]
