# SPDX-License-Identifier: Apache-2.0
"""Vision transformers: blocks, groups, the full token grid, tokens for the concept, image sizes, weights, exports."""

import openvino
import pytest
import safetensors.torch
import timm
import torch
from anomalib.deploy import CompressionType
from lightning.pytorch import seed_everything
from torch.testing import assert_close

from anomalib_vqflow import FeatureCache
from anomalib_vqflow.features import Features

from .export.predictions import FP32, some_images
from .test_features import make_pyramid
from .tiny import tiny_data, tiny_engine, tiny_model, tiny_root

VIT = "test_vit"  # six blocks of 64 channels, patches of 16 pixels, one CLS token
REGISTERS = "vit_small_patch14_reg4_dinov2"
TOKENS = {"detail_pooling": "none", "prefix_tokens": True}


def block_outputs(pyramid, images):
    """What each block returns, ``(B, 1 + h * w, C)``, heard by hooks."""
    outputs = []
    hooks = [block.register_forward_hook(lambda *args: outputs.append(args[-1])) for block in pyramid.body.model.blocks]
    features = pyramid(images)
    for hook in hooks:
        hook.remove()
    return outputs, features


def as_map(tokens, height, width):
    return tokens[:, 1:].transpose(1, 2).unflatten(2, (height, width))


@pytest.mark.parametrize("prefix_tokens", [False, True])
@pytest.mark.parametrize("layers", [[1, 3, 5], ["blocks.1", -3, "blocks.5"], [0, [2, "blocks.4"], [3, 5]]])
def test_maps_are_what_blocks_return(layers, prefix_tokens):
    """By index or name, the full token grid, groups averaged; the tokens are those of the last layer."""
    pyramid = make_pyramid(
        VIT,
        layers=layers,
        input_size=(64, 96),
        semantic_level=True,
        detail_pooling="none",
        prefix_tokens=prefix_tokens,
    )
    outputs, features = block_outputs(pyramid, torch.rand(2, 3, 64, 96))
    groups = [[1], [3], [5]] if layers[0] != 0 else [[0], [2, 4], [3, 5]]
    means = [torch.stack([outputs[index] for index in group]).mean(dim=0) for group in groups]

    for detail, mean in zip(features.details, means, strict=True):
        assert_close(detail, as_map(mean, 4, 6))
    assert torch.equal(features.semantic, features.details[-1])
    assert pyramid.detail_shapes == [(64, 4, 6)] * 3
    if prefix_tokens:
        assert_close(features.tokens, means[-1][:, 0])
    else:
        assert features.tokens is None


def test_blocks_are_evenly_spread_by_default():
    """The last one is among them."""
    pyramid = make_pyramid(VIT, num_levels=2, semantic_level=True)
    outputs, features = block_outputs(pyramid, torch.rand(1, 3, 64, 64))
    assert len(outputs) == 6
    assert_close(features.semantic, as_map(outputs[-1], 4, 4))
    assert len(features.details) == 2


def test_all_register_tokens_are_given():
    """One after another, CLS first."""
    pyramid = make_pyramid(REGISTERS, layers=[0, 1], input_size=(28, 28), prefix_tokens=True)
    outputs, features = block_outputs(pyramid, torch.rand(2, 3, 28, 28))
    assert pyramid.token_channels == 5 * 384
    assert_close(features.tokens, outputs[-1][:, :5].flatten(1))


def test_tokens_leave_autocast_in_float32():
    """As maps do."""
    with torch.autocast("cpu", torch.bfloat16):
        features = make_pyramid(VIT, prefix_tokens=True)(torch.rand(1, 3, 64, 64))
    assert features.tokens.dtype == features.semantic.dtype == torch.float32


@pytest.mark.parametrize("backbone", ["test_convnext2", "vit_relpos_small_patch16_224", "hiera_tiny_224"])
def test_backbones_without_tokens_are_refused(backbone):
    """A CNN, a transformer without a CLS token, and a pyramid of windows."""
    with pytest.raises(ValueError, match=f"prefix_tokens: .*'{backbone}'.* leave it False"):
        make_pyramid(backbone, prefix_tokens=True)


