# SPDX-License-Identifier: Apache-2.0
"""The command ``vqflow-predict`` scores every readable image, names the others, and says what it was given wrongly."""

import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from anomalib.data.utils import read_image
from anomalib.deploy import OpenVINOInferencer
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager
from PIL import Image

from anomalib_vqflow import VQFlow
from anomalib_vqflow.prediction.__main__ import main
from tests.scripts import ROOT

from .toys import save, save_squares, toy_metadata, write_toy

FP32 = {"INFERENCE_PRECISION_HINT": "f32"}
WITHOUT_TORCH = """
import sys

class Barred:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"anomalib", "cv2", "lightning", "pandas", "torch", "torchvision"}:
            raise ImportError(f"{name} is not needed")

sys.meta_path.insert(0, Barred())
from anomalib_vqflow.prediction.__main__ import main
sys.exit(main())
"""


def test_every_mode_and_size_gets_its_own_score(toy, images, predict):
    """Images of any mode and size in any subfolder are scored, each with its own score and label, in order of path."""
    folder, expected = images
    code, rows, printed = predict(toy, folder)
    assert code == 0
    assert [row["path"] for row in rows] == sorted(str(folder / name) for name in expected)
    for row in rows:
        value = expected[str(Path(row["path"]).relative_to(folder))]
        assert float(row["score"]) == pytest.approx(value, abs=1e-4)
        assert row["label"] == ("anomalous" if value > 0.5 else "normal")
        assert row["threshold"] == "0.5"
    assert "concept" not in rows[0]
    assert re.search(r"4 images, 2 anomalous, 0 left out, [\d.]+ images per second", printed.out)


@pytest.mark.parametrize("kind", ["tensor", "output"])
def test_the_concept_is_written_where_the_model_knows_it(images, predict, tmp_path, kind):
    """The concept is a column, whether it is an output of the model or a tensor inside of it."""
    folder, expected = images
    for row in predict(write_toy(tmp_path / "m.xml", concept=kind), folder)[1]:
        value = expected[str(Path(row["path"]).relative_to(folder))]
        assert int(row["concept"]) == round(10 * value)


def test_without_a_threshold_there_are_no_labels_and_masks(images, predict, tmp_path):
    """A model that was exported without one scores all the same, and lines say so."""
    folder, expected = images
    masks = tmp_path / "masks"
    code, rows, printed = predict(write_toy(tmp_path / "m.xml", threshold=None), folder, "--masks", masks)
    assert code == 0
    assert {tuple(row[name] for name in ("label", "threshold", "regions", "area")) for row in rows} == {("",) * 4}
    assert "4 images, no labels without a threshold, 0 left out" in printed.out
    assert "no masks; give --threshold" in printed.err
    assert not masks.exists()
    assert sum(float(row["score"]) for row in rows) == pytest.approx(sum(expected.values()), abs=1e-4)


@pytest.mark.parametrize("own", [0.5, None])
def test_another_threshold_decides_for_labels_and_masks(images, predict, tmp_path, own):
    """Whether the model has one or not."""
    folder, expected = images
    model = write_toy(tmp_path / "m.xml", threshold=own)
    _, rows, _ = predict(model, folder, "--threshold", 0.7, "--masks", tmp_path / "masks")
    for row in rows:
        name = str(Path(row["path"]).relative_to(folder))
        above = expected[name] > 0.7
        assert (row["label"], row["threshold"]) == ("anomalous" if above else "normal", "0.7")
        mask = np.asarray(Image.open(tmp_path / "masks" / f"{name}.png"))
        assert (mask == 255 * above).all()
        assert int(row["area"]) == mask.size * above


