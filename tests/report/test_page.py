# SPDX-License-Identifier: Apache-2.0
"""The page: every part that the data allow and no other, self-contained, and safe with any name."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.data import Folder
from PIL import Image

from anomalib_vqflow import MultiCategory
from anomalib_vqflow.report.cards import Card, mosaic
from anomalib_vqflow.report.collect import Collected
from anomalib_vqflow.report.page import data_uri, render_page, write_page
from tests.data.folders import make_category
from tests.tiny import tiny_data, tiny_engine, tiny_model, tiny_root

EVIL = '<script>alert("&")</script>'
ALWAYS = {"concepts", "scores", "codes"}
CONFUSION = {"confusion_train", "confusion_test"}


class Outline(HTMLParser):
    """Collect tags, addresses and text, and check that tags are closed in order."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.addresses, self.texts = [], [], [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in {"src", "href", "srcset", "data", "action"}]
        if tag not in {"meta", "img", "br", "link"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def check_self_contained(page):
    """Check that a page is well-formed, runs no script and refers to nothing outside; return its outline."""
    outline = Outline(page)
    assert not {"script", "link", "iframe", "object"} & set(outline.tags)
    assert not re.search(r"https?:|//|@import|url\(", re.sub(r"data:[^\"]*", "", page))
    anchors = set(re.findall(r'id="([^"]+)"', page))
    for address in outline.addresses:
        assert address.startswith("data:image/") or address.removeprefix("#") in anchors
    return outline


@pytest.fixture(scope="module")
def page():
    """A page of few images, with names that are markup."""
    normal, anomalous = [False] * 3, [True] * 2
    images = pd.DataFrame({"path": "a", "category": [EVIL] * 3 + ["nut"] * 2, "concept": [0, 0, 0, 7, 7]})
    test = images.assign(anomalous=[*normal, *anomalous], score=0.5, plain=0.5, alarm=[True, True, False, False, True])
    card = Card(f"Card {EVIL}", EVIL, mosaic([Image.new("RGB", (8, 8))]), [f"map {EVIL}"], [f"a/{EVIL}.png"])
    plots = dict.fromkeys(("concepts", "misses", "scores", "codes", *CONFUSION), b"\x89PNG")
    collected = Collected(images[:3], test, 12, 32, [EVIL, "nut"], 0.4567, np.zeros(0, np.float32))
    return render_page(EVIL, collected, {"concepts": [card], "misses": [card, card]}, plots)


def test_page_is_self_contained_and_escaped(page):
    """Whatever names hold, the page has no script and no address outside itself, and shows the names as they are."""
    outline = check_self_contained(page)
    for text in (EVIL, f"Card {EVIL}", f"map {EVIL}"):
        assert text in outline.texts


def test_page_has_the_numbers_of_its_tables(page):
    """Counts, measures and the threshold on the page are those of the images."""
    outline = Outline(page)
    text = " ".join(" ".join(outline.texts).split())
    for words in (
        "3 of 12, evenly drawn",
        "3 normal, 2 anomalous",
        "1 of 32",
        "0.4567: 2 false alarms, 1 misses",
        "test images purity 1.000, normalized mutual information (NMI) 1.000",
        "none of these training images fell on: 2 (concept 7)",
        "2 of 1 on the wrong side",
    ):
        assert words in text
    assert "unlabeled" not in text
    assert "training images purity" not in text  # they are all of one category


def test_page_holds_its_plots(page):
    """Plots are in the page byte for byte; where there are cards, these stand for the plot."""
    pngs = re.findall(r"data:image/png;base64,([^\"]+)", page)
    assert [base64.b64decode(content) for content in pngs] == [b"\x89PNG"] * 4
    assert page.count("data:image/jpeg") == 3


def test_images_can_be_read_back():
    """An address holds its image, up to the compression."""
    kind, _, content = data_uri(Image.new("RGB", (30, 20), (10, 120, 200))).partition(",")
    assert kind == "data:image/jpeg;base64"
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    assert image.size == (30, 20)
    assert max(abs(a - b) for a, b in zip(image.getpixel((5, 5)), (10, 120, 200), strict=True)) < 5


def test_page_is_readable_on_a_phone_and_in_print(page):
    """The page tells phones its width, and has rules for narrow screens and for paper."""
    assert 'name="viewport" content="width=device-width' in page
    assert "@media print" in page
    assert "@media (max-width" in page


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
    """Write a report; return its plots by name and the outline of its page."""
    page = write_page(model, datamodule, folder, "model.ckpt")
    outline = check_self_contained(page.read_text(encoding="utf-8"))
    plots = {path.stem: Image.open(path) for path in folder.glob("*.png")}
    for plot in plots.values():
        assert plot.convert("L").getextrema()[0] < 128 < plot.convert("L").getextrema()[1]
    return plots, outline


def headings(outline):
    """Texts of the page in one string."""
    return " ".join(outline.texts)


def test_all_parts(model, tmp_path):
    """With categories, anomalies and masks, every part is there, and the facts are those of the data."""
    root = tiny_root(tmp_path / "products", good=3)
    plots, outline = report(model, tiny_data(root), tmp_path / "report")
    assert {*ALWAYS, *CONFUSION} <= set(plots)
    assert {"false_alarms", "misses"} & set(plots)
    text = headings(outline)
    for words in ("Concepts and categories", "Scores", "Codes", "model.ckpt", "6 normal, 4 anomalous", "purity", "NMI"):
        assert words in text
    assert ("Worst false alarms" in text) == ("false_alarms" in plots)
    assert ("Worst misses" in text) == ("misses" in plots)


def test_masks_are_shown_where_there_are_some(model, tmp_path):
    """A missed anomaly comes with its mask; without masks, image and map are shown."""
    model.post_processor.image_sensitivity = 0.0  # nothing is anomalous
    try:
        for masks in (True, False):
            root = tiny_root(tmp_path / f"products_{masks}", masks=masks)
            plots, outline = report(model, tiny_data(root), tmp_path / f"report_{masks}")
            assert "misses" in plots
            assert "false_alarms" not in plots
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
    plots, outline = report(model, tiny_data(tmp_path / "products"), tmp_path / "report")
    assert set(plots) >= CONFUSION
    assert "NMI" not in headings(outline)


def test_no_categories(model, tmp_path):
    """For a datamodule of anomalib's own, what compares with categories is left out, and the page says so."""
    root = make_category(tmp_path, "bolt")
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "confusion_test.png").write_bytes(b"of an earlier report")
    datamodule = Folder("bolt", "train/good", root, "test/hole", "test/good", num_workers=0, eval_batch_size=4)
    plots, outline = report(model, datamodule, folder)
    assert set(plots) >= ALWAYS
    assert not CONFUSION & set(plots)
    assert "purity" not in headings(outline)
    assert "no categories" in headings(outline)


def test_no_threshold(model, tmp_path):
    """A model without threshold shows the images nearest to a mistake, and counts none."""
    root = tiny_root(tmp_path / "products")
    model.post_processor.enable_thresholding = False
    try:
        plots, outline = report(model, tiny_data(root), tmp_path / "report")
    finally:
        model.post_processor.enable_thresholding = True
    assert {"false_alarms", "misses"} <= set(plots)
    assert "Normal images with the highest scores" in outline.texts
    assert "threshold:" not in headings(outline)


def test_report_is_reproducible(model, tmp_path):
    """Two reports of the same model and data are equal byte for byte."""
    root = tiny_root(tmp_path / "products")
    contents = []
    for name in ("one", "two"):
        write_page(model, tiny_data(root), tmp_path / name)
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


def test_rates_are_shown_where_validation_images_are_not_tested(model, tmp_path):
    """Thresholds by held-out images are compared with the test images; by test images, that would prove nothing."""
    root = tiny_root(tmp_path / "products")
    plots, _ = report(model, tiny_data(root, val_split_mode="from_train"), tmp_path / "held out")
    assert "rates" in plots
    plots, _ = report(model, tiny_data(root), tmp_path / "tested")
    assert "rates" not in plots
