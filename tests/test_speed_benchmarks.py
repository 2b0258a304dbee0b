# SPDX-License-Identifier: Apache-2.0
"""benchmarks/peers.py and benchmarks/folder_speed.py run, and compare what they say they compare."""

import importlib.util
import re
from pathlib import Path

import pytest
from lightning.pytorch import Trainer, seed_everything

from .data.folders import make_image
from .tiny import tiny_model

ROOT = Path(__file__).parents[1]


def benchmark(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_peers_prints_a_line_per_model(tmp_path, capsys):
    """Each model has both times, file size, and a memory above that of OpenVINO alone; a second run exports nothing."""
    peers = benchmark("peers")
    arguments = ["--threads", "1", "--rounds", "2", "--models", str(tmp_path), "--only", "vqflow_tiny", "FastFlow"]
    peers.main(arguments)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")][2:]
    rows = {cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in (line.split("|") for line in lines)}
    alone = float(rows.pop("OpenVINO alone")[-1])
    assert rows.keys() == {"VQ-Flow, light (vqflow_tiny)", "FastFlow (resnet18)"}
    for exported, fixed, rate, size, memory in rows.values():
        assert float(rate) == pytest.approx(1e3 / min(float(exported), float(fixed)), rel=0.05)
        assert float(size) > 1
        assert float(memory) > alone + float(size)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.*")}
    assert peers.export_all(list(rows), tmp_path).keys() == rows.keys()
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.*")}


def test_a_model_that_cannot_be_exported_is_named(tmp_path, monkeypatch, capsys):
    """One model that fails leaves the others to be compared."""
    peers = benchmark("peers")
    monkeypatch.setattr("timm.models._builder.load_pretrained", None)  # restored after the test
    models = {"broken": lambda folder: 1 / 0, "good": lambda folder: folder / "model.xml"}
    monkeypatch.setattr(peers, "MODELS", models)
    assert peers.export_all(list(models), tmp_path) == {"good": tmp_path / "good" / "model.xml"}
    assert "broken could not be exported: ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.slow
def test_folder_speed_compares_equal_scores(tmp_path, capsys):
    """All three ways are timed, and their scores are the same."""
    seed_everything(0)
    model = tiny_model().eval()
    trainer = Trainer(logger=False, accelerator="cpu")
    trainer.strategy.connect(model)
    (tmp_path / "run/weights/lightning").mkdir(parents=True)
    trainer.save_checkpoint(tmp_path / "run/weights/lightning/model.ckpt")
    model.to_openvino(tmp_path / "run", onnx_kwargs={"verbose": False})
    for number in range(3):
        make_image(tmp_path / "images" / f"{number}.png", 60 + number)
    arguments = [str(tmp_path / "run"), str(tmp_path / "images"), "--threads", "1", "--rounds", "1"]
    benchmark("folder_speed").main(arguments)
    printed = capsys.readouterr().out
    for name in ("examples/folder_inference.py", "OpenVINOInferencer", "Engine.predict"):
        assert re.search(rf"{name}: [\d.]+ images/s", printed)
    assert "3 images, 1 threads" in printed