def test_tokens_tell_the_concept():
    """They change the embedding of the same map, and gradients reach what reads them."""
    model = tiny_model(backbone=VIT, **TOKENS).model
    features = model.see(torch.rand(4, 3, 64, 64))
    other = features._replace(tokens=features.tokens + torch.randn_like(features.tokens))

    embeddings = [model.concept.embed(seen.semantic, seen.tokens) for seen in (features, other)]
    assert (embeddings[0] - embeddings[1]).abs().max() > 1e-3
    model(torch.rand(4, 3, 64, 64)).commitment.backward()
    gradient = model.concept.mlp[0].weight.grad
    assert gradient.shape == (16, 2 * 64)
    assert gradient[:, 64:].any()


def test_tokens_of_tiles_stay_with_their_tiles():
    """Tile by tile they are those of the tile as an image, also among those that a training step draws."""
    model = tiny_model(backbone=VIT, tile_size=64, input_size=(64, 96), **TOKENS).model
    images = torch.rand(3, 3, 64, 96)
    seen = model.see(images)
    tiles = model.tiles.cut(images)
    assert_close(seen.tokens, model.features(tiles).tokens)

    drawn = []
    for known in (None, seen):
        torch.manual_seed(1)
        drawn.append(model.tiles.draw(images, known))
    of_drawn = model.features(drawn[0][0])
    assert_close(drawn[1][1].tokens, of_drawn.tokens)
    assert_close(drawn[1][1].semantic, of_drawn.semantic)


