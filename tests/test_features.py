# SPDX-License-Identifier: Apache-2.0
import urllib.error

import pytest
import safetensors.torch
import timm
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from anomalib_vqflow import features as features_module
from anomalib_vqflow.backbones import SHIPPED
from anomalib_vqflow.features import FeaturePyramid

from .reference import SHARED

MOBILENET = SHARED / "weights" / "mobilenetv2_100_in1k.safetensors"
RESNET = SHARED / "weights" / "resnet18_in1k_layer1-3.safetensors"
needs_weights = pytest.mark.skipif(not MOBILENET.is_file(), reason=f"needs the weights in {MOBILENET.parent}")
TINY = "test_convnext2"
SWIN = "swin_tiny_patch4_window7_224"

BACKBONES = {
    TINY: (32, 64, 96, 128),
    SHIPPED: (32, 64, 96, 160),
    "convnextv2_atto": (40, 80, 160, 320),
    "convnext_tiny": (96, 192, 384, 768),
    "resnet18": (64, 128, 256, 512),
    "efficientnet_b0": (24, 40, 112, 320),
    "mobilenetv2_100": (24, 32, 96, 320),
    "densenet121": (256, 512, 1024, 1024),
    SWIN: (96, 192, 384, 768),
}
LARGE_BACKBONES = {"convnextv2_base": (128, 256, 512, 1024), "wide_resnet50_2": (256, 512, 1024, 2048)}


PUBLISHED = {
    "layers": None,
    "num_levels": 3,
    "detail_pooling": "stride_2",
    "semantic_level": False,
    "prefix_tokens": False,
}


def make_pyramid(backbone=TINY, *, pre_trained=False, input_size=(64, 64), **options) -> FeaturePyramid:
    return FeaturePyramid(backbone=backbone, pre_trained=pre_trained, input_size=input_size, **{**PUBLISHED, **options})


def assert_shapes_as_announced(pyramid: FeaturePyramid, input_size) -> None:
    details, semantic, _ = pyramid(torch.rand(2, 3, *input_size))
    assert [tuple(h.shape) for h in details] == [(2, *shape) for shape in pyramid.detail_shapes]
    assert tuple(semantic.shape) == (2, *pyramid.semantic_shape)
    assert all(h.isfinite().all() and not h.requires_grad for h in (*details, semantic))


