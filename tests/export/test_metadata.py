# SPDX-License-Identifier: Apache-2.0
"""Exports say what they are, in a file beside them and inside."""

import json

import numpy as np
import onnx
import openvino
import pytest
import torch
from anomalib.post_processing import PostProcessor
from torchvision.transforms.v2 import Compose, Normalize, Resize

from anomalib_vqflow import SeparatingPostProcessor, VQFlow, __version__
from anomalib_vqflow.export.metadata import (
    LEVELS,
    METADATA_FILE,
    METADATA_KEY,
    as_text,
    describe_concepts,
    describe_normal_scores,
    describe_peak_threshold,
    describe_resize,
    describe_thresholds,
)
from anomalib_vqflow.export.pre_processor import AntialiasPreProcessor
from anomalib_vqflow.export.told_scores import peak_threshold
from anomalib_vqflow.quantization import Codebook
from tests.tiny import tiny_data, tiny_engine, tiny_model

NORMAL = torch.tensor([[1.0, 2.0, 0.0], [2.0, 3.0, 0.0], [3.0, 5.0, 2.0], [torch.nan, 1.0, 2.0]])


def post_processor(normal_scores=NORMAL, **arguments):
    """A post-processor that knows thresholds, ranges and normal scores."""
    post = SeparatingPostProcessor(**arguments)
    state = {"_image_threshold": 4.0, "_pixel_threshold": 6.0, "image_min": 0.0, "image_max": 8.0}
    for name, value in (state | {"pixel_min": 1.0, "pixel_max": 11.0}).items():
        getattr(post, name).copy_(torch.tensor(value))
    post.normal_scores = normal_scores
    return post


def inside(path):
    """What a file says of itself, in the words of its format."""
    if path.suffix == ".onnx":
        text = {entry.key: entry.value for entry in onnx.load(path).metadata_props}[METADATA_KEY]
    else:
        text = openvino.Core().read_model(path).get_rt_info(METADATA_KEY).astype(str)
    return json.loads(text)


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_an_export_describes_itself(model, exported, kind):
    """The file beside the model says the same as the model itself, and what the model is."""
    path = exported(kind)
    metadata = inside(path)
    assert json.loads((path.parent / METADATA_FILE).read_text(encoding="utf-8")) == metadata
    assert metadata["file"] == path.name
    assert metadata["compression"] == "fp32"
    assert metadata["input"] == {
        "size": None,
        "layout": "NCHW",
        "colors": "RGB",
        "type": "float32",
        "range": [0, 1],
        "bit_depth": None,
    }
    assert sorted(metadata["outputs"]) == ["anomaly_map", "pred_label", "pred_mask", "pred_score"]
    assert metadata["resize"]["size"] == [64, 64]
    assert metadata["products"] == ["bolt", "nut"]
    assert metadata["backbone"] == {"name": "test_convnext2", "pre_trained": False, "license": "apache-2.0"}
    assert metadata["versions"]["anomalib_vqflow"] == __version__
    assert metadata["versions"].keys() >= {"anomalib", "torch", "onnx", "openvino"}
    assert metadata["thresholds"]["image"]["raw"] == pytest.approx(model.post_processor.image_threshold.item())
    assert metadata["normal_scores"]["all"]["count"] == len(model.post_processor.normal_scores)
    told, normal_share = peak_threshold(model.post_processor)
    assert metadata["map_peak_threshold"] == pytest.approx({"told": told, "normal_share": normal_share})
    assert sum(concept["share"] for concept in metadata["concepts"]) == pytest.approx(1)


@pytest.mark.slow
def test_a_compressed_export_of_one_size(exported):
    """The precision and the size are those of the file."""
    metadata = inside(exported("openvino", "int8_ptq", input_size=(64, 64)))
    assert (metadata["compression"], metadata["input"]["size"]) == ("int8_ptq", [64, 64])


def test_normal_scores_are_those_that_the_model_tells(model, root):
    """The quantiles are of what the model says of its normal validation images."""
    data = tiny_data(root)
    data.setup()
    normal = [item for item in data.val_data if not item.gt_label]
    told = [model(item.image[None]).pred_score.item() for item in normal]
    described = describe_normal_scores(model.post_processor)["all"]
    assert described["count"] == len(normal)
    np.testing.assert_allclose(described["score"], np.quantile(told, LEVELS), atol=1e-4)


