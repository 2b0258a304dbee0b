# SPDX-License-Identifier: Apache-2.0
"""Cards with small pictures: which images they show, and how."""

import base64
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from anomalib_vqflow.pictures.cards import SIDE, Card, Thumbnail, draw_cards, read_thumbnail, to_data_uri
from anomalib_vqflow.pictures.gallery import NUM_TYPICAL, concept_cards
from anomalib_vqflow.pictures.mistakes import NUM_WORST, count_mistakes, worst_false_alarms, worst_misses
from tests.data.folders import make_image

from .images import LONG_NAME, check_picture, made_up


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rows = []
    for index in range(12):
        path = folder / f"{index:03}.png"
        make_image(path, 60, size=(40, 20))
        rows.append((str(path), "nut" if index < 9 else "bolt", 7 if index < 10 else 2, (index * 5) % 12))
    return pd.DataFrame(rows, columns=["path", "category", "concept", "distance"])


def test_typical_images_are_the_nearest(train):
    """A concept shows its own images, those nearest to the prototype first."""
    card = concept_cards(train, ["bolt", "nut"])[0]
    own = train[train["concept"] == 7].sort_values("distance")
    assert [thumbnail.path for thumbnail in card.thumbnails] == list(own["path"][:NUM_TYPICAL])


def test_concepts_say_share_and_purity(train):
    """The most frequent concept comes first; share, purity and leading category are those of its images."""
    cards = concept_cards(train, ["bolt", "nut"])
    assert [card.title for card in cards] == ["Concept 7: 10 images (83.3 %)", "Concept 2: 2 images (16.7 %)"]
    assert [card.text for card in cards] == ["Purity 0.900: nut, also bolt", "Purity 1.000: bolt"]


def test_concepts_without_categories(train):
    """Where categories are unknown, nothing is said of purity."""
    card = concept_cards(train.assign(category=""), [])[0]
    assert card.title == "Concept 7: 10 images (83.3 %)"
    assert not card.text


def test_thumbnails_keep_their_shape(train):
    """A small picture has the proportions of its image, and can be read back from its address."""
    pixels = read_thumbnail(train["path"][0]).pixels
    assert pixels.shape == (SIDE // 2, SIDE, 3)
    address = to_data_uri(pixels)
    kind, _, content = address.partition(",")
    assert kind == "data:image/jpeg;base64"
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
    assert np.abs(decoded.astype(float) - pixels).mean() < 8


@pytest.mark.parametrize(("number", "columns"), [(1, 1), (5, 2), (32, 1)])
def test_cards_are_drawn_whole(number, columns):
    """One card, an odd number in two columns, and thirty-two of them fit, with long texts and tall pictures."""
    tall, wide = np.full((SIDE, 30, 3), 90, np.uint8), np.full((30, SIDE, 3), 90, np.uint8)
    thumbnails = [Thumbnail(tall, "image", "a.png"), Thumbnail(wide, "anomaly map", ""), Thumbnail(tall, "mask", "")]
    cards = [Card(f"Concept {index}", f"{LONG_NAME} " * 4, thumbnails) for index in range(number)]
    pixels = check_picture(draw_cards(cards, columns, "concepts", "Concepts").png)
    assert (pixels == 90).all(axis=2).mean() > 0.02


@pytest.mark.parametrize("only_wrong", [False, True])
def test_worst_lists_are_the_worst(only_wrong):
    """No image left out is worse than one chosen, and all chosen ones are of the right kind."""
    test = made_up(15).test
    false_alarms, misses = worst_false_alarms(test, only_wrong), worst_misses(test, only_wrong)
    assert (false_alarms["anomalous"] == 0).all()
    assert (misses["anomalous"] == 1).all()
    if only_wrong:
        assert false_alarms["alarm"].all()
        assert not misses["alarm"].any()
    for chosen, anomalous, sign in ((false_alarms, 0, 1), (misses, 1, -1)):
        assert 0 < len(chosen) <= NUM_WORST
        assert (sign * chosen["score"]).is_monotonic_decreasing
        others = test[(test["anomalous"] == anomalous)].drop(chosen.index)
        if only_wrong:
            others = others[others["alarm"] == (anomalous == 0)]
        assert len(chosen) == NUM_WORST or others.empty
        assert others.empty or (sign * others["score"]).max() <= (sign * chosen["score"]).min()


def test_counts_of_mistakes():
    """False alarms and misses are counted over all images, unlabeled ones left out."""
    test = pd.DataFrame({"anomalous": [0, 0, 0, 1, 1, np.nan], "alarm": [True, True, False, False, True, True]})
    assert count_mistakes(test) == (2, 1)