@pytest.mark.parametrize("tile_size", [None, 64])
def test_cached_tokens_are_those_of_the_images(tmp_path, tile_size):
    """A batch of cached maps equals the one that is computed of its images, up to half precision."""
    seed_everything(0)
    model = tiny_model(backbone=VIT, tile_size=tile_size, input_size=(64, 96), **TOKENS)
    seen = []

    def compare(_module, inputs, _output):
        if model.training:
            seen.append(inputs[1])

    model.model.register_forward_hook(compare)
    data = tiny_data(tiny_root(tmp_path / "products"), train_batch_size=8)
    tiny_engine(tmp_path, callbacks=[FeatureCache()]).fit(model, datamodule=data)
    data.setup()
    images = torch.stack([item.image for item in data.train_data])
    expected = model.model.see(model.prepare(images))

    (cached,) = seen
    assert isinstance(cached, Features)
    assert cached.tokens.dtype == torch.float32
    assert cached.tokens.shape == expected.tokens.shape
    for got, wanted in ((cached.tokens, expected.tokens), (cached.semantic, expected.semantic)):
        order = [torch.cdist(row[None].flatten(1), wanted.flatten(1)).argmin() for row in got]  # the loader shuffles
        assert_close(got, wanted[torch.stack(order)], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(("backbone", "input_size"), [(VIT, (48, 80)), (VIT, (16, 16)), (REGISTERS, (28, 42))])
def test_sizes_of_whole_patches_work(backbone, input_size):
    """Whatever size the backbone was made for."""
    pyramid = make_pyramid(backbone, layers=[0, 1], input_size=input_size)
    patch = 14 if backbone == REGISTERS else 16
    assert pyramid.semantic_shape[1:] == tuple(size // patch for size in input_size)
    assert pyramid(torch.rand(1, 3, *input_size)).semantic.isfinite().all()


@pytest.mark.parametrize(
    ("backbone", "input_size", "nearest"),
    [(VIT, (64, 90), r"16 is \(64, 96\)"), (REGISTERS, (64, 64), r"14 is \(70, 70\)")],
)
def test_other_sizes_are_refused(backbone, input_size, nearest):
    """A rest would be cut off, and the map shifted; the message names the nearest size of whole patches."""
    with pytest.raises(ValueError, match=rf"'{backbone}' cannot take images of .*multiples of {nearest}.*leave a rest"):
        make_pyramid(backbone, layers=[0, 1], input_size=input_size)


@pytest.mark.parametrize("whole_model", [False, True])
def test_weights_of_another_size_are_resampled(tmp_path, whole_model):
    """Position embeddings in a file come to the size of the images, as timm does it; the rest is as in the file."""
    source = timm.create_model(VIT, img_size=(64, 64), features_only=not whole_model)
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(source.state_dict(), path)
    pyramid = make_pyramid(VIT, pre_trained=path, input_size=(96, 128), layers=[2, 5])
    state = {name.removeprefix("model."): tensor for name, tensor in source.state_dict().items()}
    # As timm has it by then: anomalib's extractor, once used, switches antialiasing off in this module.
    resample = timm.models.vision_transformer.resample_abs_pos_embed
    expected = resample(state["pos_embed"], (6, 8), num_prefix_tokens=1)

    found = pyramid.body.model.state_dict()
    assert_close(found.pop("pos_embed"), expected)
    assert not torch.equal(expected[:, :17], state["pos_embed"])
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.items())


# By name: trained for a step, exported and compared. All have random weights, so that nothing is downloaded.

FIRST_BLOCKS = {"layers": [1, 2, 3]}  # all blocks are alike, and a third of them exports in half the time
TRANSFORMERS = {
    "vit_small_patch14_reg4_dinov2": (56, TOKENS | {"layers": [[0, 1], 2, 3]}),
    "vit_small_patch16_dinov3": (64, TOKENS | FIRST_BLOCKS),
    "vit_base_patch16_clip_224": (64, TOKENS | FIRST_BLOCKS),
    "eva02_small_patch14_224": (56, TOKENS | FIRST_BLOCKS),
    "swinv2_tiny_window8_256": (64, {}),
    "convnext_tiny.dinov3_lvd1689m": (64, {}),
    "hiera_tiny_224": (64, {}),
}
# INT8 takes another export and NNCF; these are one of each kind: tokens, convolutions, attention of five dimensions.
IN_INT8 = ["vit_small_patch14_reg4_dinov2", "convnext_tiny.dinov3_lvd1689m", "hiera_tiny_224"]


def train_steps(backbone, data, folder):
    """Train two steps of four images, so that whitening, flows, calibration and thresholds are those of a training."""
    seed_everything(0)
    size, arguments = TRANSFORMERS[backbone]
    model = tiny_model(backbone=backbone, input_size=size, use_whitening=True, lr=1e-3, **arguments)
    parameters = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    before = {name: tensor.detach().clone() for name, tensor in parameters.items()}
    tiny_engine(folder).fit(model, datamodule=data)

    assert all(tensor.isfinite().all() for tensor in parameters.values())
    assert any(not torch.equal(tensor, before[name]) for name, tensor in parameters.items() if "concept.mlp" in name)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in parameters.items() if "flow" in name)
    return model.eval(), some_images(8, (size, size))


def predict_both(model, images, path):
    """Maps and scores of the export, and of the model."""
    got = openvino.Core().compile_model(path, "CPU", FP32)(images.numpy())
    with torch.no_grad():
        expected = model(images)
    names = ("anomaly_map", "pred_score")
    return [(torch.from_numpy(got[name]).flatten(), getattr(expected, name).flatten()) for name in names]


@pytest.mark.slow
@pytest.mark.parametrize("backbone", TRANSFORMERS)
def test_transformers_train_and_export(backbone, tmp_path, onnx_steps):
    """In FP32, the export tells the same; in INT8, maps and scores go up and down with it."""
    data = tiny_data(tiny_root(tmp_path / "products"))
    model, images = train_steps(backbone, data, tmp_path)
    with onnx_steps():
        paths = [model.to_openvino(tmp_path / "fp32")]
        if backbone in IN_INT8:
            compression = {"compression_type": CompressionType.INT8_PTQ, "datamodule": data}
            paths.append(model.to_openvino(tmp_path / "int8", **compression))
    for got, expected in predict_both(model, images, paths[0]):
        assert expected.max() - expected.min() > 0.01
        assert_close(got, expected, rtol=0, atol=1e-3)
    for path in paths[1:]:
        for got, expected in predict_both(model, images, path):
            assert torch.corrcoef(torch.stack([got, expected]))[0, 1] > 0.9