def test_a_rate_sets_the_thresholds(images, predict, tmp_path):
    """By the held-out scores in the file; scores are told anew, the threshold in the middle, and it is said."""
    folder, expected = images
    model = write_toy(tmp_path / "m.xml", concept="tensor", metadata=toy_metadata(np.linspace(0, 0.6, 99)))
    _, rows, printed = predict(model, folder, "--false-alarm-rate", 0.3, "--pixel-false-alarm-rate", 0.01)
    limit = np.interp(69.5 / 98, [0, 1], [0, 0.6])
    for row in rows:
        value = expected[str(Path(row["path"]).relative_to(folder))]
        assert float(row["score"]) == pytest.approx(np.clip(value - limit + 0.5, 0, 1), abs=1e-4)
        assert (row["label"], row["threshold"]) == ("anomalous" if value > limit else "normal", "0.5")
        assert (int(row["area"]) > 0) == (value > 0.6)
    assert printed.out.startswith(
        "Thresholds are set by 99 held-out normal images. At most 30.00% of new normal images"
    )
    assert "At most 1.00% of new normal images are marked somewhere." in printed.out


def test_the_usual_product_of_the_concept(predict, tmp_path):
    """Where it is known; else the cell is empty."""
    save(tmp_path / "images" / "a.png", "L", 51, (40, 30))
    save(tmp_path / "images" / "b.png", "L", 153, (40, 30))
    model = write_toy(tmp_path / "m.xml", concept="output", metadata=toy_metadata([0.1], concept=2))
    assert [(row["concept"], row["product"]) for row in predict(model, tmp_path / "images")[1]] == [
        ("2", "nut"),
        ("6", ""),
    ]


def test_a_rate_needs_a_model_that_knows_normal_scores(toy, images, refusal, tmp_path):
    """Older exports do not, or know no raw scores; both are told by name."""
    options = (images[0], "--false-alarm-rate", 0.1)
    assert "toy.xml was exported without its raw scores; export it again" in refusal(toy, *options)
    model = write_toy(tmp_path / "m.xml", concept="tensor", metadata={"normal_scores": None})
    assert "m.xml knows no scores of held-out normal images, which --false-alarm-rate needs" in refusal(model, *options)


def test_ignored_regions_count_for_nothing(predict, tmp_path):
    """Not in scores, labels, files and regions; of images in the folder of the mask's name only."""
    for product in ("nut", "bolt"):
        save_squares(tmp_path / "images" / product / "a.png", (0, 0, 20, 40))
    save_squares(tmp_path / "masks" / "nut.png", (0, 0, 15, 20), size=(30, 20))
    folders = ("--masks", tmp_path / "found", "--maps", tmp_path / "maps", "--heat-maps", tmp_path / "heat")
    model = write_toy(tmp_path / "m.xml", concept="tensor", metadata=toy_metadata([0.1]))
    code, rows, _ = predict(model, tmp_path / "images", "--ignore", tmp_path / "masks", *folders)
    bolt, nut = rows
    assert code == 0
    assert (nut["score"], nut["label"], nut["regions"], nut["area"]) == ("0.000000", "normal", "0", "0")
    assert (bolt["label"], bolt["regions"], bolt["area"]) == ("normal", "1", "800")
    assert not np.load(tmp_path / "maps" / "nut" / "a.png.npy").any()
    assert np.load(tmp_path / "maps" / "bolt" / "a.png.npy").any()
    assert not np.asarray(Image.open(tmp_path / "found" / "nut" / "a.png.png")).any()


def test_an_image_that_the_mask_does_not_fit_is_left_out(predict, tmp_path):
    """By its name, with both sizes."""
    save_squares(tmp_path / "images" / "a.png")
    save_squares(tmp_path / "images" / "b.png", size=(40, 60))
    save_squares(tmp_path / "mask.png", (0, 0, 9, 9))
    model = write_toy(tmp_path / "m.xml", concept="tensor", metadata=toy_metadata([0.1]))
    code, rows, printed = predict(model, tmp_path / "images", "--ignore", tmp_path / "mask.png")
    assert (code, len(rows)) == (1, 1)
    assert re.search(r"Left out \S*b\.png: the mask \S*mask\.png of 60x40 has other proportions .* 40x60", printed.err)


@pytest.mark.parametrize(
    ("place", "message"),
    [("missing", "There is no mask or folder of masks"), ("white.png", "leaves 0.0%"), ("masks", "named like (lid)")],
)
def test_masks_that_cannot_be_used_are_refused(images, refusal, tmp_path, place, message):
    """Before any image is scored."""
    save_squares(tmp_path / "white.png", (0, 0, 60, 40))
    save_squares(tmp_path / "masks" / "lid.png")
    model = write_toy(tmp_path / "m.xml", concept="tensor", metadata=toy_metadata([0.1]))
    assert message in refusal(model, images[0], "--ignore", tmp_path / place)


