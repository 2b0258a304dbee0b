# SPDX-License-Identifier: Apache-2.0
"""benchmarks/peers.py compares exported models."""

import pytest
import torch

from tests.scripts import load_script, read_table

peers = load_script("benchmarks/peers.py")


@pytest.mark.slow
def test_each_model_has_a_line(tmp_path, capsys):
    """Each model has both times, file size, and a memory above that of OpenVINO alone; a second run exports nothing."""
    arguments = ["--threads", "1", "--rounds", "2", "--models", str(tmp_path), "--only", "vqflow_tiny", "FastFlow"]
    peers.main(arguments)
    rows = read_table(capsys.readouterr().out)
    alone = float(rows.pop("OpenVINO alone")[-1])
    assert rows.keys() == {"VQ-Flow (vqflow_tiny)", "FastFlow (resnet18)"}
    for exported, fixed, rate, size, memory in rows.values():
        assert float(rate) == pytest.approx(1e3 / min(float(exported), float(fixed)), rel=0.05)
        assert float(size) > 1
        assert float(memory) > alone + float(size)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.*")}
    assert peers.export_all(list(rows), tmp_path).keys() == rows.keys()
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.*")}


def test_a_model_that_cannot_be_exported_is_named(tmp_path, monkeypatch, capsys):
    """One model that fails leaves the others to be compared."""
    models = {"broken": lambda folder: 1 / 0, "good": lambda folder: folder / "model.xml"}
    monkeypatch.setattr(peers, "MODELS", models)
    assert peers.export_all(list(models), tmp_path) == {"good": tmp_path / "good" / "model.xml"}
    assert "broken could not be exported: ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.slow
def test_no_model_asks_the_network(monkeypatch):
    """Every peer is built with random weights."""

    def refuse(*_, **__):
        pytest.fail("a model downloads")

    monkeypatch.setattr("socket.socket.connect", refuse)
    for build in (peers.vqflow, peers.padim, peers.patch_core, peers.u_flow):
        assert isinstance(build(), torch.nn.Module)
    for kind in (peers.Fastflow, peers.ReverseDistillation):
        assert isinstance(peers.with_defaults(kind, pre_trained=False), kind)


def test_outputs_of_more_than_one_image_are_refused():
    """A model that was exported for two images, or gives NaN, is not compared."""
    for output in (torch.zeros(2, 1).numpy(), torch.full((1,), torch.nan).numpy()):
        with pytest.raises(RuntimeError, match="for one image"):
            peers.check({0: output})
