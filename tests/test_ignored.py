# SPDX-License-Identifier: Apache-2.0
"""Masks say what is ignored, and scores without it are those of the model."""

import numpy as np
import pytest
import torch
from PIL import Image

from anomalib_vqflow import anomaly_map
from anomalib_vqflow.ignored import IgnoredRegions, ScoreRule, to_unit

RULE = ScoreRule(0.05, is_absolute=True)


def write(path, mask, mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(255 * np.asarray(mask, dtype=np.uint8)).convert(mode).save(path)
    return path


def left_half(size=(10, 20)):
    return np.arange(size[1])[None].repeat(size[0], axis=0) < size[1] // 2


def test_the_unit_map_is_that_of_the_model():
    """Over all values that maps have."""
    raw = torch.cat((torch.linspace(-12, 30, 500), torch.logspace(1.5, 6, 50))).double()
    unit = anomaly_map.to_unit(raw).numpy()
    np.testing.assert_allclose(to_unit(raw.numpy()), unit, rtol=1e-9)


@pytest.mark.parametrize("score_map", ["likelihood", "multiplicative"])
def test_without_regions_the_score_is_that_of_the_model(score_map, tmp_path):
    """For absolute and relative maps, from the map that the model tells."""
    generator = anomaly_map.AnomalyMapGenerator(
        num_levels=1,
        num_concepts=2,
        score_map=score_map,
        top_k_ratio=0.1,
        map_levels=None,
        score_levels=None,
        map_log_det_weight=1.0,
    )
    torch.manual_seed(0)
    found = generator([3 * torch.randn(2, 8, 6, 6)], [torch.zeros(2, 6, 6)], torch.tensor([0, 1]), (24, 20))
    regions = IgnoredRegions(write(tmp_path / "m.png", left_half()), ScoreRule(0.1, score_map == "likelihood"))
    for score, raw_map in zip(found.pred_score, found.raw_score_map[:, 0], strict=True):
        assert regions.score(raw_map.numpy(), np.zeros((24, 20), bool)) == pytest.approx(score.item(), abs=1e-6)
    np.testing.assert_allclose(regions.rule.to_unit(found.raw_map.numpy()), found.anomaly_map, atol=1e-6)


def test_what_is_not_a_number_is_anomalous(tmp_path):
    """As in the model."""
    regions = IgnoredRegions(write(tmp_path / "m.png", left_half()), RULE)
    raw_map = np.zeros((4, 4), dtype=np.float32)
    raw_map[0, 0] = np.nan
    assert regions.score(raw_map, np.zeros((4, 4), dtype=bool)) == 1
    assert regions.rule.to_unit(raw_map)[0, 0] == 1


@pytest.mark.parametrize("is_absolute", [True, False])
def test_a_mask_never_makes_a_score_higher(is_absolute, tmp_path):
    """So that thresholds which were set without one keep their rate; and what is ignored has no influence."""
    regions = IgnoredRegions(write(tmp_path / "m.png", left_half()), ScoreRule(0.05, is_absolute))
    rng = np.random.default_rng(0)
    for _ in range(50):
        raw_map = rng.random((20, 30)).astype(np.float32)
        ignored = rng.random((20, 30)) < rng.uniform(0, 0.9)
        other = np.where(ignored, rng.random((20, 30)), raw_map).astype(np.float32)
        score = regions.score(raw_map, ignored)
        assert score <= regions.score(raw_map, np.zeros_like(ignored)) + 1e-7
        assert score == regions.score(other, ignored)


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "P", "RGBA"])
def test_white_is_ignored_in_any_png_of_any_size(mode, tmp_path):
    """A pixel of the map is, if its center is."""
    path = write(tmp_path / "m.png", left_half((10, 20)), mode)
    mask = IgnoredRegions(path, RULE).mask_of("any.png", (40, 80), (5, 7))
    assert mask.shape == (5, 7)
    assert (mask == (np.arange(7) + 0.5 < 3.5)).all()


def test_what_is_transparent_is_not_white(tmp_path):
    """Whatever color lies behind it."""
    pixels = np.full((8, 8, 4), 255, dtype=np.uint8)
    pixels[:, 2:, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "m.png")
    mask = IgnoredRegions(tmp_path / "m.png", RULE).mask_of("any.png", (8, 8), (8, 8))
    assert (mask == (np.arange(8) < 2)).all()


def test_a_mask_of_a_product_is_for_images_in_folders_of_its_name(tmp_path):
    """The innermost such folder; others have none."""
    write(tmp_path / "masks" / "nut.png", left_half())
    write(tmp_path / "masks" / "bolt.PNG", ~left_half())
    regions = IgnoredRegions(tmp_path / "masks", RULE)
    places = {"data/nut/test/good/0.png": "nut", "nut/bolt/0.png": "bolt", "data/nuts/nut.png": None}
    assert {place: regions.name_of(place) for place in places} == places
    assert regions.mask_of("data/nut/0.png", (10, 20), (10, 20))[:, 0].all()
    assert not regions.mask_of("data/bolt/0.png", (10, 20), (10, 20))[:, 0].any()
    assert regions.mask_of("data/lid/0.png", (10, 20), (10, 20)) is None
    regions.check_some(["data/lid/0.png", "nut/1.png"])
    with pytest.raises(ValueError, match=r"No image lies in a folder that a mask in \S+ is named like \(bolt, nut\)"):
        regions.check_some(["data/lid/0.png"])


def test_a_mask_of_other_proportions_is_refused(tmp_path):
    """It was drawn for another image."""
    regions = IgnoredRegions(write(tmp_path / "m.png", left_half((10, 20))), RULE)
    with pytest.raises(ValueError, match=r"mask \S+m\.png of 20x10 has other proportions than the image of 20x40"):
        regions.mask_of("any.png", (40, 20), (8, 8))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, r"There is no mask or folder of masks \S*m\.png"),
        (lambda path: path.mkdir(), r"There are no masks in \S*m\.png; give a folder with <product>\.png"),
        (lambda path: path.write_text("no image"), r"Cannot read the mask \S*m\.png"),
        (
            lambda path: write(path, np.ones((4, 4))),
            r"The mask \S*m\.png leaves 0\.0% of the image, less than the 5\.0%",
        ),
        (lambda path: write(path, np.arange(100)[None] < 96), r"leaves 4\.0% of the image"),
    ],
)
def test_masks_that_cannot_be_used_are_refused(make, message, tmp_path):
    """By their names: none, an empty folder, no image, all white, and almost all white."""
    make(tmp_path / "m.png")
    with pytest.raises(ValueError, match=message):
        IgnoredRegions(tmp_path / "m.png", RULE)
