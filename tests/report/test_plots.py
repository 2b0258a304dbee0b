# SPDX-License-Identifier: Apache-2.0
"""The numbers on the plots, read from their axes and compared with the tables they were made of."""

import io
import math

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from PIL import Image

from anomalib_vqflow.conformal import conformal_limit
from anomalib_vqflow.report.cards import GAP, SIDE, Card, mosaic
from anomalib_vqflow.report.plots import label, plot_cards, plot_codes, plot_confusion, plot_rates, plot_scores
from tests.tiny import tiny_torch_model

from .tables import LONG_NAME, made_up

SIZES = pytest.mark.parametrize(("num_categories", "num_concepts"), [(1, 1), (3, 4), (15, 32)])


def check_inside(figure):
    """Check that texts and lines stay within the figure; a label's corner may stand out, as the file grows with it."""
    figure.draw_without_rendering()
    inner, outer = figure.get_tightbbox(), figure.bbox_inches.padded(0.1)
    assert inner.x0 >= outer.x0
    assert inner.y0 >= outer.y0
    assert inner.x1 <= outer.x1
    assert inner.y1 <= outer.y1


def plot(collected):
    """Plot scores; return the grid of axes, one column for each way to score, one row for each group of images."""
    figure = plot_scores(collected.test, collected.categories, collected.threshold)
    check_inside(figure)
    num_columns = figure.axes[0].get_gridspec().ncols
    return np.array(figure.axes).reshape(-1, num_columns)


def histogram(axis, kind):
    """Read the heights and edges of the histogram of normal or of anomalous images."""
    (patch,) = [patch for patch in axis.patches if patch.get_label() == f"{kind} images"]
    return patch.get_data()[:2]


def auroc(scores, anomalous):
    """Compare all pairs of an anomalous and a normal image."""
    difference = scores[anomalous][:, None] - scores[~anomalous]
    return ((difference > 0) + 0.5 * (difference == 0)).mean()


@SIZES
def test_confusion(num_categories, num_concepts):
    """Cells, colors and labels have the counts and shares of the images; long names fit."""
    collected = made_up(num_categories, num_concepts)
    images, categories = collected.train, collected.categories
    figure = plot_confusion(images, categories, "Training images")
    check_inside(figure)
    (axis,) = figure.axes
    cells = {tuple(text.get_position()): text.get_text() for text in axis.texts}
    shares = axis.collections[0].get_array()
    assert [tick.get_text() for tick in axis.get_xticklabels()] == [label(name, 24) for name in categories]
    rows = [tick.get_text() for tick in axis.get_yticklabels()]
    assert len(rows) == images["concept"].nunique()
    for row, text in enumerate(rows):
        own = images[images["concept"] == int(text.split()[1])]
        for column, name in enumerate(categories):
            number = (own["category"] == name).sum()
            assert cells[column + 0.5, row + 0.5] == (str(number) if number else "")
            assert shares[row, column] == pytest.approx(number / len(own))
        assert f"(n = {len(own)}): {100 * shares[row].max():.0f} %" in text


def test_confusion_title():
    """The title has purity and NMI, unless there is a single category."""
    collected = made_up(2, 2)
    images = collected.train.assign(concept=[int(name[1]) for name in collected.train["category"]])
    figure = plot_confusion(images, collected.categories, "Training images")
    assert figure.get_suptitle() == "Training images: purity 1.000, NMI 1.000"
    one = made_up(1, 2)
    assert plot_confusion(one.train, one.categories, "Test images").get_suptitle() == "Test images"


