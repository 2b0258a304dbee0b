# SPDX-License-Identifier: Apache-2.0
"""The page: self-contained, and safe with any name."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from anomalib_vqflow.pictures.cards import Card, Thumbnail
from anomalib_vqflow.pictures.figures import new_figure, to_picture
from anomalib_vqflow.pictures.page import Section, render_page

EVIL = '<script>alert("&")</script>'


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
    picture = to_picture(new_figure(2, 1), "scores", f"Scores {EVIL}")
    thumbnail = Thumbnail(np.zeros((8, 8, 3), np.uint8), f"map {EVIL}", f"a/{EVIL}.png")
    sections = [
        Section("scores", f"Scores {EVIL}", f"Text {EVIL}", [picture], []),
        Section("misses", "Misses", "Text", [picture], [Card(f"Card {EVIL}", EVIL, [thumbnail])]),
    ]
    return render_page("Title", {"Name": EVIL}, [f"Note {EVIL}"], sections)


def test_page_is_self_contained_and_escaped(page):
    """Whatever names hold, the page has no script and no address outside itself, and shows the names as they are."""
    outline = check_self_contained(page)
    assert f"Card {EVIL}" in outline.texts


def test_page_holds_its_pictures(page):
    """Pictures are in the page byte for byte; where there are cards, these stand for the picture."""
    assert page.count("data:image/png") == 1
    assert page.count("data:image/jpeg") == 1
    content = re.search(r"data:image/png;base64,([^\"]+)", page)[1]
    assert base64.b64decode(content).startswith(b"\x89PNG")


def test_page_is_readable_on_a_phone_and_in_print(page):
    """The page tells phones its width, and has rules for narrow screens and for paper."""
    assert 'name="viewport" content="width=device-width' in page
    assert "@media print" in page
    assert "@media (max-width" in page
