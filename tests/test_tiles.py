# SPDX-License-Identifier: Apache-2.0
from itertools import pairwise

import pytest
import torch
from anomalib.callbacks import TilerConfigurationCallback
from torch.nn import functional as F
from torch.testing import assert_close

from anomalib_vqflow import VQFlowLoss
from anomalib_vqflow.tiles import Tiles

from .tiny import tiny_data, tiny_engine, tiny_model, tiny_root, tiny_torch_model

IMAGE, TILE = (64, 96), (32, 32)  # three rows of four tiles

LAYOUTS = [
    ((1500, 2000), (256, 256)),
    ((97, 64), (64, 64)),
    ((65, 130), (64, 48)),  # two rows of nearly the same, and three columns that all have something in common
    ((64, 64), (64, 64)),
]


def images(count=2, size=IMAGE, seed=1):
    generator = torch.Generator().manual_seed(seed)
    coarse = F.interpolate(torch.rand(count, 3, 4, 6, generator=generator), size)
    return coarse + 0.1 * torch.rand(count, 3, *size, generator=generator)


def build(**arguments):
    """Build a model that cuts tiles, whose codebooks are initialized and whose subnets are away from zero."""
    torch.manual_seed(0)
    model = tiny_torch_model(**{"input_size": IMAGE, "tile_size": TILE, **arguments})
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    with torch.no_grad():
        if model.needs_whitening:
            model.fit_whitening_([model.see(images(8, model.input_size))])
        for _ in range(2):
            model(images(8, model.input_size))
    return model.eval()


def scores_of_tiles(model, batch):
    """The scores of tiles, shape ``(B, T)``, and what becomes of them."""
    seen = []
    with model.anomaly_map_generator.register_forward_hook(lambda *call: seen.append(call[-1].pred_score)):
        prediction = model(batch)
    return seen[0].view(len(batch), -1), prediction


