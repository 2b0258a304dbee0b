# SPDX-License-Identifier: Apache-2.0
"""Pictures drawn from made-up tables: any number of categories and concepts, any names."""

import numpy as np
import pytest
import torch

from anomalib_vqflow import VQFlowModel
from anomalib_vqflow.pictures.agreement import count_images, measure_agreement
from anomalib_vqflow.pictures.codes import draw_codes, named_codebooks
from anomalib_vqflow.pictures.confusion import draw_confusion
from anomalib_vqflow.pictures.histograms import best_threshold, draw_scores
from tests.tiny import ARGUMENTS

from .images import check_picture, made_up

SIZES = pytest.mark.parametrize(("num_categories", "num_concepts"), [(1, 1), (3, 4), (15, 32)])


@SIZES
def test_confusion(num_categories, num_concepts):
    """The table is drawn whole, with long names, for one and for many categories."""
    collected = made_up(num_categories, num_concepts)
    table = count_images(collected.train, collected.categories)
    picture = draw_confusion(table, measure_agreement(table), "confusion_train", "Training images")
    check_picture(picture.png)


@SIZES
@pytest.mark.parametrize("plain", [False, True])
def test_scores(num_categories, num_concepts, plain):
    """Histograms are drawn whole, with and without calibration."""
    check_picture(draw_scores(made_up(num_categories, num_concepts, plain)).png)


def test_scores_show_calibration_only_if_there_is_one():
    """A model without calibration gets one column of histograms; calibration changes the picture."""
    without, with_calibration = (draw_scores(made_up(3, plain=plain)).png for plain in (False, True))
    collected = made_up(3, plain=True)
    assert draw_scores(collected).png == with_calibration
    assert without != with_calibration
    only_score = collected._replace(test=collected.test.assign(plain=np.float32("nan")))
    assert draw_scores(only_score).png == without


def test_scores_of_awkward_groups():
    """A category without anomalies, equal scores, and no threshold are drawn, too."""
    collected = made_up(2, plain=False)
    first = collected.test["category"] == collected.categories[0]
    test = collected.test.assign(anomalous=np.where(first, 0, collected.test["anomalous"]), score=np.float32(0.5))
    check_picture(draw_scores(collected._replace(test=test, threshold=float("nan"))).png)
    unlabeled = test.assign(anomalous=np.where(first, np.nan, 0))
    check_picture(draw_scores(collected._replace(test=unlabeled)).png)


def test_best_threshold():
    """No threshold between or at the scores has a higher F1 score."""
    rng = np.random.default_rng(0)
    anomalous = rng.random(60) < 0.4
    scores = rng.normal(size=60).round(1) + anomalous

    def f1(threshold):
        alarms = scores >= threshold
        return 2 * (alarms & anomalous).sum() / (alarms.sum() + anomalous.sum())

    assert f1(best_threshold(scores, anomalous)) == max(f1(value) for value in scores)


@pytest.mark.parametrize("use_patterns", [False, True])
def test_codes(use_patterns):
    """Every codebook of the model is drawn, whether it has patterns or not, used or not."""
    model = VQFlowModel((64, 64), use_patterns=use_patterns, **ARGUMENTS)
    books = named_codebooks(model)
    assert len(books) == (5 if use_patterns else 1)
    unused = draw_codes(model).png
    model(torch.rand(4, 3, 64, 64))
    assert draw_codes(model).png != unused
    check_picture(draw_codes(model).png)


def test_codes_name_the_semantic_level():
    """The codebook of the semantic level is named so, the others by their level."""
    names = list(named_codebooks(VQFlowModel((64, 64), **ARGUMENTS)))
    assert names[0] == "concepts"
    assert "finest" in names[1]
    assert "semantic" in names[-1]
    without = named_codebooks(VQFlowModel((64, 64), use_fusion=False, **ARGUMENTS))
    assert not any("semantic" in name for name in without)


def test_pictures_are_reproducible():
    """Drawing twice gives equal bytes."""
    collected = made_up(3)
    table = count_images(collected.train, collected.categories)
    for draw in (
        lambda: draw_scores(collected),
        lambda: draw_confusion(table, measure_agreement(table), "confusion_train", "Training images"),
    ):
        assert draw().png == draw().png
