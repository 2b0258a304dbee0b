# SPDX-License-Identifier: Apache-2.0
"""Cards: which images they show, and how."""

import numpy as np
import pandas as pd
import pytest
import torch
from anomalib.visualization.image.functional import apply_colormap
from PIL import Image

from anomalib_vqflow.report.cards import (
    GAP,
    NUM_TYPICAL,
    NUM_WORST,
    SIDE,
    concept_cards,
    mistake_cards,
    mosaic,
    worst_mistakes,
)
from anomalib_vqflow.sources import set_up
from tests.data.folders import make_image
from tests.tiny import tiny_data, tiny_model, tiny_root

from .tables import made_up

STEP = SIDE + 2 * GAP


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rows = []
    for index in range(12):
        path = folder / f"{index:03}.png"
        make_image(path, 60, size=(40, 20))
        rows.append((str(path), "nut" if index < 9 else "bolt", 7 if index < 10 else 2, (index * 5) % 12))
    return pd.DataFrame(rows, columns=["path", "category", "concept", "distance"])


def tile(image, column, row=0):
    """Cut the square of one image out of a mosaic."""
    left, top = column * STEP + GAP, row * STEP + GAP
    return np.asarray(image.crop((left, top, left + SIDE, top + SIDE)))


def test_typical_images_are_the_nearest(train):
    """A concept shows its own images, those nearest to the prototype first."""
    card = concept_cards(train)[0]
    own = train[train["concept"] == 7].sort_values("distance")
    assert card.paths == list(own["path"][:NUM_TYPICAL])
    for index, path in enumerate(card.paths):
        image = Image.open(path).resize((SIDE, SIDE // 2), Image.Resampling.LANCZOS)
        assert np.array_equal(tile(card.image, index % 3, index // 3)[SIDE // 4 : 3 * SIDE // 4], np.asarray(image))


def test_concepts_say_share_and_purity(train):
    """The most frequent concept comes first; share, purity and leading category are those of its images."""
    cards = concept_cards(train)
    assert [card.title for card in cards] == ["Concept 7: 10 images (83.3 %)", "Concept 2: 2 images (16.7 %)"]
    assert [card.text for card in cards] == ["Purity 0.900: nut, also bolt", "Purity 1.000: bolt"]
    assert concept_cards(train[train["distance"] == 0])[0].title == "Concept 7: 1 image (100.0 %)"


def test_concepts_of_many_categories_name_some(train):
    """Of many categories, the most frequent three are named, equal ones by name, and the others counted."""
    several = train.assign(concept=0, category=list("aaaaabbbcdef"))
    assert concept_cards(several)[0].text == "Purity 0.417: a, also b, c and 3 more"


def test_concepts_without_categories(train):
    """Where categories are unknown, nothing is said of purity."""
    card = concept_cards(train.assign(category=""))[0]
    assert card.title == "Concept 7: 10 images (83.3 %)"
    assert not card.text


def test_mosaic_keeps_shapes():
    """Images keep their proportions, in squares of one size, three in a row, on white."""
    colors = ["red", "blue", "green", "black"]
    sizes = [(300, 100), (10, 40), (50, 50), (600, 4)]
    image = mosaic([Image.new("RGB", size, color) for size, color in zip(sizes, colors, strict=True)])
    assert image.size == (3 * STEP, 2 * STEP)
    for index, ((width, height), color) in enumerate(zip(sizes, colors, strict=True)):
        pixels = tile(image, index % 3, index // 3)
        shown = (pixels == Image.new("RGB", (1, 1), color).getpixel((0, 0))).all(axis=2)
        scale = SIDE / max(width, height)
        assert shown.any(axis=0).sum() == max(round(width * scale), 1)
        assert shown.any(axis=1).sum() == max(round(height * scale), 1)
        assert (pixels[~shown] == 255).all()


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory):
    """Cards of a normal and an anomalous image, with and without masks; and the model they are of."""
    folder = tmp_path_factory.mktemp("products")
    torch.manual_seed(0)
    model, cards = tiny_model(), {}
    model.model(torch.rand(4, 3, 64, 64))
    model.eval()
    model.post_processor.image_min.fill_(0.0)
    model.post_processor.image_max.fill_(1.0)
    for masks in (True, False):
        datamodule = tiny_data(tiny_root(folder / str(masks), masks=masks, size=(40, 20)))
        set_up(datamodule, model)
        samples = datamodule.test_data.samples
        chosen = pd.DataFrame({"path": samples["image_path"], "anomalous": samples["label_index"].astype(float)})
        chosen = chosen.assign(category="nut", concept=3, score=0.25).iloc[[0, -1]].sort_values("anomalous")
        cards[masks] = mistake_cards(model, datamodule.test_data, chosen), datamodule
    return model, cards


def test_mistakes_name_their_image(mistakes):
    """A card says place, category, score and concept, and the end of the path."""
    _, anomalous = mistakes[1][True][0]
    assert anomalous.title == "2. nut, score 0.250"
    assert anomalous.text == f"Concept 3; {'/'.join(anomalous.paths[0].split('/')[-4:])}"


def test_mistakes_show_true_masks_where_there_are_some(mistakes):
    """An anomalous image comes with its mask, in place and white on black; a normal one, or data without, does not."""
    for masks, (cards, _) in mistakes[1].items():
        columns = ["image", "anomaly map"]
        assert cards[0].captions == columns
        assert cards[1].captions == ([*columns, "true mask"] if masks else columns)
    mask = tile(mistakes[1][True][0][1].image, 2)[SIDE // 4 : 3 * SIDE // 4]  # 40×20 pixels, defect at [4:12, 4:12]
    inside, outside = slice(5 * SIDE // 40, 11 * SIDE // 40), slice(14 * SIDE // 40, None)
    assert (mask[inside, inside] > 200).all()
    assert (mask[:, outside] < 50).all()
    assert (mask[outside] < 50).all()


def test_maps_are_those_of_the_model(mistakes):
    """An anomaly map is colored by anomalib's own scale, from 0 to 1, and has the proportions of its image."""
    model, cards = mistakes
    card, datamodule = cards[True][0][0], cards[True][1]
    paths = datamodule.test_data.samples["image_path"].tolist()
    with torch.no_grad():
        values = model(datamodule.test_data[paths.index(card.paths[0])].image[None]).anomaly_map[0, 0]
    gray = Image.fromarray((255 * values.numpy()).astype(np.uint8))
    expected = apply_colormap(gray).resize((40, 20)).resize((SIDE, SIDE // 2), Image.Resampling.LANCZOS)
    shown = tile(card.image, 1)
    assert np.array_equal(shown[SIDE // 4 : 3 * SIDE // 4], np.asarray(expected))
    assert (shown[: SIDE // 4] == 255).all()


@pytest.mark.parametrize("only_wrong", [False, True])
def test_worst_lists_are_the_worst(only_wrong):
    """No image left out is worse than one chosen, and all chosen ones are of the right kind."""
    test = made_up(15).test
    for anomalous, sign in ((False, 1), (True, -1)):
        chosen = worst_mistakes(test, anomalous=anomalous, only_wrong=only_wrong)
        assert (chosen["anomalous"] == anomalous).all()
        assert 0 < len(chosen) <= NUM_WORST
        assert (sign * chosen["score"]).is_monotonic_decreasing
        others = test[(test["anomalous"] == anomalous)].drop(chosen.index)
        if only_wrong:
            assert (chosen["alarm"] != anomalous).all()
            others = others[others["alarm"] != anomalous]
        assert len(chosen) == NUM_WORST or others.empty
        assert others.empty or (sign * others["score"]).max() <= (sign * chosen["score"]).min()