def test_scores_of_tiles_have_no_ignored_regions(images, refusal, tmp_path):
    """The score of the best tile does not tell what it would be without some pixels."""
    metadata = toy_metadata([0.1])
    metadata["score"]["of_tiles"] = True
    model = write_toy(tmp_path / "m.xml", concept="tensor", metadata=metadata)
    save_squares(tmp_path / "mask.png", (0, 0, 9, 9))
    assert "--ignore does not go with a model that cuts" in refusal(model, images[0], "--ignore", tmp_path / "mask.png")


@pytest.mark.parametrize(
    ("shift", "code", "words"),
    [(0, 0, "No drift"), (90, 3, "Drift in 40 images, compared with 60 held-out normal ones: scores are higher")],
)
def test_a_drift_has_its_own_exit_code(predict, tmp_path, shift, code, words):
    """And a line; the file that lies beside the model is the reference."""
    values = np.random.default_rng(0).integers(50, 100, 100)
    metadata = toy_metadata(values[:60] / 255, concept=10)
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    for index, value in enumerate(values[60:]):
        image = np.full((40, 30), value + shift, dtype=np.uint8)
        image[0, 0] = 255  # the concept is the brightest value
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "images" / f"{index:02}.png")
    model = write_toy(tmp_path / "m.xml", concept="tensor", metadata=metadata)
    options = ("--reference", tmp_path / "metadata.json", "--threshold", 1)
    found, _, printed = predict(model, tmp_path / "images", *options)
    assert found == code
    assert words in printed.out


def test_a_reference_that_cannot_be_used_is_refused(images, refusal, tmp_path):
    """A missing file, one of another kind, and one of another model."""
    model = write_toy(tmp_path / "m.xml", concept="tensor", metadata=toy_metadata([0.1]))
    (tmp_path / "a.json").write_text("[")
    (tmp_path / "b.json").write_text("[]")
    (tmp_path / "c.json").write_text(json.dumps(toy_metadata([0.2])))
    messages = {
        "no": "Cannot read",
        "a": "a.json is no JSON",
        "b": "b.json knows no scores of held-out",
        "c": "c.json tells other scores",
    }
    for name, message in messages.items():
        assert message in refusal(model, images[0], "--reference", tmp_path / f"{name}.json")


def test_a_model_of_one_size_gets_images_of_that_size(predict, tmp_path):
    """Images are resized for a model that was exported for one size, and what is found is in their own pixels."""
    save_squares(tmp_path / "images" / "a.png", (0, 0, 30, 40), size=(60, 80))
    model = write_toy(tmp_path / "m.xml", shape=(-1, 3, 20, 20))
    _, (row,), _ = predict(model, tmp_path / "images", "--masks", tmp_path / "masks", "--heat-maps", tmp_path / "heat")
    assert float(row["score"]) == pytest.approx(1 / 4, abs=0.02)
    assert row["area"] == "1200"
    assert Image.open(tmp_path / "masks/a.png.png").size == Image.open(tmp_path / "heat/a.png.png").size == (60, 80)


def test_unreadable_files_are_named_and_left_out(toy, predict, tmp_path):
    """Files that are no images, cut off, or too deep are named with a reason, and the others are scored."""
    folder = tmp_path / "images"
    save(folder / "good.png", "RGB", 60, (30, 20))
    (folder / "text.png").write_bytes(b"not an image")
    save(folder / "cut.png", "RGB", 60, (300, 200))
    whole = (folder / "cut.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.full((20, 20), 40_000, dtype=np.uint16)).save(folder / "deep.png")
    code, rows, printed = predict(toy, folder)
    assert code == 1
    assert [Path(row["path"]).name for row in rows] == ["good.png"]
    for name in ("text.png", "cut.png", "deep.png"):
        assert re.search(rf"Left out \S*{name}: \S+", printed.err)
    assert "1 images, 0 anomalous, 3 left out" in printed.out


@pytest.mark.parametrize("options", [[], ["--evaluate"]])
def test_a_folder_of_unreadable_files_fails(toy, predict, tmp_path, options):
    """The exit code tells that no image was scored."""
    path = tmp_path / "bolt" / "test" / "good" / "text.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not an image")
    assert predict(toy, tmp_path / "bolt", *options)[:2] == (1, [])