@pytest.mark.parametrize(
    ("backbone", "channels"),
    [*BACKBONES.items(), *(pytest.param(*item, marks=pytest.mark.slow) for item in LARGE_BACKBONES.items())],
)
def test_backbones_by_name(backbone, channels):
    """The last four maps have strides 4 to 32, and what comes out has the channels and sizes announced."""
    pyramid = make_pyramid(backbone, input_size=(64, 96))

    assert pyramid.shapes == [(c, 64 // s, 96 // s) for c, s in zip(channels, (4, 8, 16, 32), strict=True)]
    assert_shapes_as_announced(pyramid, (64, 96))


@pytest.mark.parametrize("backbone", [name for name in BACKBONES if name != SHIPPED])
def test_sizes_that_are_no_multiple_of_32(backbone):
    """They work, and the shapes are those that come out."""
    assert_shapes_as_announced(make_pyramid(backbone, input_size=(70, 101)), (70, 101))


def test_maps_are_what_the_backbone_gives():
    """Detail maps are its maps averaged over 3 × 3 at stride 2, zeros counted; the semantic one is as it is."""
    pyramid, images = make_pyramid(), torch.rand(2, 3, 64, 64)
    details, semantic, _ = pyramid(images)
    *maps, last = pyramid.body(images)

    assert torch.equal(semantic, last)
    for detail, full in zip(details, maps, strict=True):
        padded = F.pad(full, (1, 1, 1, 1))
        for row, column in ((0, 0), (1, 0), (detail.shape[2] - 1, detail.shape[3] - 1)):
            window = padded[:, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            assert_close(detail[:, :, row, column], window.sum(dim=(2, 3)) / 9)


@pytest.mark.parametrize("input_size", [(64, 96), (384, 384)])
def test_channels_last_maps_are_turned(input_size):
    """Swin gives (B, h, w, C); at 384 pixels its first map is as wide as it has channels, 96."""
    pyramid = make_pyramid(SWIN, input_size=input_size)
    height, width = input_size
    assert pyramid.shapes == [
        (c, height // s, width // s) for c, s in zip(BACKBONES[SWIN], (4, 8, 16, 32), strict=True)
    ]
    if input_size == (64, 96):
        images = torch.rand(1, 3, *input_size)
        assert torch.equal(pyramid(images).semantic, pyramid.body(images)[-1].permute(0, 3, 1, 2))


def test_swin_takes_its_own_size_only():
    """Images of another size than the one it was built for get an answer that says what to do."""
    pyramid = make_pyramid(SWIN, input_size=(64, 96))
    with pytest.raises(ValueError, match=r"images of \(64, 96\) pixels, got \(64, 64\); .*input_size"):
        pyramid(torch.rand(1, 3, 64, 64))


def test_convolutional_backbones_take_other_sizes():
    """The nominal size binds nobody."""
    details, semantic, _ = make_pyramid(input_size=(64, 64))(torch.rand(1, 3, 96, 128))

    assert details[0].shape[2:] == (12, 16)
    assert semantic.shape[2:] == (3, 4)


@pytest.mark.parametrize(("backbone", "input_size"), [(TINY, (3, 40)), (SWIN, (3, 40)), ("densenet121", (16, 40))])
def test_refused_sizes_name_the_nearest_valid_one(backbone, input_size):
    """The message names the backbone, the size, a size that works, and the backbone's own words."""
    with pytest.raises(ValueError, match=rf"'{backbone}' cannot take images of {input_size[0]}x40 .*\(32, 32\)"):
        make_pyramid(backbone, input_size=input_size)
    make_pyramid(backbone, input_size=(32, 32))


def test_sizes_refused_for_another_reason_name_the_backbones_own():
    """A backbone for square images says so; the size that it was made for is offered."""
    with pytest.raises(ValueError, match=r"'nest_tiny' cannot take images of 64x96 .*\(224, 224\).* square"):
        make_pyramid("nest_tiny", input_size=(64, 96))


def test_stays_frozen():
    """train() leaves it in eval mode, no parameter wants a gradient, and batch statistics do not move."""
    pyramid = make_pyramid("resnet18")
    parent = torch.nn.Sequential(pyramid).train()
    before = {name: tensor.clone() for name, tensor in pyramid.state_dict().items()}
    images = torch.rand(4, 3, 64, 64, requires_grad=True)
    details, semantic, _ = parent(images)

    assert parent.training
    assert not any(module.training for module in pyramid.modules())
    assert not any(parameter.requires_grad for parameter in pyramid.parameters())
    assert not any(h.requires_grad for h in (*details, semantic))
    for name, tensor in pyramid.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_maps_leave_autocast_in_float32(dtype):
    """The backbone may compute in half precision; what follows gets float32."""
    with torch.autocast("cpu", dtype):
        details, semantic, _ = make_pyramid("resnet18")(torch.rand(2, 3, 64, 64))

    assert {h.dtype for h in (*details, semantic)} == {torch.float32}


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([0, 1, 2, 3], [0, 1, 2, 3]),
        ([0, 3], [0, 3]),
        ([1, -1], [1, 3]),
        ([-3, -2, -1], [1, 2, 3]),
        (["stages.0", "stages.2"], [0, 2]),
        (["stages.1", -1], [1, 3]),
        (None, [0, 1, 2, 3]),
    ],
)
def test_layers_by_index_and_name(layers, expected):
    """Indices, negative ones, names and mixtures choose the same maps."""
    pyramid, images = make_pyramid(layers=layers), torch.rand(1, 3, 64, 64)
    full = timm.create_model(TINY, features_only=True).eval()
    full.load_state_dict(pyramid.body.state_dict(), strict=False)  # unused stages are cut off
    maps = full(images)

    assert len(pyramid.detail_shapes) == len(expected) - 1
    assert [shape[0] for shape in pyramid.shapes] == [BACKBONES[TINY][i] for i in expected]
    if expected[-1] < 3 or len(expected) == 4:
        assert_close(pyramid(images).semantic, maps[expected[-1]])


@pytest.mark.parametrize("num_layers", [2, 3, 4, 5])
def test_any_number_of_detail_levels(num_layers):
    """One detail level up to all that the backbone has."""
    pyramid = make_pyramid("resnet18", layers=range(num_layers))

    assert len(pyramid.detail_shapes) == num_layers - 1
    assert_shapes_as_announced(pyramid, (64, 64))


def test_backbones_of_five_maps_give_the_last_four():
    """The map at stride 2 is left out unless it is asked for."""
    assert [shape[1] for shape in make_pyramid("resnet18").shapes] == [16, 8, 4, 2]


def test_unknown_backbone_lists_similar_ones():
    """A slip in the name is answered with the names nearby."""
    with pytest.raises(ValueError, match=r"'resnet81'.*Unknown model.*'resnet18'"):
        make_pyramid("resnet81")


def test_unknown_weights_tag_is_refused():
    """So is a tag that timm does not have."""
    with pytest.raises(ValueError, match=r"'resnet18\.nosuch'.*[Ii]nvalid pretrained tag"):
        make_pyramid("resnet18.nosuch")


@pytest.mark.parametrize("layer", ["stages.7", "layer1", 4, -5])
def test_unknown_layer_lists_what_there_is(layer):
    """The message has the layer asked for, the indices and the names."""
    with pytest.raises(ValueError, match=rf"no layer {layer!r}\. It has 0 to 3, named \['stages.0', .*'stages.3'\]"):
        make_pyramid(layers=[layer, -1])


@pytest.mark.parametrize("layers", [[], [2], [1, 1], [3, 0], [3, -1], ["stages.2", "stages.1"]])
def test_layers_must_be_two_different_ones_fine_to_coarse(layers):
    """Too few, repeated, or in the wrong order."""
    with pytest.raises(ValueError, match="at least two different layers, fine to coarse"):
        make_pyramid(layers=layers)


def test_shipped_weights_need_no_network():
    """The package's own backbone is trained: two pyramids agree."""
    first, second = (make_pyramid(SHIPPED, pre_trained=True) for _ in range(2))
    images = torch.rand(1, 3, 64, 64)

    assert torch.equal(first(images).semantic, second(images).semantic)


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "pt"])
@pytest.mark.parametrize("whole_model", [False, True])
@pytest.mark.parametrize("backbone", [TINY, "resnet18"])
def test_weights_from_a_file(tmp_path, backbone, whole_model, suffix):
    """Files of timm's feature model and of its whole model load, in half precision, too, from safetensors or torch."""
    source = timm.create_model(backbone, features_only=not whole_model).eval()
    state = {name: t.half() if t.is_floating_point() else t for name, t in source.state_dict().items()}
    path = tmp_path / f"weights.{suffix}"
    if suffix == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save({"state_dict": state} if suffix == "pth" else state, path)
    pyramid = make_pyramid(backbone, pre_trained=str(path))

    found = {name.replace(".", "_"): tensor for name, tensor in state.items()}
    for name, tensor in pyramid.body.state_dict().items():
        assert tensor.dtype in {torch.float32, torch.int64}
        assert torch.equal(tensor, found[name.replace(".", "_")].to(tensor.dtype)), name