@SIZES
@pytest.mark.parametrize("plain", [False, True])
def test_scores(num_categories, num_concepts, plain):
    """Every histogram has the shares of its images, its AUROC and its counts, on bins that hold all of them."""
    collected = made_up(num_categories, num_concepts, plain)
    test = collected.test
    groups = {name: test[test["category"] == name] for name in collected.categories}
    if num_categories > 1:
        groups["all images"] = test
    axes = plot(collected)
    assert axes.shape == (len(groups), 2 if plain else 1)
    for row, (name, images) in zip(axes, groups.items(), strict=True):
        anomalous = images["anomalous"].to_numpy() == 1
        counts = f"{(~anomalous).sum()} normal, {anomalous.sum()} anomalous"
        assert row[0].get_ylabel() == f"{label(name, 24)}\n{counts}"
        for axis, column in zip(row, ["plain", "score"] if plain else ["score"], strict=True):
            scores = images[column].to_numpy()
            for chosen, kind in ((~anomalous, "normal"), (anomalous, "anomalous")):
                heights, edges = histogram(axis, kind)
                assert heights.sum() == pytest.approx(1)
                below = [(scores[chosen] < edge).mean() for edge in edges[1:-1]]
                assert np.cumsum(heights)[:-1] == pytest.approx(below)
            assert axis.get_title(loc="right") == f"AUROC {auroc(scores, anomalous):.3f}"


def test_thresholds_of_scores():
    """The model's threshold stands by its scores, the best single one, of highest F1, by those before calibration."""
    collected = made_up(4)
    before, after = plot(collected)[-1]
    assert [line.get_xdata()[0] for line in after.lines] == [0.5]
    (best,) = [line.get_xdata()[0] for line in before.lines]
    anomalous = collected.test["anomalous"] == 1

    def f1(threshold):
        alarms = collected.test["plain"] >= threshold
        return 2 * (alarms & anomalous).sum() / (alarms.sum() + anomalous.sum())

    assert f1(best) == max(f1(value) for value in collected.test["plain"])


def test_legend_of_scores():
    """The legend names both kinds of images and each line once, and no line that is not there."""
    images = ["normal images", "anomalous images"]
    lines = ["best single threshold (highest F1)", "threshold of the model"]
    for collected, names in (
        (made_up(), images + lines),
        (made_up(plain=False), [*images, lines[1]]),
        (made_up(plain=False)._replace(threshold=math.nan), images),
    ):
        figure = plot_scores(collected.test, collected.categories, collected.threshold)
        assert {text.get_text() for text in figure.legends[0].get_texts()} == set(names)
        assert len(figure.legends[0].get_texts()) == len(names)


def test_scores_of_awkward_groups():
    """A category without anomalies, without labels, and equal scores are plotted, too."""
    collected = made_up(2, plain=False)
    first = collected.test["category"] == collected.categories[0]
    test = collected.test.assign(anomalous=np.where(first, 0, collected.test["anomalous"]), score=np.float32(0.5))
    axes = plot(collected._replace(test=test, threshold=math.nan))
    assert [axis.get_title(loc="right") for axis in axes[:, 0]] == ["", "AUROC 0.500", "AUROC 0.500"]
    assert not any(axis.lines for axis in axes.flat)
    assert histogram(axes[0, 0], "normal")[0].sum() == 1
    assert not histogram(axes[0, 0], "anomalous")[0].any()
    unlabeled = test.assign(anomalous=np.where(first, np.nan, test["anomalous"]))
    (row,) = plot(collected._replace(test=unlabeled))
    assert row[0].get_ylabel().startswith("01_")


def used(model):
    """The model's codebooks, and how often each of their codes was used in one batch."""
    model(torch.rand(4, 3, 64, 64))
    codebooks = [model.concept.codebook, *model.pattern_codebooks]
    return [codebook.code_counts.double().numpy() for codebook in codebooks]


def test_rates():
    """One line is what is promised, the other the share of normal test images above the limits of these rates."""
    collected = made_up()
    figure = plot_rates(collected.held_out, collected.test)
    check_inside(figure)

    promised, measured = (line.get_xydata() for line in figure.axes[0].lines)

    assert np.array_equal(promised[:, 0], promised[:, 1])
    assert promised[:, 0].min() == pytest.approx(1 / 31)
    normal = collected.test.loc[collected.test["anomalous"] == 0, "score"]
    for rate, share in measured:
        limit = conformal_limit(collected.held_out, rate).threshold
        assert share == (normal > limit).mean()
    assert 0 <= measured[:, 1].min() < measured[:, 1].max() < 1