def test_regions_are_boxes_in_lines_of_json(toy, tmp_path):
    """Each with its area and its peak, and nothing where there is none."""
    save_squares(tmp_path / "images" / "a.png", (2, 3, 10, 5), (40, 20, 4, 6))
    save_squares(tmp_path / "images" / "b.png")
    output = tmp_path / "new" / "out.jsonl"
    assert main([str(toy), str(tmp_path / "images"), "--output", str(output)]) == 0
    first, second = map(json.loads, output.read_text().splitlines())
    names = ("x", "y", "width", "height", "area", "peak")
    expected = [(2, 3, 10, 5, 50, 1.0), (40, 20, 4, 6, 24, 1.0)]
    assert first["regions"] == [dict(zip(names, values, strict=True)) for values in expected]
    assert second == {
        "path": str(tmp_path / "images" / "b.png"),
        "score": 0.0,
        "label": "normal",
        "threshold": 0.5,
        "regions": [],
    }


def test_every_kind_of_file_keeps_the_folders_of_its_image(toy, predict, tmp_path):
    """Masks are white where anomalous, heat maps red, and maps are as the model gives them; roots don't mix."""
    for root in ("one", "two"):
        save_squares(tmp_path / root / "part" / "a.png", (30, 0, 30, 40))
    folders = {name: tmp_path / name for name in ("masks", "heat-maps", "maps")}
    options = [word for name, folder in folders.items() for word in (f"--{name}", folder)]
    predict(toy, tmp_path / "one", tmp_path / "two", *options)
    for root in ("one", "two"):
        mask = np.asarray(Image.open(folders["masks"] / root / "part" / "a.png.png"))
        heat = np.asarray(Image.open(folders["heat-maps"] / root / "part" / "a.png.png")).astype(int)
        scores = np.load(folders["maps"] / root / "part" / "a.png.npy")
        assert mask.shape == heat.shape[:2] == scores.shape == (40, 60)
        assert scores.dtype == np.float32
        assert (mask[:, :30] == 0).all()
        assert (mask[:, 30:] == 255).all()
        assert heat[20, 5, 2] > heat[20, 5, 0]
        assert heat[20, 55, 0] > heat[20, 55, 2]


def test_what_was_written_is_not_read_the_next_time(toy, predict, tmp_path, monkeypatch):
    """Where files are written among the images."""
    monkeypatch.chdir(tmp_path)
    save_squares(tmp_path / "a.png")
    for _ in range(2):
        _, rows, _ = predict(toy, ".", "--masks", "found/masks", "--heat-maps", "found/heat")
        assert [row["path"] for row in rows] == ["a.png"]


def test_names_of_any_characters(toy, predict, tmp_path):
    """Beyond ASCII, beyond Unicode, and with spaces."""
    names = ["Öl größer.png", "画像.png", os.fsdecode(b"\xff.png"), "two words.png"]
    for name in names:
        save_squares(tmp_path / "images" / name)
    _, rows, _ = predict(toy, tmp_path / "images", "--masks", tmp_path / "masks")
    assert {Path(row["path"]).name for row in rows} == {*names}
    assert {path.name for path in (tmp_path / "masks").iterdir()} == {f"{name}.png" for name in names}