@needs_weights
def test_shared_mobilenet_weights():
    """The recorded ImageNet weights load, head and all, and differ from random ones."""
    pyramid = make_pyramid("mobilenetv2_100", pre_trained=MOBILENET)
    state, recorded = pyramid.body.state_dict(), safetensors.torch.load_file(MOBILENET)
    compared = [name for name in state if name in recorded]

    assert len(compared) > 250
    assert all(torch.equal(state[name], recorded[name].to(state[name].dtype)) for name in compared)


@needs_weights
def test_shared_resnet_weights_have_three_layers_only():
    """They fit the layers that the file has; asked for the fourth, the message names what is missing."""
    assert make_pyramid("resnet18", layers=[1, 2, 3], pre_trained=RESNET).semantic_shape == (256, 4, 4)
    with pytest.raises(ValueError, match=r"Missing or of another shape .*layer4"):
        make_pyramid("resnet18", pre_trained=RESNET)


def test_wrong_file_names_missing_and_unexpected_keys(tmp_path):
    """Weights of another backbone are refused with both lists."""
    path = tmp_path / "resnet.safetensors"
    safetensors.torch.save_file(timm.create_model("resnet18").state_dict(), path)
    with pytest.raises(ValueError, match=rf"does not fit backbone '{TINY}'.*Missing.*stem.*Unexpected .*conv1.weight"):
        make_pyramid(pre_trained=path)