@pytest.mark.parametrize("use_patterns", [False, True])
def test_codes(use_patterns):
    """Every codebook has a bar for each code, most used first, and says how many are in use and how evenly."""
    torch.manual_seed(0)
    model = tiny_torch_model(use_patterns=use_patterns)
    counts = used(model)
    figure = plot_codes(model)
    check_inside(figure)
    assert len(figure.axes) == len(counts) == (5 if use_patterns else 1)
    for axis, count in zip(figure.axes, counts, strict=True):
        share = count / count.sum()
        assert [bar.get_height() for bar in axis.patches] == pytest.approx(sorted(share, reverse=True))
        assert axis.lines[0].get_ydata()[0] == pytest.approx(1 / len(count))
        perplexity = math.exp(-sum(p * math.log(p) for p in share if p))
        assert f"{(count > 0).sum()} of {len(count)} codes in use, perplexity {perplexity:.1f}" in axis.get_title(
            loc="left"
        )


def test_codes_of_an_untrained_model():
    """Codes that were never used are plotted as such."""
    for axis in plot_codes(tiny_torch_model()).axes:
        assert not any(bar.get_height() for bar in axis.patches)
        assert ": 0 of " in axis.get_title(loc="left")


def test_codes_name_their_level():
    """Concepts come first; the codebook of the semantic level is named so, the others by their level."""
    titles = [axis.get_title(loc="left") for axis in plot_codes(tiny_torch_model()).axes]
    levels = ["patterns, level 1 (finest)", "patterns, level 2", "patterns, level 3"]
    assert [title.partition(":")[0] for title in titles] == ["concepts", *levels, "patterns, semantic level"]
    titles = [axis.get_title(loc="left") for axis in plot_codes(tiny_torch_model(use_fusion=False)).axes]
    assert [title.partition(":")[0] for title in titles] == ["concepts", *levels]


@pytest.mark.parametrize("number", [1, 5, 32])
def test_cards(number):
    """Each card is plotted, with its image, its title and text, and captions below their columns; long texts fit."""
    tall, wide = Image.new("RGB", (30, 90), "red"), Image.new("RGB", (90, 30), "blue")
    captions = ["image", "anomaly map", "true mask"]
    image = mosaic([tall, wide, tall])
    cards = [Card(f"Concept {index}", f"{LONG_NAME} " * 4, image, captions, []) for index in range(number)]
    figure = plot_cards(cards)
    check_inside(figure)
    filled = [axis for axis in figure.axes if axis.images]
    assert len(filled) == number
    for index, axis in enumerate(filled):
        assert np.array_equal(axis.images[0].get_array(), np.asarray(image))
        assert axis.get_title(loc="left").startswith(f"Concept {index}\n")
        assert [tick.get_text() for tick in axis.get_xticklabels()] == captions
        assert axis.get_xticks() == pytest.approx(np.array([0.5, 1.5, 2.5]) * (SIDE + 2 * GAP))


def test_plots_are_reproducible_and_leave_pyplot_alone():
    """Plotting twice gives equal bytes; pyplot knows no figure and keeps its settings."""
    collected, before = made_up(), dict(plt.rcParams)
    for make in (
        lambda: plot_scores(collected.test, collected.categories, 0.5),
        lambda: plot_confusion(collected.test, collected.categories, "Test images"),
    ):
        files = [io.BytesIO(), io.BytesIO()]
        for file in files:
            make().savefig(file, format="png", metadata={"Software": None})
        assert files[0].getvalue() == files[1].getvalue()
    assert not plt.get_fignums()
    assert dict(plt.rcParams) == before
