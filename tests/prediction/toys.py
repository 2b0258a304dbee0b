# SPDX-License-Identifier: Apache-2.0
"""Models that are understood at a glance, images for them, and the tables that come of both."""

import csv
import json

import numpy as np
import openvino
from openvino import opset13 as ops
from PIL import Image

from anomalib_vqflow.held_out import describe_held_out


def write_toy(path, concept=None, shape=(-1, 3, -1, -1), threshold=0.5, drop=(), half=False, metadata=None):
    """Write a model that scores an image by its mean; its concept, a tensor or an output, is its brightest value.

    Raw values, which it tells where it has metadata, are those that it tells.
    """
    image = ops.parameter(list(shape), np.float32, name="input")
    score = ops.reduce_mean(image, np.array([1, 2, 3]), keep_dims=False)
    brightest = ops.reduce_max(image, np.array([1, 2, 3]), keep_dims=False)
    index = ops.convert(ops.round(ops.multiply(brightest, np.float32(10)), "half_to_even"), "i64")
    index.output(0).set_names({"concept"} if concept else set())
    # Adding a value that is zero keeps the concept in the model even where it is no output.
    zero = ops.multiply(ops.convert(index, "f32"), np.float32(0))
    raw_map = ops.reduce_mean(image, np.array([1]), keep_dims=True)
    anomaly_map = ops.add(raw_map, np.float32(0))
    outputs = {"pred_score": ops.add(score, zero), "anomaly_map": anomaly_map}
    if threshold is not None:
        outputs["pred_label"] = ops.greater(score, np.float32(threshold))
        outputs["pred_mask"] = ops.greater(anomaly_map, np.float32(threshold))
    for name, node in outputs.items():
        node.output(0).set_names({name})
    if metadata is not None:
        score.output(0).set_names({"raw_score"})
        raw_map.output(0).set_names({"raw_map"})
    results = [node for name, node in outputs.items() if name not in drop] + ([index] if concept == "output" else [])
    model = openvino.Model(results, [image])
    if metadata is not None:
        model.set_rt_info(json.dumps(metadata), ["vqflow"])
    openvino.save_model(model, path, compress_to_fp16=half)
    return path


def toy_metadata(scores, concept=0, product="nut"):
    """What a toy says of itself that saw normal images of a concept with these scores."""
    rows = np.stack((scores, scores, np.full(len(scores), concept)), axis=1).astype(np.float32)
    scale = {"raw": 0.5, "raw_per_concept": None, "told": 0.5, "normalization": [0.0, 1.0]}
    return {
        "score": {"map": "additive", "top_k_ratio": 0.03},
        "thresholds": {"image": scale, "pixel": scale},
        "normal_scores": {"num_thresholds": 0, "raw": describe_held_out(rows)},
        "concepts": [{"index": concept, "product": product}],
    }


def save(path, mode, value, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).convert(mode).save(path)


def save_squares(path, *boxes, size=(60, 40)):
    """Write a black image with white rectangles, given as x, y, width, height."""
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    for x, y, width, height in boxes:
        pixels[y : y + height, x : x + width] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def rows_of(path):
    return list(csv.DictReader(path.open(encoding="utf-8", errors="surrogateescape")))
