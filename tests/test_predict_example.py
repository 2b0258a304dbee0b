# SPDX-License-Identifier: Apache-2.0
"""examples/predict.py scores and draws every readable image, names the others, and says what it was given wrongly."""

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.models import Padim
from PIL import Image

from anomalib_vqflow import VQFlow
from anomalib_vqflow.data import find_images
from anomalib_vqflow.prediction import search

from .data.folders import make_image
from .scripts import load_script
from .tiny import tiny_data, tiny_engine, tiny_model

FOUND = ("a.png", "B.JPG", "c.tiff", "d.webp", "e.ppm", "f.mpo", "g.jp2", "h.GIF", "sub/deeper/a.png", "z/a.bmp")


@pytest.fixture(scope="module")
def example():
    return load_script("examples/predict.py")


@pytest.fixture(scope="module")
def unlabeled(root, tmp_path_factory):
    """The checkpoint of a model that has no threshold, as one in the middle of a training."""
    folder, model = tmp_path_factory.mktemp("unlabeled"), tiny_model()
    engine = tiny_engine(folder)
    engine.fit(model, datamodule=tiny_data(root))
    model.post_processor.reset_()
    engine.trainer.save_checkpoint(folder / "model.ckpt")
    return folder / "model.ckpt"


@pytest.fixture
def predict(example, trained, tmp_path, capsys):
    """Run the example; get its exit code, its lines by path, all it printed, and the pictures by their names."""

    def run(images, checkpoint=trained[-1]):
        code = example.main([str(checkpoint), str(images), "--results-dir", str(tmp_path / "results")])
        printed = capsys.readouterr()
        lines = [line.split(maxsplit=2) for line in printed.out.splitlines() if line[:2] in {"0.", "1."}]
        folder = Path(printed.out.rpartition("Pictures are in ")[-1].strip().removesuffix("."))
        pictures = {str(path.relative_to(folder)): path for path in folder.rglob("*.png")}
        return code, {path: (float(score), label) for score, label, path in lines}, printed, pictures

    return run


def test_every_image_gets_a_line_and_a_picture(predict, tmp_path):
    """Images of equal names in many folders, of equal stems, and of names beyond ASCII overwrite no other's picture."""
    names = [f"{product}/{kind}/{i:03}.png" for product in ("bolt", "nut", "cap") for kind in "abc" for i in range(4)]
    names += ["bolt/a/000.jpg", "Schäden/Öl größer.png", "日本/画像.png", "two words.bmp"]
    for name in names:
        make_image(tmp_path / "images" / name, 60 + len(name))
    code, lines, printed, pictures = predict(tmp_path / "images")
    assert code == 0
    assert sorted(lines) == sorted(str(tmp_path / "images" / name) for name in names)
    assert sorted(pictures) == sorted(f"{name}.png" for name in names)
    assert "40 images, 0 left out" in printed.out


def test_scores_are_those_of_the_engine(predict, trained, root, tmp_path):
    """Score and label are what ``Engine.predict`` gives."""
    _, lines, _, _ = predict(root / "nut" / "test")
    expected = tiny_engine(tmp_path).predict(tiny_model(), data_path=root / "nut" / "test", ckpt_path=trained[-1])
    assert len(lines) == len(expected) == 4
    for batch in expected:
        score, label = lines[batch.image_path[0]]
        assert score == pytest.approx(batch.pred_score.item(), abs=1e-3)
        assert label == ("anomalous" if batch.pred_label.item() else "normal")


def test_a_model_trained_without_a_visualizer_draws(predict, trained, root):
    """The picture has the image, its map and its mask, side by side."""
    assert trained[0].visualizer is None
    _, _, _, pictures = predict(root / "nut" / "test" / "hole" / "000.png")
    assert [Image.open(path).size for path in pictures.values()] == [(3 * 256, 256)]


def test_what_cannot_be_read_is_named_and_left_out(predict, tmp_path):
    """Broken files and broken links end nothing; folders and hidden files are no images."""
    images = tmp_path / "images"
    for index in range(3):
        make_image(images / f"{index}.png", 60)
    (images / "1.png").write_bytes((images / "1.png").read_bytes()[:300])
    (images / "gone.png").symlink_to(images / "nothing.png")
    (images / "text.jpg").write_text("no image")
    Image.fromarray(np.full((20, 20), 40_000, dtype=np.uint16)).save(images / "deep.png")
    (images / "folder.png").mkdir()
    (images / ".hidden.png").write_text("no image")
    code, lines, printed, pictures = predict(images)
    assert code == 1
    assert [Path(path).name for path in lines] == ["0.png", "2.png"]
    assert sorted(pictures) == ["0.png.png", "2.png.png"]
    for name in ("1.png", "gone.png", "text.jpg", "deep.png"):
        assert f"Left out: cannot read {images / name} (" in printed.err
    assert printed.err.count("Left out") == 4
    assert "2 images, 4 left out" in printed.out