def test_weights_of_another_width_are_refused(tmp_path):
    """Right names with wrong shapes are named, too."""
    state = timm.create_model(TINY).state_dict()
    state["stages.0.blocks.0.norm.weight"] = torch.ones(7)
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file(state, path)
    with pytest.raises(ValueError, match=r"of another shape \(1\): \['stages_0.blocks.0.norm.weight'\]"):
        make_pyramid(pre_trained=path)


def test_missing_file_is_named(tmp_path):
    """A path that is no file, or a folder."""
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(FileNotFoundError, match=str(path)):
            make_pyramid(pre_trained=path)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
@pytest.mark.parametrize("content", [b"", b"no weights at all" * 10])
def test_corrupt_file_is_named(tmp_path, name, content):
    """Neither format's own error reaches the user bare."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} is no readable state dict .*\.safetensors or torch file") as caught:
        make_pyramid(pre_trained=path)
    assert "arbitrary code" not in str(caught.value), "torch's advice to load unsafely must not be passed on"


@pytest.mark.parametrize("content", [[1, 2], {0: torch.zeros(1)}, torch.zeros(3)], ids=["list", "numbered", "tensor"])
def test_torch_file_of_something_else_is_refused(tmp_path, content):
    """A torch file need not hold a state dict."""
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="is no readable state dict"):
        make_pyramid(pre_trained=tmp_path / "weights.pth")


def test_torch_file_cannot_run_code(tmp_path):
    """Pickled objects other than tensors are refused, not executed."""
    torch.save(torch.nn.Linear(2, 2), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"is no readable state dict .*[Ww]eights.only"):
        make_pyramid(pre_trained=tmp_path / "weights.pth")


@pytest.mark.parametrize(
    "error", [FileNotFoundError("no local copy"), ConnectionError("no route"), urllib.error.URLError("no name")]
)
def test_failed_download_names_the_two_ways_round(monkeypatch, error):
    """The message has the backbone, the reason, pre_trained=path and the backbone that needs no download."""
    create_model = timm.create_model

    def offline(*args, **kwargs):
        if kwargs.get("pretrained"):
            raise error
        return create_model(*args, **kwargs)

    monkeypatch.setattr(features_module.timm, "create_model", offline)
    pattern = rf"'{TINY}' could not be downloaded \({type(error).__name__}.*pre_trained='.*backbone='{SHIPPED}'"
    with pytest.raises(ValueError, match=pattern):
        make_pyramid(pre_trained=True)


def test_backbone_without_weights_names_the_two_ways_round():
    """Some of timm's architectures have no weights to download."""
    with pytest.raises(ValueError, match=rf"no weights for backbone 'efficientnet_b6'.*pre_trained='.*'{SHIPPED}'"):
        make_pyramid("efficientnet_b6", pre_trained=True)
