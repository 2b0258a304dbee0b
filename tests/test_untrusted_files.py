# SPDX-License-Identifier: Apache-2.0
"""Files of strangers: no code of theirs runs, and errors name them."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from anomalib.deploy import ExportType
from PIL import EpsImagePlugin, Image, PngImagePlugin

from anomalib_vqflow import VQFlow
from anomalib_vqflow.data.files import UNREADABLE
from anomalib_vqflow.data.reading import read_image, read_mask
from anomalib_vqflow.prediction.__main__ import main as predict
from anomalib_vqflow.prediction.loading import load_model
from anomalib_vqflow.prediction.pixels import read
from anomalib_vqflow.prediction.predictions import ModelError
from anomalib_vqflow.report.__main__ import main as report

from .prediction.toys import write_toy
from .tiny import tiny_data, tiny_engine, tiny_model


class Trap:
    """What leaves a file behind when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "code has run"


@pytest.fixture(params=["archive", "bare"])
def trap(request, trained, tmp_path, marker):
    """A checkpoint that loads and runs code, as torch writes it today and as a pickle without an archive."""
    path = tmp_path / "trap.ckpt"
    content = {**torch.load(trained[2], weights_only=True), "trap": Trap(marker)}
    if request.param == "archive":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    return path


def test_the_trap_works(trap, marker):
    """Else the others prove nothing."""
    if zipfile.is_zipfile(trap):
        torch.load(trap, weights_only=False)
    else:
        pickle.loads(trap.read_bytes())
    assert marker.exists()


@pytest.mark.parametrize("verb", ["fit", "train", "validate", "test", "predict", "export"])
def test_an_engine_runs_no_code_of_a_checkpoint(trap, marker, root, tmp_path, verb):
    """In every verb that takes one."""
    arguments = {"export_type": ExportType.TORCH} if verb == "export" else {"datamodule": tiny_data(root)}
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        getattr(tiny_engine(tmp_path), verb)(tiny_model(), ckpt_path=trap, **arguments)
    assert not marker.exists()


@pytest.mark.parametrize("as_address", [False, True])
def test_loading_runs_no_code_of_a_checkpoint(trap, marker, as_address):
    """Nor of one that fsspec opens, which Lightning would trust."""
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        VQFlow.load_from_checkpoint(trap.as_uri() if as_address else trap)
    assert not marker.exists()


@pytest.mark.parametrize("command", [predict, report])
def test_commands_run_no_code_of_a_checkpoint(trap, marker, root, tmp_path, capsys, command):
    """They end with a sentence that names the file."""
    data = [str(root)] if command is predict else ["--root", str(root)]
    with pytest.raises(SystemExit) as error:
        command([str(trap), *data, "--output", str(tmp_path / "out.csv")])
    assert error.value.code == 2
    assert "trap.ckpt" in capsys.readouterr().err
    assert not marker.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".ckpt"])
def test_weights_run_no_code(trap, marker, suffix):
    """Whatever the file is called."""
    with pytest.raises(ValueError, match=r"trap\S* is no readable state dict"):
        tiny_model(pre_trained=trap.rename(trap.with_suffix(suffix)))
    assert not marker.exists()


@pytest.mark.parametrize("key", ["_instantiator", "_class_path"])
def test_a_checkpoint_names_no_function_that_is_called(trained, tmp_path, key):
    """Lightning's ways to build another class are closed, or without effect."""
    content = torch.load(trained[2], weights_only=True)
    content["hyper_parameters"][key] = "tests.test_untrusted_files.never"
    torch.save(content, tmp_path / "names.ckpt")
    if key == "_instantiator":
        with pytest.raises(ValueError, match="not in the allowlist"):
            VQFlow.load_from_checkpoint(tmp_path / "names.ckpt")
    else:
        assert type(VQFlow.load_from_checkpoint(tmp_path / "names.ckpt")) is VQFlow