def test_pictures_show_images_upright(predict, tmp_path):
    """An image that lies on its side is drawn as it was seen."""
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[:20] = 255  # the upper half, which EXIF turns to the right
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    Image.fromarray(pixels).save(tmp_path / "images" / "a.png", exif=exif)
    _, _, _, pictures = predict(tmp_path / "images")
    panel = np.asarray(Image.open(pictures["a.png.png"]))[:, :256]
    assert panel[200, 240].tolist() == [255, 255, 255]
    assert panel[200, 16].tolist() == [0, 0, 0]


def test_without_a_threshold_nothing_is_labeled(predict, unlabeled, root):
    """Scores have a dash for a label, pictures have no mask, and a sentence says why."""
    code, lines, printed, pictures = predict(root / "nut" / "test", unlabeled)
    assert code == 0
    assert {label for _, label in lines.values()} == {"-"}
    assert "no threshold" in printed.out
    assert {Image.open(path).size for path in pictures.values()} == {(2 * 256, 256)}


def test_names_that_the_terminal_cannot_show(example, trained, tmp_path, monkeypatch):
    """They are printed in another way, also those that are no text."""
    images = tmp_path / "images"
    make_image(images / "ö.png", 60)
    (images / "ö.png").rename(images / os.fsdecode(b"\xff.png"))
    make_image(images / "größe.png", 60)
    (images / "übel.png").write_text("no image")
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    assert example.main([str(trained[-1]), str(images), "--results-dir", str(tmp_path / "results")]) == 1
    monkeypatch.undo()
    out, err = (stream.buffer.getvalue() for stream in streams if stream.flush() is None)
    assert b"gr\\xf6\\xdfe.png" in out
    assert b"\\udcff.png" in out
    assert b"\\xfcbel.png" in err


@pytest.mark.parametrize(
    ("images", "message"), [("empty", "There are no images in {}."), ("missing", "Cannot read {} (No such file")]
)
def test_a_place_without_images_is_an_error_that_names_it(example, tmp_path, capsys, images, message):
    """An empty folder and a wrong path are told apart, before the checkpoint is read."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    with pytest.raises(SystemExit) as stop:
        example.main(["model.ckpt", str(tmp_path / images)])
    assert stop.value.code == 2
    assert message.format(tmp_path / images) in " ".join(capsys.readouterr().err.split())


def write_others(folder):
    """Write what is no checkpoint of ours, and get what an error must say of it."""
    (folder / "empty.ckpt").touch()
    (folder / "text.ckpt").write_text("hello")
    torch.save({"model": "mine"}, folder / "weights.ckpt")
    torch.save([Padim], folder / "code.ckpt")
    (folder / "cut.ckpt").write_bytes((folder / "weights.ckpt").read_bytes()[:200])
    return dict.fromkeys(folder.iterdir(), "no checkpoint, or a damaged one") | {folder / "gone.ckpt": "No such file"}


def test_another_file_than_a_checkpoint_is_named(example, root, tmp_path, capsys):
    """Whatever it is, the message names it and what to give."""
    for path, reason in write_others(tmp_path).items():
        with pytest.raises(SystemExit):
            example.main([str(path), str(root)])
        error = capsys.readouterr().err
        assert f"Cannot load {path} ({reason}" in error
        assert "give the model.ckpt of a VQFlow training" in error


def test_a_checkpoint_that_does_not_fit_says_why(example, root, tmp_path, trained, capsys):
    """The refusal of the model is the message."""
    content = torch.load(trained[-1], weights_only=False)
    del content["vqflow"]["format"]
    torch.save(content, tmp_path / "old.ckpt")
    with pytest.raises(SystemExit):
        example.main([str(tmp_path / "old.ckpt"), str(root)])
    assert "made by another version" in capsys.readouterr().err


def write_tree(folder):
    """Write files that some take for images and others do not, in folders and behind links."""
    for name in (
        *FOUND,
        ".hidden.png",
        ".cache/a.png",
        "notes.txt",
        "film.mpg",
        "plan.eps",
        "none",
        "folder.png/b.txt",
    ):
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / name).touch()
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "linked.png").touch()
    (folder / "images" / "link").symlink_to(folder / "elsewhere")
    (folder / "images" / "file.png").symlink_to(folder / "elsewhere" / "linked.png")
    (folder / "images" / "broken.png").symlink_to(folder / "nothing.png")
    (folder / "images" / "self.png").symlink_to(folder / "images" / "self.png")
    (folder / "images" / "circle").symlink_to(folder / "images")
    return folder / "images"


def test_the_example_and_the_command_find_the_same_images(tmp_path):
    """Suffixes in any case, folders, links to files and folders, and broken links; nothing hidden, and no circles."""
    images = write_tree(tmp_path)
    found = find_images(images)
    assert search.find_images(images) == found
    names = {path.relative_to(images).as_posix() for path in found}
    assert names == {*FOUND, "link/linked.png", "file.png", "broken.png", "self.png"}
    for place in (images / "a.png", images / "notes.txt", images / "file.png"):
        assert find_images(place) == search.find_images(place) == [place]


def test_the_model_predicts_in_eval_mode(example, trained):
    """Loaded as by hand."""
    model = example.load(Path(trained[-1]))
    assert isinstance(model, VQFlow)
    assert not model.training