@pytest.mark.parametrize(("image", "tile"), LAYOUTS)
def test_tiles_cover_the_image_and_overlap(image, tile):
    """From its first to its last pixel, each tile with the next by an eighth at least; one tile less would not do."""
    tiles = Tiles(image, tile)
    for starts, length, side in zip((tiles.tops, tiles.lefts), image, tile, strict=True):
        assert (starts[0], starts[-1] + side) == (0, length)
        assert all(one + side - other >= side // 8 for one, other in pairwise(starts))
        assert len(starts) == 1 or (len(starts) - 1) * side - (len(starts) - 2) * (side // 8) < length
    assert len(tiles) == len(tiles.tops) * len(tiles.lefts)


@pytest.mark.parametrize(("image", "tile"), LAYOUTS)
def test_what_is_cut_is_joined_again(image, tile):
    """Every pixel is back in its place, to the bit, for several images of several channels."""
    tiles, whole = Tiles(image, tile), images(2, image)
    cut = tiles.cut(whole)

    assert cut.shape == (2 * len(tiles), 3, *tile)
    assert torch.equal(cut[len(tiles)], whole[1, :, : tile[0], : tile[1]])
    assert torch.equal(tiles.join(cut), whole)


def test_maps_fade_between_tiles():
    """Where tiles disagree, the map rises steadily from one to the other, and only where both see the image."""
    tiles = Tiles((64, 120), (64, 64))  # columns 0 to 64 and 56 to 120
    maps = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 64, 64)
    row = tiles.join(maps)[0, 0, 10]

    assert not row[:56].any()
    assert (row[56:64].diff() > 0).all()
    assert torch.equal(row[64:], torch.ones(56))


def test_a_small_defect_counts_in_its_tile_only():
    """It changes the score and the map of the only tile that sees it; the image has its score, if that is highest."""
    model, normal = build(use_whitening=True), images(2)
    spotted = normal.clone()
    spotted[0, :, 2:6, 2:6] = 20
    before, _ = scores_of_tiles(model, normal)
    after, prediction = scores_of_tiles(model, spotted)

    assert_close(after.flatten()[1:], before.flatten()[1:])
    assert after[0, 0] > before.max()
    assert torch.equal(prediction.pred_score, after.amax(dim=1))
    maps = model(normal).anomaly_map, prediction.anomaly_map
    changed = (maps[0] - maps[1]).abs() > 1e-5
    assert changed[0, 0, :16, :16].any()
    assert not changed[0, 0, :, 32:].any()
    assert not changed[0, 0, 32:].any()
    assert not changed[1].any()


def test_the_score_and_concept_are_those_of_the_highest_tile():
    """Of each image by itself, whatever else is in the batch."""
    model, batch = build(), images(4)
    with torch.no_grad():
        embeddings = model.concept.embed(model.see(images(4)).semantic)
        model.concept.codebook.codes.copy_(embeddings[::12])
    found, prediction = scores_of_tiles(model, batch)
    concepts = model.concept(model.see(batch).semantic).indices.view(4, -1)

    assert len(concepts.unique()) > 1
    assert torch.equal(prediction.concept, concepts[torch.arange(4), found.argmax(dim=1)])
    for index in range(4):
        alone = model(batch[index : index + 1])
        assert_close(alone.pred_score[0], prediction.pred_score[index])
        assert_close(alone.anomaly_map[0], prediction.anomaly_map[index])


def test_one_tile_is_the_image():
    """A tile of the size of the image changes nothing."""
    tiled, plain = build(input_size=TILE), build(input_size=TILE, tile_size=None)
    plain.load_state_dict(tiled.state_dict())
    batch = images(3, TILE)

    for one, other in zip(tiled(batch), plain(batch), strict=True):
        assert one is other is None or torch.equal(one, other)


def test_broken_pixels_are_anomalous():
    """A NaN makes its image and its place anomalous, not normal; other images keep their scores."""
    model, batch = build(), images(2)
    expected = model(batch)
    batch[0, 1, 3, 4] = torch.nan
    prediction = model(batch)

    assert prediction.pred_score[0] == 1
    assert prediction.anomaly_map[0, 0, 3, 4] == 1
    assert_close(prediction.pred_score[1], expected.pred_score[1])


def test_a_step_draws_some_tiles_of_all_images():
    """As many as a step takes, different ones each time, the same ones if their maps are known."""
    model, batch = build(), images(8)
    steps = []
    for features in (None, model.see(batch), None):
        if len(steps) < 2:
            torch.manual_seed(3)
        copy = build().train()
        if len(steps) == 2:
            torch.manual_seed(4)
        steps.append(copy(batch, features))

    known, unknown, other = (step.latents[0] for step in steps)
    assert len(known) == 64 < 8 * 12
    assert_close(known, unknown)
    assert not torch.allclose(known, other)


def test_a_single_image_of_several_tiles_trains():
    """All of its tiles make a batch, and every trainable parameter gets a gradient."""
    model = build().train()
    output = model(images(1))
    VQFlowLoss(commitment_weight=1.0, tail_weight=0.3)(
        output.latents, output.log_dets, output.commitment
    ).total.backward()

    assert len(output.latents[0]) == 12
    assert all(parameter.grad.any() for parameter in model.parameters() if parameter.requires_grad)


def test_training_fits_all_that_predictions_need(tmp_path):
    """Whitening, calibration and thresholds are fitted, also without validation images, and counts are of tiles."""
    data = tiny_data(tiny_root(tmp_path / "products"), val_split_mode="none", train_batch_size=1)
    model = tiny_model(input_size=IMAGE, tile_size=TILE, use_whitening=True)
    with pytest.warns(UserWarning, match="no validation images"):
        tiny_engine(tmp_path).fit(model, datamodule=data)

    generator = model.model.anomaly_map_generator
    assert generator.calibration.fitted
    assert not model.model.needs_whitening
    assert model.post_processor.known == (True, True)
    assert {name: sum(counts) for name, counts in model.product_counts.items()} == {"bolt": 4 * 12, "nut": 4 * 12}


def test_images_of_another_size_are_refused():
    """The message tells both sizes and what to do."""
    with pytest.raises(ValueError, match=r"cuts images of \(64, 96\) pixels.*got \(96, 64\).*resize"):
        build()(images(2, (96, 64)))


def test_the_callback_of_anomalib_is_refused():
    """Tiles that a callback sets would be lost in checkpoints and exports, so it must not set any."""
    callback = TilerConfigurationCallback(enable=True, tile_size=32, stride=16)
    with pytest.raises(ValueError, match="does not support tiling"):
        callback.setup(None, tiny_model())


def test_tiles_beyond_the_image_are_refused():
    """The message names the arguments."""
    with pytest.raises(ValueError, match=r"tile_size must not be larger.*\(96, 96\).*\(64, 64\).*input_size"):
        tiny_model(tile_size=96)
