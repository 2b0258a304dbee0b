# SPDX-License-Identifier: Apache-2.0
"""The whole report, of a tiny model: every part that the data allow, and no other."""

import pytest
import torch
from anomalib.data import Folder

from anomalib_vqflow import MultiCategory
from anomalib_vqflow.pictures.report import write_report
from tests.data.folders import make_category
from tests.tiny import tiny_data, tiny_engine, tiny_model, tiny_root

from .images import check_picture
from .test_page import check_self_contained

ALWAYS = {"concepts", "scores", "codes"}
CONFUSION = {"confusion_train", "confusion_test"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model whose threshold lies between its scores of test images, so that there are mistakes of both kinds."""
    folder = tmp_path_factory.mktemp("run")
    model, datamodule = tiny_model(), tiny_data(tiny_root(folder / "products"))
    engine = tiny_engine(folder)
    engine.fit(model, datamodule=datamodule)
    scores = torch.cat([batch.pred_score for batch in _raw(engine, model, datamodule)])
    model.post_processor._image_threshold.fill_(scores.median())
    return model


def _raw(engine, model, datamodule):
    post_processor, model.post_processor = model.post_processor, None
    batches = engine.predict(model, dataloaders=datamodule.test_dataloader())
    model.post_processor = post_processor
    return batches


def report(model, datamodule, folder):
    """Write a report; return its pictures by name and the outline of its page."""
    page = write_report(model, datamodule, folder, "model.ckpt")
    outline = check_self_contained(page.read_text(encoding="utf-8"))
    pictures = {path.stem: path.read_bytes() for path in folder.glob("*.png")}
    for picture in pictures.values():
        check_picture(picture)
    return pictures, outline


def headings(outline):
    """Texts of the page in one string."""
    return " ".join(outline.texts)


def test_all_parts(model, tmp_path):
    """With categories, anomalies and masks, every part is there, and the facts are those of the data."""
    root = tiny_root(tmp_path / "products", good=3)
    pictures, outline = report(model, tiny_data(root), tmp_path / "report")
    assert {*ALWAYS, *CONFUSION} <= set(pictures)
    assert {"false_alarms", "misses"} & set(pictures)
    text = headings(outline)
    for words in ("Concepts and categories", "Scores", "Codes", "model.ckpt", "6 normal, 4 anomalous", "purity", "NMI"):
        assert words in text
    assert ("Worst false alarms" in text) == ("false_alarms" in pictures)
    assert ("Worst misses" in text) == ("misses" in pictures)


def test_masks_are_shown_where_there_are_some(model, tmp_path):
    """A missed anomaly comes with its mask; without masks, image and map are shown."""
    model.post_processor.image_sensitivity = 0.0  # nothing is anomalous
    try:
        for masks in (True, False):
            root = tiny_root(tmp_path / f"products_{masks}", masks=masks)
            pictures, outline = report(model, tiny_data(root), tmp_path / f"report_{masks}")
            assert "misses" in pictures
            assert "false_alarms" not in pictures
            assert outline.texts.count("anomaly map") == 4
            assert outline.texts.count("true mask") == (4 if masks else 0)
    finally:
        model.post_processor.image_sensitivity = 0.5


def test_category_without_anomalies(model, tmp_path):
    """A category that has no anomalies is part of the report."""
    root = tmp_path / "products"
    make_category(root, "bolt", defect=0)
    make_category(root, "nut")
    _, outline = report(model, tiny_data(root), tmp_path / "report")
    assert "4 normal, 2 anomalous" in headings(outline)


def test_one_category(model, tmp_path):
    """With a single category, purity and NMI are left out, as they say nothing."""
    make_category(tmp_path / "products", "nut")
    pictures, outline = report(model, tiny_data(tmp_path / "products"), tmp_path / "report")
    assert set(pictures) >= CONFUSION
    assert "NMI" not in headings(outline)


def test_no_categories(model, tmp_path):
    """For a datamodule of anomalib's own, what compares with categories is left out, and the page says so."""
    root = make_category(tmp_path, "bolt")
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "confusion_test.png").write_bytes(b"of an earlier report")
    datamodule = Folder("bolt", "train/good", root, "test/hole", "test/good", num_workers=0, eval_batch_size=4)
    pictures, outline = report(model, datamodule, folder)
    assert set(pictures) >= ALWAYS
    assert not CONFUSION & set(pictures)
    assert "purity" not in headings(outline)
    assert "no categories" in headings(outline)


def test_no_threshold(model, tmp_path):
    """A model without threshold shows the images nearest to a mistake, and counts none."""
    root = tiny_root(tmp_path / "products")
    model.post_processor.enable_thresholding = False
    try:
        pictures, outline = report(model, tiny_data(root), tmp_path / "report")
    finally:
        model.post_processor.enable_thresholding = True
    assert {"false_alarms", "misses"} <= set(pictures)
    assert "Normal images with the highest scores" in outline.texts
    assert "threshold:" not in headings(outline)


def test_report_is_reproducible(model, tmp_path):
    """Two reports of the same model and data are equal byte for byte."""
    root = tiny_root(tmp_path / "products")
    contents = []
    for name in ("one", "two"):
        write_report(model, tiny_data(root), tmp_path / name)
        contents.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1]


def test_parts_of_different_layout(model, tmp_path):
    """Datamodules put together, with equal file names in them, are told apart."""
    make_category(tmp_path / "a", "bolt")
    root = make_category(tmp_path / "b", "nut", masks=False)
    own = Folder("nut", "train/good", root, "test/hole", "test/good", val_split_mode="same_as_test")
    datamodule = MultiCategory(
        datamodules=[MultiCategory(tmp_path / "a"), own], num_workers=0, train_batch_size=4, eval_batch_size=4
    )
    _, outline = report(model, datamodule, tmp_path / "report")
    assert "4 normal, 4 anomalous" in headings(outline)
