# SPDX-License-Identifier: Apache-2.0
import pytest

from anomalib_vqflow.prediction.__main__ import main

from .toys import rows_of, save, write_toy


@pytest.fixture
def toy(tmp_path):
    return write_toy(tmp_path / "toy.xml")


@pytest.fixture
def images(tmp_path):
    """Folder of an image of every mode, all of different sizes, and what their scores must be."""
    values = {
        "a/gray.png": ("L", 51, (40, 30)),
        "a/color.JPG": ("RGB", 102, (64, 64)),
        "alpha.png": ("RGBA", 204, (20, 50)),
        "palette.bmp": ("P", 153, (33, 31)),
    }
    for name, (mode, value, size) in values.items():
        save(tmp_path / "images" / name, mode, value, size)
    return tmp_path / "images", {name: value / 255 for name, (_, value, _) in values.items()}


@pytest.fixture(scope="package")
def exported(trained, tmp_path_factory, onnx_steps):
    """The trained model as exported ones: ``model.xml`` and ``model.onnx``."""
    folder = tmp_path_factory.mktemp("exported")
    with onnx_steps():
        onnx = trained[0].to_onnx(folder, verbose=False)
        return trained[0].to_openvino(folder, onnx_kwargs={"verbose": False}), onnx


@pytest.fixture
def predict(tmp_path, capsys):
    """Run the command; get its exit code, the rows of its CSV, and what it printed."""

    def run(model, *arguments):
        code = main([str(model), *map(str, arguments), "--output", str(tmp_path / "out.csv")])
        return code, rows_of(tmp_path / "out.csv"), capsys.readouterr()

    return run


@pytest.fixture
def refusal(capsys):
    """What the command says to unusable arguments; it ends with status 2 and a sentence, without a traceback."""

    def refuse(*arguments):
        with pytest.raises(SystemExit) as error:
            main([str(argument) for argument in arguments])
        assert error.value.code == 2
        return " ".join(capsys.readouterr().err.rpartition("vqflow-predict: error: ")[-1].split())

    return refuse