def test_normal_scores_are_told_by_concept():
    """Images whose score is not a number are left out."""
    described = describe_normal_scores(post_processor())
    assert described["levels"] == list(LEVELS)
    assert described["all"]["count"] == 3
    assert described["concepts"].keys() == {"0", "2"}
    assert described["raw"]["0"] == {"ranks": None, "score": [1.0, 2.0], "map_peak": [2.0, 3.0]}
    assert described["concepts"]["2"] == {"count": 1, "score": [0.375] * 11, "map_peak": [0.4] * 11}


@pytest.mark.parametrize("post", [None, PostProcessor(), SeparatingPostProcessor()])
def test_what_is_not_known_is_null(post):
    """No number is made up, and JSON holds what is told."""
    assert describe_normal_scores(post) is None
    assert describe_peak_threshold(post) is None
    thresholds = describe_thresholds(post)
    assert json.loads(as_text({"thresholds": thresholds})) == {"thresholds": thresholds}
    if post is not None:
        assert set(thresholds["image"].values()) == {None}


def test_thresholds_of_the_best_f1_score():
    """Thresholds that the normal scores do not give were set by anomalies."""
    image, pixel = describe_thresholds(post_processor(image_sensitivity=0.75)).values()
    assert (image["raw"], pixel["raw"]) == (4.0, 6.0)
    assert (image["told"], pixel["told"]) == (0.25, 0.5)
    assert image["set_by"] == pixel["set_by"] == "f1_score"
    assert (image["normalization"], pixel["normalization"]) == ([0.0, 8.0], [1.0, 11.0])
    assert image["raw_per_concept"] is None


@pytest.mark.parametrize("per_concept", [True, False])
@pytest.mark.parametrize("rate", [0.1, None])
def test_thresholds_of_a_rate(rate, per_concept):
    """The rate is that which the images can promise; concepts may have thresholds of their own."""
    scores = torch.arange(40.0)
    post = post_processor(torch.stack((scores, scores + 1, scores % 2), dim=1), per_concept=per_concept)
    post.num_concepts = 3
    if rate:
        post.set_false_alarm_rate(rate)
    else:
        with pytest.warns(UserWarning, match="for which 99 are needed"):
            post._keep_rates()
    for kind, described in describe_thresholds(post).items():
        assert described["set_by"] == "false_alarm_rate"
        assert described["false_alarm_rate"] == pytest.approx(rate or 1 / 41, abs=0.03)
        if per_concept:
            expected = getattr(post, f"{kind}_threshold") + getattr(post, f"{kind}_offsets")
            assert described["raw_per_concept"] == pytest.approx(expected.tolist())
        else:
            assert described["raw_per_concept"] is None


def test_concepts():
    """Those in use, each with the product that most of its images show, if that is known."""
    codebook = Codebook(num_codes=4, code_dim=2, novelty=0.0)
    codebook.code_counts.copy_(torch.tensor([3.0, 1.0, 0.0, 0.0]))
    described = describe_concepts(codebook, {"bolt": [4, 0, 1, 0], "nut": [5, 0, 0, 0]})
    assert described == [
        {"index": 0, "share": 0.75, "product": "nut", "products": {"bolt": 4, "nut": 5}},
        {"index": 1, "share": 0.25, "product": None, "products": {}},
        {"index": 2, "share": 0.0, "product": "bolt", "products": {"bolt": 1}},
    ]
    assert [concept["product"] for concept in describe_concepts(codebook, None)] == [None, None]


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (Compose([Resize((48, 64), antialias=True), Normalize([0.5], [0.5])]), ([48, 64], "bilinear", True)),
        (Resize(32, antialias=False), ([32], "bilinear", False)),
        (Normalize([0.5], [0.5]), None),
    ],
)
def test_the_resize(transform, expected):
    """The first one tells its rule, and the whole transform is told in words."""
    described = describe_resize(AntialiasPreProcessor(transform))
    assert "\n" not in described.pop("transform")
    assert (tuple(described.values()) or None) == expected
    assert describe_resize(None) is None


def test_products_of_the_training(root, tmp_path):
    """A checkpoint remembers what its training saw of each product; one without a datamodule of products nothing."""
    data, engine = tiny_data(root), tiny_engine(tmp_path)
    engine.fit(tiny_model(evaluator=False), datamodule=data)
    counts = VQFlow.load_from_checkpoint(engine.best_model_path).product_counts
    assert counts.keys() == {"bolt", "nut"}
    expected = data.train_data.samples.category.value_counts().to_dict()
    assert {name: sum(numbers) for name, numbers in counts.items()} == expected
    assert tiny_model().product_counts is None


def test_numbers_are_none_or_finite():
    """JSON has no word for the others."""
    with pytest.raises(ValueError, match="JSON compliant"):
        as_text({"threshold": float("nan")})