def test_a_checkpoint_names_no_transform_that_is_called(trained, tmp_path):
    """anomalib builds those of torchvision only."""
    content = torch.load(trained[2], weights_only=True)
    assert content["anomalib_pre_processor_config"]["transform"]["class_path"]
    content["anomalib_pre_processor_config"]["transform"] = {"class_path": "subprocess.Popen", "init_args": {}}
    torch.save(content, tmp_path / "names.ckpt")
    with pytest.raises(ValueError, match=r"subprocess\.Popen"):
        VQFlow.load_from_checkpoint(tmp_path / "names.ckpt")


@pytest.mark.parametrize("weights", [True, "/etc/hostname"])
def test_a_checkpoint_does_not_say_which_weights_are_fetched(trained, tmp_path, weights):
    """Its own are all that is needed; ``pre_trained`` in it is passed over."""
    content = torch.load(trained[2], weights_only=True)
    content["hyper_parameters"]["pre_trained"] = weights
    torch.save(content, tmp_path / "names.ckpt")
    assert VQFlow.load_from_checkpoint(tmp_path / "names.ckpt").hparams["pre_trained"] is False


@pytest.mark.parametrize("key", ["hyper_parameters", "anomalib_pre_processor_config", "vqflow", "product_counts"])
@pytest.mark.parametrize("command", [predict, report])
def test_commands_name_a_checkpoint_of_odd_content(trained, root, tmp_path, capsys, key, command):
    """They end with a sentence."""
    content = torch.load(trained[2], weights_only=True)
    (content["vqflow"] if key == "product_counts" else content)[key] = "odd"
    torch.save(content, tmp_path / "odd.ckpt")
    if (key, command) == ("product_counts", report):
        pytest.skip("the report does not read them")
    data = [str(root)] if command is predict else ["--root", str(root)]
    with pytest.raises(SystemExit) as error:
        command([str(tmp_path / "odd.ckpt"), *data, "--output", str(tmp_path / "out.csv")])
    assert error.value.code == 2
    assert "odd.ckpt" in capsys.readouterr().err


@pytest.mark.parametrize(("place", "text"), [(["vqflow"], "{"), (["framework", "bit_depth"], "many")])
def test_an_export_that_tells_nonsense_of_itself_is_refused(tmp_path, place, text):
    """By its name."""
    model = openvino.Core().read_model(write_toy(tmp_path / "toy.xml"))
    model.set_rt_info(text, place)
    openvino.save_model(model, tmp_path / "odd.xml")
    with pytest.raises(ModelError, match=r"odd\.xml"):
        load_model(tmp_path / "odd.xml")


READERS = [read_image, read_mask, lambda path: read(Path(path))]


@pytest.mark.parametrize("reader", READERS)
def test_a_large_image_in_a_small_file_is_refused(tmp_path, reader):
    """Before its pixels take memory: 900 million of them in a file of some bytes."""
    path = tmp_path / "bomb.png"
    header = np.array([30_000, 30_000], dtype=">u4").tobytes() + bytes([8, 0, 0, 0, 0])
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        PngImagePlugin.putchunk(file, b"IHDR", header)
        PngImagePlugin.putchunk(file, b"IDAT", bytes(100))
        PngImagePlugin.putchunk(file, b"IEND", b"")
    with pytest.raises(UNREADABLE, match="decompression bomb"):
        reader(path)


@pytest.mark.parametrize("reader", READERS)
def test_postscript_is_not_run(tmp_path, monkeypatch, reader):
    """Pillow hands it to Ghostscript, whatever the file is called."""
    path, ran = tmp_path / "image.png", []
    Image.new("RGB", (8, 8)).save(path, format="EPS")
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: ran.append(True) or Image.new("RGB", (8, 8)).im)
    with Image.open(path) as image:
        image.load()
    assert ran.pop()
    with pytest.raises(UNREADABLE):
        reader(path)
    assert not ran