def test_an_evaluation_is_a_table(toy, predict, tmp_path):
    """A row per category, with their mean and all together; at another threshold, with other numbers."""
    for category, value in {"bolt": 200, "nut": 100}.items():
        for index in range(2):
            save(tmp_path / "products" / category / "test" / "good" / f"{index}.png", "L", 60, (20, 20))
            save(tmp_path / "products" / category / "test" / "hole" / f"{index}.png", "L", value, (20, 20))
    printed = predict(toy, tmp_path / "products", "--evaluate")[-1].out
    lines = {line.split()[0]: line.split()[1:] for line in printed.splitlines()}
    assert lines["bolt"] == ["2", "2", "1.000", "1.000", "0", "(0.0%)", "0", "(0.0%)"]
    assert lines["nut"] == ["2", "2", "1.000", "0.000", "0", "(0.0%)", "2", "(100.0%)"]
    assert lines["macro"] == ["4", "4", "1.000", "0.500", "0.0%", "50.0%"]
    assert lines["pooled"] == ["4", "4", "1.000", "0.667", "0", "(0.0%)", "2", "(50.0%)"]
    printed = predict(toy, tmp_path / "products", "--evaluate", "--threshold", "0.1")[-1].out
    assert re.search(r"pooled +4 +4 +1.000 +0.667 +4 \(100.0%\) +0 \(0.0%\)", printed)


@pytest.mark.parametrize(
    ("model", "images", "message"),
    [
        ("toy.xml", "empty", "There are no images in {images}."),
        ("toy.xml", "missing", "There is no image or folder {images}."),
        ("toy.xml", "image.png/*.png", "No image matches {images}."),
        ("missing.xml", "image.png", "There is no model {model}."),
        ("image.png", "image.png", "{model} is no model; give a model.xml or model.onnx"),
    ],
)
def test_wrong_paths_are_errors_that_name_them(toy, tmp_path, refusal, model, images, message):
    """An empty folder, a wrong path, and a wrong model are told apart."""
    (tmp_path / "empty").mkdir()
    save(tmp_path / "image.png", "L", 0, (20, 20))
    assert message.format(model=tmp_path / model, images=tmp_path / images) in refusal(
        tmp_path / model, tmp_path / images
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "out.txt"], "--output must end in .csv or .jsonl, got out.txt."),
        (["--threshold", "1.5"], "--threshold must be between 0 and 1, got 1.5."),
        (["--threshold", "nan"], "--threshold must be between 0 and 1, got nan."),
        (["--false-alarm-rate", "1"], "--false-alarm-rate must be above 0 and below 1, got 1.0."),
        (["--false-alarm-rate", "0.1", "--pixel-false-alarm-rate", "0"], "--pixel-false-alarm-rate must be above 0"),
        (["--drift-rate", "0"], "--drift-rate must be at least 0.001 and below 1, got 0.0."),
        (["--pixel-false-alarm-rate", "0.1"], "--pixel-false-alarm-rate needs --false-alarm-rate."),
        (["--false-alarm-rate", "0.1", "--threshold", "0.4"], "--threshold and --false-alarm-rate set the same"),
        (["--readers", "0"], "--readers must be at least 1"),
        (["--threads", "-1"], "--threads at least 0"),
        (["--masks", "a", "--maps", "b/../a"], "--masks, --heat-maps and --maps must be different folders."),
        (["--masks", "images"], "The images in images lie in a folder to write to"),
        (["--evaluate"], "There is no category in images"),
        (["--output", "images/a.png/out.csv"], "Cannot write images/a.png"),
        (["--output", "out.csv", "--masks", "in_the_way"], "Cannot write in_the_way"),
        (["--device", "TOASTER"], "for device TOASTER"),
        (["--precision", "f99"], "precision f99"),
    ],
)
def test_wrong_arguments_are_refused_by_name(toy, tmp_path, refusal, monkeypatch, options, message):
    """With what was expected."""
    monkeypatch.chdir(tmp_path)
    save_squares(Path("images/a.png"))
    Path("in_the_way").touch()
    assert message in refusal(toy, "images", *options)


def test_the_command_is_installed():
    """The package has it under its name."""
    module, _, function = ProjectMetadata(str(ROOT), PluginManager()).core.scripts["vqflow-predict"].partition(":")
    assert getattr(import_module(module), function) is main


