# SPDX-License-Identifier: Apache-2.0
"""examples/folder_inference.py scores every readable image as anomalib would, names the others, and draws."""

import csv
import re
from pathlib import Path

import numpy as np
import openvino
import pytest
from anomalib.data.utils import read_image
from anomalib.deploy import OpenVINOInferencer
from lightning.pytorch import seed_everything
from openvino import opset13 as ops
from PIL import Image

from .scripts import load_script
from .tiny import tiny_model, tiny_root

FP32 = {"INFERENCE_PRECISION_HINT": "f32"}


@pytest.fixture(scope="module")
def example():
    return load_script("examples/folder_inference.py")


def write_toy(path, concept=None, shape=(-1, 3, -1, -1), labels=True):
    """Write a model that scores an image by its mean; its concept, a tensor or an output, is its brightest value."""
    image = ops.parameter(list(shape), np.float32, name="input")
    score = ops.reduce_mean(image, np.array([1, 2, 3]), keep_dims=False)
    brightest = ops.reduce_max(image, np.array([1, 2, 3]), keep_dims=False)
    index = ops.convert(ops.round(ops.multiply(brightest, np.float32(10)), "half_to_even"), "i64")
    index.output(0).set_names({"concept"} if concept else set())
    # Adding a value that is zero keeps the concept in the model even where it is no output.
    zero = ops.multiply(ops.convert(index, "f32"), np.float32(0))
    outputs = {
        "pred_score": ops.add(score, zero),
        "pred_label": ops.greater(score, np.float32(0.5)),
        "anomaly_map": ops.reduce_mean(image, np.array([1]), keep_dims=True),
    }
    if not labels:
        outputs.pop("pred_label")
    for name, node in outputs.items():
        node.output(0).set_names({name})
    results = [*outputs.values(), *([index] if concept == "output" else [])]
    openvino.save_model(openvino.Model(results, [image]), path, compress_to_fp16=False)
    return path


def save(path, mode, value, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).convert(mode).save(path)


def rows_of(path):
    return list(csv.DictReader(path.open()))


@pytest.fixture
def images(tmp_path):
    """Folder of an image of every mode, all of different sizes, and what their scores must be."""
    values = {
        "a/gray.png": ("L", 51, (40, 30)),
        "a/color.JPG": ("RGB", 102, (64, 64)),
        "alpha.png": ("RGBA", 204, (20, 50)),
    }
    values["palette.bmp"] = ("P", 153, (33, 31))
    for name, (mode, value, size) in values.items():
        save(tmp_path / "images" / name, mode, value, size)
    return tmp_path / "images", {name: value / 255 for name, (_, value, _) in values.items()}


def test_every_mode_and_size_gets_its_own_score(example, images, tmp_path, capsys):
    """Images of any mode and size in any subfolder are scored, each with its own score and label, in order of path."""
    folder, expected = images
    output = tmp_path / "out.csv"
    assert example.main([str(write_toy(tmp_path / "m.xml")), str(folder), "--output", str(output)]) == 0
    rows = rows_of(output)
    assert [row["path"] for row in rows] == sorted(str(folder / name) for name in expected)
    for row in rows:
        value = expected[str(Path(row["path"]).relative_to(folder))]
        assert float(row["score"]) == pytest.approx(value, abs=1e-4)
        assert row["label"] == ("anomalous" if value > 0.5 else "normal")
    assert "concept" not in rows[0]
    assert re.search(r"4 images, 2 anomalous, 0 left out, [\d.]+ images per second", capsys.readouterr().out)


@pytest.mark.parametrize("kind", ["tensor", "output"])
def test_the_concept_is_written_where_the_model_knows_it(example, images, tmp_path, kind):
    """The concept is a column, whether it is an output of the model or a tensor inside of it."""
    folder, expected = images
    output = tmp_path / "out.csv"
    example.main([str(write_toy(tmp_path / "m.xml", concept=kind)), str(folder), "--output", str(output)])
    for row in rows_of(output):
        value = expected[str(Path(row["path"]).relative_to(folder))]
        assert int(row["concept"]) == round(10 * value)


def test_without_a_threshold_there_are_no_labels(example, images, tmp_path, capsys):
    """A model that was exported without one scores all the same, and the last line says so."""
    folder, expected = images
    output = tmp_path / "out.csv"
    assert example.main([str(write_toy(tmp_path / "toy.xml", labels=False)), str(folder), "--output", str(output)]) == 0
    assert [row["label"] for row in rows_of(output)] == [""] * len(expected)
    assert "4 images, no labels without a threshold, 0 left out" in capsys.readouterr().out
    assert sum(float(row["score"]) for row in rows_of(output)) == pytest.approx(sum(expected.values()), abs=1e-4)


def test_a_model_of_one_size_gets_images_of_that_size(example, images, tmp_path):
    """Images are resized for a model that was exported for one size."""
    folder, expected = images
    model, output = write_toy(tmp_path / "m.xml", shape=(-1, 3, 24, 32)), tmp_path / "out.csv"
    assert example.main([str(model), str(folder), "--output", str(output)]) == 0
    assert sorted(float(row["score"]) for row in rows_of(output)) == pytest.approx(sorted(expected.values()), abs=1e-4)


