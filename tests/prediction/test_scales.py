# SPDX-License-Identifier: Apache-2.0
"""Raw scores become told ones in NumPy as they do in the post-processor."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from anomalib_vqflow.export.metadata import describe_normal_scores, describe_thresholds
from anomalib_vqflow.ignored import ScoreRule
from anomalib_vqflow.outputs import Prediction as TorchPrediction
from anomalib_vqflow.post_processor import SeparatingPostProcessor
from anomalib_vqflow.prediction.predictions import ModelError, Prediction, Raw
from anomalib_vqflow.prediction.scales import held_out_of, products_of, scales_of, scales_of_rates

CONCEPTS = 3


def fitted(count=300, concepts=2, **arguments):
    """A post-processor that was fitted to normal images whose scores depend on their concept."""
    post, generator = SeparatingPostProcessor(**arguments), torch.Generator().manual_seed(count)
    concept = torch.arange(count) % concepts
    raw = torch.rand(count, 2, generator=generator) + concept[:, None]
    post.normal_scores = torch.cat((raw, concept[:, None].float()), dim=1)
    for name, column in (("image", 0), ("pixel", 1)):
        getattr(post, f"{name}_min").copy_(raw[:, column].min())
        getattr(post, f"{name}_max").copy_(2 * raw[:, column].max())
        getattr(post, f"_{name}_threshold").copy_(1.5 * raw[:, column].max())
    post.num_concepts = CONCEPTS
    return post


def metadata_of(post):
    described = {"thresholds": describe_thresholds(post), "normal_scores": describe_normal_scores(post)}
    return json.loads(json.dumps(described))


def check_equal(scales, post, seed=0):
    """New images of every concept get the same scores, labels, maps and masks."""
    rng = np.random.default_rng(seed)
    for concept in range(CONCEPTS):
        score, raw_map = rng.uniform(0, 4), rng.uniform(0, 4, (5, 6)).astype(np.float32)
        raw_map = torch.from_numpy(raw_map)[None, None]
        expected = post(TorchPrediction(torch.tensor([score]).float(), None, raw_map, None, torch.tensor([concept])))
        raw = raw_map.numpy()[0, 0]
        given = Prediction(0, None, None, raw, None, concept, Raw(score, raw, raw))
        found = scales.judge(given)
        assert found.score == pytest.approx(expected.pred_score.item(), abs=1e-6)
        assert found.label == (None if expected.pred_label is None else bool(expected.pred_label))
        np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map[0, 0], atol=1e-6)
        if expected.pred_mask is None:
            assert found.mask is None
        else:
            assert (found.mask == expected.pred_mask[0, 0].numpy()).all()


@pytest.mark.parametrize("arguments", [{}, {"enable_normalization": False}, {"image_sensitivity": 0.7}])
def test_a_model_tells_what_its_post_processor_does(arguments):
    """With and without normalization, with a sensitivity, and without a threshold."""
    post = fitted(**arguments)
    check_equal(scales_of(metadata_of(post)), post)
    post.reset_()
    check_equal(scales_of(metadata_of(post)), post)


def test_a_range_of_length_zero():
    """Scores are below, at, or above the threshold."""
    post = fitted()
    for name in ("image_max", "pixel_max", "_image_threshold", "_pixel_threshold"):
        getattr(post, name).copy_(post.image_min)
    post.pixel_min.copy_(post.image_min)
    check_equal(scales_of(metadata_of(post)), post)


@pytest.mark.parametrize("per_concept", [True, False])
@pytest.mark.parametrize("rates", [(0.1, 0.02), (0.005, 0.4)])
@pytest.mark.filterwarnings("ignore:The .* threshold is set by")
def test_a_rate_sets_the_thresholds_of_the_post_processor(rates, per_concept):
    """Of each concept that has enough images, from metadata alone; with too few images, too."""
    post = fitted(per_concept=per_concept)
    metadata = metadata_of(post)
    scales, _ = scales_of_rates(metadata, held_out_of(metadata, "model", "it"), *rates)
    post.set_false_alarm_rate(*rates)
    check_equal(scales, post)
    for name in ("image", "pixel"):
        expected = getattr(post, f"_{name}_threshold").item() + (
            getattr(post, f"{name}_offsets").numpy() if per_concept else 0
        )
        np.testing.assert_allclose(getattr(scales, name).thresholds, np.atleast_1d(expected), rtol=1e-6)


def test_new_images_keep_the_rate():
    """Of each concept, at most the rate that is asked for is called anomalous, on average over held-out images."""
    rates = []
    for count in range(200, 300, 2):
        metadata = metadata_of(fitted(count))
        scales, _ = scales_of_rates(metadata, held_out_of(metadata, "model", "it"), 0.1, 0.1)
        for concept in range(2):
            new = np.random.default_rng(count).uniform(0, 1, 500) + concept
            rates.append((scales.image.tell(new, concept) > scales.image.told).mean())
    assert 0.08 < np.mean(rates) < 0.1 + 3 * np.std(rates) / len(rates) ** 0.5


@pytest.mark.parametrize(
    ("rate", "sentence"),
    [
        (0.1, "At most 10.00% of new normal images are called anomalous. "),
        (0.01, "not 1.00%, for which 99 images are needed."),
    ],
)
def test_what_is_promised_is_said(rate, sentence):
    """And how many images the rate needs, if they are too few."""
    metadata = metadata_of(fitted(39))
    assert sentence in scales_of_rates(metadata, held_out_of(metadata, "model", "it"), rate, rate)[1]


@pytest.mark.parametrize("metadata", [None, {"normal_scores": None}, {"normal_scores": {"all": {}}}])
def test_models_that_know_no_scores_are_refused(metadata):
    """With the name of the file and of the option."""
    with pytest.raises(ModelError, match=r"m\.xml knows no scores of held-out normal images, which --it needs"):
        held_out_of(metadata, "m.xml", "--it")


def test_a_rate_needs_normalization():
    """Else its threshold would not be the one that scores are held against."""
    metadata = metadata_of(fitted(enable_normalization=False))
    with pytest.raises(ModelError, match="enable_normalization"):
        scales_of_rates(metadata, held_out_of(metadata, "model", "it"), 0.1, 0.1)


def test_raw_values_are_needed():
    """Told ones are clamped."""
    with pytest.raises(ValueError, match="raw values"):
        scales_of(metadata_of(fitted())).judge(Prediction(0, None, None, np.zeros((1, 1)), None, 0))


@pytest.mark.parametrize(("name", "is_absolute"), [("likelihood", True), ("additive", False)])
def test_how_the_score_comes_of_the_map(name, is_absolute):
    """Which raw maps are in [0, 1] already."""
    metadata = {"score": {"map": name, "top_k_ratio": 0.2}}
    assert scales_of(metadata).rule == ScoreRule(0.2, is_absolute)


def test_usual_products():
    """By concept, where they are known."""
    concepts = [SimpleNamespace(index=0, product="nut"), SimpleNamespace(index=3, product=None)]
    assert products_of({"concepts": [vars(concept) for concept in concepts]}) == {0: "nut"}
    assert products_of(None) == {}