def test_exported_models_need_neither_torch_nor_anomalib(toy, images, tmp_path):
    """The command runs where importing them, lightning, OpenCV and pandas fails; with a checkpoint, it says so."""
    arguments = [*map(str, (images[0], "--output", tmp_path / "out.csv", "--masks", tmp_path / "masks"))]
    environment = os.environ | {"COLUMNS": "1000"}
    options = {"capture_output": True, "text": True, "env": environment, "check": False}
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, str(toy), *arguments], **options)
    assert (done.returncode, "4 images, 2 anomalous" in done.stdout) == (0, True), done.stderr
    (tmp_path / "model.ckpt").touch()
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, str(tmp_path / "model.ckpt"), *arguments], **options)
    assert done.returncode == 2
    assert "needs a library that is not installed (torch is not needed)" in done.stderr


def test_checkpoints_go_on_after_a_broken_file(trained, predict, root, tmp_path):
    """As exports do, with the same files."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    place = root / "bolt" / "test" / "hole"
    code, rows, printed = predict(trained[-1], broken, place, "--device", "cpu", "--masks", tmp_path / "masks")
    assert code == 1
    assert [row["path"] for row in rows] == [str(place / f"{index:03}.png") for index in range(2)]
    assert f"Left out {broken}: " in printed.err
    assert len(list((tmp_path / "masks").rglob("*.png"))) == 2


@pytest.mark.slow
def test_a_rate_gives_checkpoint_and_exports_the_same_thresholds(exported, trained, root, predict):
    """Those of the post-processor's own ``set_false_alarm_rate``; products are known, too."""
    loaded = VQFlow.load_from_checkpoint(trained[-1], map_location="cpu").eval()
    loaded.post_processor.set_false_alarm_rate(0.3)
    for path in (trained[-1], *exported):
        for row in predict(path, root, "--false-alarm-rate", 0.3)[1]:
            expected = loaded(read_image(row["path"], as_tensor=True)[None])
            assert float(row["score"]) == pytest.approx(expected.pred_score.item(), abs=1e-4)
            assert row["label"] == ("anomalous" if expected.pred_label.item() else "normal")
            assert row["product"] in {"bolt", "nut"}


@pytest.mark.slow
def test_exports_ignore_what_their_checkpoint_does(exported, trained, root, predict, tmp_path):
    """Scores, labels and defects are the same, and none is in the region; the reference is that of all of them."""
    save_squares(tmp_path / "masks" / "bolt.png", (0, 0, 16, 32), size=(32, 32))
    options = ("--ignore", tmp_path / "masks", "--reference", exported[0].parent / "metadata.json")
    tables = [
        predict(path, root, *options, "--maps", tmp_path / path.name)[1] for path in (Path(trained[-1]), *exported)
    ]
    for row, *others in zip(*tables, strict=True):
        for other in others:
            assert float(other["score"]) == pytest.approx(float(row["score"]), abs=1e-4)
            assert other["label"] == row["label"]
    is_zero = {path: (np.load(path)[:, :32] == 0).all() for path in tmp_path.rglob("*.npy")}
    assert all(is_zero[path] for path in is_zero if "bolt" in path.parts)
    assert not all(is_zero[path] for path in is_zero if "bolt" not in path.parts)


@pytest.mark.slow
def test_all_models_of_a_training_agree(exported, trained, root, predict, tmp_path, monkeypatch):
    """Checkpoint, OpenVINO and ONNX file tell the scores, labels, concepts and defects that the model tells."""
    monkeypatch.chdir(tmp_path)  # OpenVINOInferencer writes its cache into the working directory
    model, _, checkpoint = trained
    infer = OpenVINOInferencer(exported[0], device="CPU", config=FP32).predict
    tables = [predict(path, root)[1] for path in (checkpoint, *exported)]
    assert len(tables[0]) == len(list(root.rglob("*.png")))
    for row, *others in zip(*tables, strict=True):
        expected = model.cpu().eval()(read_image(row["path"], as_tensor=True)[None])
        assert row["threshold"] == "0.5"
        assert row["label"] == ("anomalous" if expected.pred_label.item() else "normal")
        assert int(row["concept"]) == expected.concept.item()
        assert float(row["score"]) == pytest.approx(expected.pred_score.item(), abs=1e-4)
        assert infer(row["path"]).pred_score.item() == pytest.approx(expected.pred_score.item(), abs=1e-4)
        for other in others:
            assert float(other["score"]) == pytest.approx(float(row["score"]), abs=1e-4)
            assert {**other, "score": row["score"]} == row
