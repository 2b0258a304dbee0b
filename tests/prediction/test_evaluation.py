# SPDX-License-Identifier: Apache-2.0
"""The quality of scores and labels is that of our evaluator."""

import math
from pathlib import Path, PurePath

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from anomalib_vqflow.prediction.evaluation import DASH, auroc, evaluate, format_table
from anomalib_vqflow.prediction.loading import load_model
from anomalib_vqflow.prediction.pipeline import Result, score_images
from anomalib_vqflow.prediction.search import Source
from anomalib_vqflow.prediction.truth import find_test_images
from tests.data.folders import make_category, make_image
from tests.tiny import tiny_data, tiny_engine, tiny_model


def result(category, truth, score, label=None, failure=None):
    """Make a result; truth and label are "good" or "bad"."""
    source = Source(Path("a.png"), PurePath("a.png"), category, truth == "bad")
    return Result(source, failure, score, None if label is None else label == "bad")


def test_auroc_is_that_of_scikit_learn():
    """With ties, too."""
    rng = np.random.default_rng(0)
    for count in (2, 5, 50):
        scores, truth = rng.integers(0, 10, count) / 10, np.arange(count) % 2 == 1
        assert auroc(scores, truth) == pytest.approx(roc_auc_score(truth, scores))


def test_a_category_without_normal_or_anomalous_images_is_not_evaluable():
    """It is no part of the means, and has dashes in the table."""
    results = [result("a", "good", 0.2, "good"), result("a", "bad", 0.7, "bad")]
    results += [result("b", "bad", 0.8, "good"), result("c", "good", 0.9, "bad")]
    found = evaluate(results)
    assert math.isnan(found["b"].auroc)
    assert math.isnan(found["c"].f1_score)
    assert found["macro"].auroc == found["a"].auroc == 1
    assert (found["macro"].f1_score, found["macro"].miss_rate, found["macro"].false_alarm_rate) == (0.5, 0.5, 0.5)
    lines = {line.split()[0]: line.split()[1:] for line in format_table(found).splitlines()}
    assert lines["b"] == ["0", "1", DASH, "0.000", DASH, "1", "(100.0%)"]
    assert lines["c"] == ["1", "0", DASH, DASH, "1", "(100.0%)", DASH]


def test_without_a_threshold_there_is_an_auroc_only():
    """And what was left out does not count."""
    results = [result("a", "good", 0.2), result("a", "bad", 0.7), result("a", "bad", math.nan, failure="broken")]
    found = evaluate(results)
    assert (found["a"].normal, found["a"].anomalous, found["a"].auroc) == (1, 1, 1)
    assert format_table(found).splitlines()[-1].split() == ["a", "1", "1", "1.000", DASH, DASH, DASH]


def test_one_category_needs_no_mean():
    """It equals it."""
    assert "macro" not in format_table(evaluate([result("a", "good", 0.2), result("a", "bad", 0.7)]))


def test_nothing_has_no_quality():
    """As where all images are broken."""
    assert evaluate([result("a", "bad", math.nan, failure="broken")]) == {}


@pytest.fixture
def wide(trained, tmp_path):
    """The checkpoint of a model whose normalization cuts no score off; what is cut off is equal."""
    checkpoint = torch.load(trained[-1], weights_only=True)
    checkpoint["state_dict"]["post_processor.image_min"].fill_(-1)
    checkpoint["state_dict"]["post_processor.image_max"].fill_(1)
    torch.save(checkpoint, tmp_path / "wide.ckpt")
    return tmp_path / "wide.ckpt"


def test_quality_is_that_of_our_evaluator(wide, tmp_path):
    """Image AUROC and F1 per category, macro and pooled, on images that are hard to tell apart."""
    products = tmp_path / "products"
    for name in ("bolt", "nut"):
        make_category(products, name, good=0, defect=0, masks=False)
        for kind, values in {"good": (52, 58, 63, 68, 110), "hole": (57, 66, 72, 120)}.items():
            for index, value in enumerate(values):
                make_image(products / name / "test" / kind / f"{index:03}.png", value + 3 * len(name))
    model = tiny_model()
    tiny_engine(tmp_path).test(model, datamodule=tiny_data(products), ckpt_path=wide)
    expected = model.evaluator.results
    sources = find_test_images([str(products)])
    found = evaluate(score_images(load_model(wide), sources))
    assert [*found] == [*expected.index]
    for name, quality in found.items():
        row = expected.loc[name]
        assert (quality.normal, quality.anomalous) == (row.normal, row.anomalous)
        assert quality.auroc == pytest.approx(row.image_AUROC)
        assert quality.f1_score == pytest.approx(row.image_F1Score)
    assert 0.5 < found["pooled"].auroc < 1