def test_unreadable_files_are_named_and_left_out(example, tmp_path, capsys):
    """Files that are no images, cut off, or too deep are named with a reason, and the others are scored."""
    folder, output = tmp_path / "images", tmp_path / "out.csv"
    save(folder / "good.png", "RGB", 60, (30, 20))
    (folder / "text.png").write_bytes(b"not an image")
    save(folder / "cut.png", "RGB", 60, (300, 200))
    whole = (folder / "cut.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.full((20, 20), 40_000, dtype=np.uint16)).save(folder / "deep.png")
    assert example.main([str(write_toy(tmp_path / "m.xml")), str(folder), "--output", str(output)]) == 1
    assert [Path(row["path"]).name for row in rows_of(output)] == ["good.png"]
    printed = capsys.readouterr()
    for name in ("text.png", "cut.png", "deep.png"):
        assert re.search(rf"Left out \S*{name}: \S+", printed.err)
    assert "1 images, 0 anomalous, 3 left out" in printed.out


def test_a_folder_of_unreadable_files_fails(example, tmp_path):
    """The exit code tells that no image was scored."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "text.png").write_bytes(b"not an image")
    model, output = write_toy(tmp_path / "m.xml"), tmp_path / "out.csv"
    assert example.main([str(model), str(tmp_path / "images"), "--output", str(output)]) == 1
    assert rows_of(output) == []


@pytest.mark.parametrize(
    ("model", "images", "message"),
    [
        ("model.xml", "empty", "There are no images in {images}."),
        ("model.xml", "missing", "Cannot read {images} (No such file"),
        ("missing.xml", "image.png", "There is no model {model}."),
    ],
)
def test_wrong_paths_are_errors_that_name_them(example, tmp_path, capsys, model, images, message):
    """An empty folder, a wrong path, and a wrong model are told apart."""
    (tmp_path / "empty").mkdir()
    write_toy(tmp_path / "model.xml")
    save(tmp_path / "image.png", "L", 0, (20, 20))
    with pytest.raises(SystemExit) as stop:
        example.main([str(tmp_path / model), str(tmp_path / images)])
    assert stop.value.code == 2
    expected = message.format(model=tmp_path / model, images=tmp_path / images)
    assert expected in " ".join(capsys.readouterr().err.split())


def test_heat_maps_are_red_where_the_map_is_high(example, tmp_path):
    """A map of the image's size per image, in the folders of the images: blue where normal, red where anomalous."""
    folder, maps = tmp_path / "images", tmp_path / "maps"
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[:, 30:] = 255
    (folder / "part").mkdir(parents=True)
    Image.fromarray(pixels).save(folder / "part" / "half.png")
    model = write_toy(tmp_path / "m.xml")
    example.main([str(model), str(folder), "--output", str(tmp_path / "out.csv"), "--heat-maps", str(maps)])
    drawn = np.asarray(Image.open(maps / "part" / "half.png.png")).astype(int)
    assert drawn.shape == pixels.shape
    assert drawn[20, 5, 2] > drawn[20, 5, 0]
    assert drawn[20, 55, 0] > drawn[20, 55, 2]


def test_a_heat_map_that_cannot_be_written_is_an_error(example, images, tmp_path):
    """Maps that were asked for don't fail in silence."""
    (tmp_path / "maps").write_text("in the way")
    arguments = [str(write_toy(tmp_path / "m.xml")), str(images[0]), "--output", str(tmp_path / "out.csv")]
    with pytest.raises(OSError, match="maps"):
        example.main([*arguments, "--heat-maps", str(tmp_path / "maps")])


def test_the_model_computes_in_float32_for_one_image(example, tmp_path):
    """Scores are those of the training by default, and sizes inside of the model are known."""
    compiled = example.compile_model(write_toy(tmp_path / "m.xml"))
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
    assert compiled.output("pred_score").get_partial_shape() == openvino.PartialShape([1])


@pytest.mark.slow
@pytest.mark.parametrize("input_size", [None, (72, 96)])
def test_an_exported_model_scores_as_in_anomalib(example, tmp_path, monkeypatch, input_size):
    """From either file, scores, labels and concepts are those of the model; of images of its size, if it has one."""
    monkeypatch.chdir(tmp_path)  # OpenVINOInferencer writes its cache into the working directory
    seed_everything(0)
    root = tiny_root(tmp_path / "products", size=(96, 72) if input_size else (160, 120))
    model = tiny_model().eval()
    model.post_processor._image_threshold.fill_(0.5)  # else there were no labels
    paths = [model.to_onnx(tmp_path, input_size=input_size), model.to_openvino(tmp_path, input_size=input_size)]
    for path in paths:
        output = tmp_path / "out.csv"
        assert example.main([str(path), str(root), "--output", str(output)]) == 0
        predict = OpenVINOInferencer(path, device="CPU", config=FP32).predict
        rows = rows_of(output)
        assert len(rows) == len(list(root.rglob("*.png")))
        for row in rows[::5]:
            expected = model(read_image(row["path"], as_tensor=True)[None])
            assert float(row["score"]) == pytest.approx(expected.pred_score.item(), abs=1e-4)
            assert row["label"] == ("anomalous" if expected.pred_label.item() else "normal")
            assert int(row["concept"]) == expected.concept.item()
            assert predict(row["path"]).pred_score.item() == pytest.approx(expected.pred_score.item(), abs=1e-4)
