# SPDX-License-Identifier: Apache-2.0
"""What a user may get wrong, end to end: it works, or says what to do before training time is lost."""

import shutil

import numpy as np
import pytest
import torch
from anomalib.data import Folder
from huggingface_hub.errors import LocalEntryNotFoundError
from lightning.pytorch import Callback
from PIL import Image
from safetensors.torch import save_file

from anomalib_vqflow import VQFlow

from .tiny import tiny_data, tiny_engine, tiny_model, tiny_root


class CountSteps(Callback):
    """Count the training steps that were spent."""

    steps = 0

    def on_train_batch_end(self, *_):
        self.steps += 1


@pytest.fixture
def root(tmp_path):
    return tiny_root(tmp_path / "products")


@pytest.fixture
def image(root):
    """A training image that a test may spoil."""
    return root / "nut" / "train" / "good" / "001.png"


def train(root, folder, **arguments):
    """Train, test and predict; return the scores of the test images."""
    model, engine = tiny_model(**arguments), tiny_engine(folder)
    engine.train(model, datamodule=tiny_data(root))
    return torch.cat([batch.pred_score for batch in engine.predict(model, datamodule=tiny_data(root))])


def check_refused(root, folder, words):
    """Training is refused with these words before its first step."""
    count = CountSteps()
    with pytest.raises(ValueError, match=words):
        tiny_engine(folder, callbacks=[count]).train(tiny_model(), datamodule=tiny_data(root))
    assert count.steps == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"backbone": "convnextv2_bse"}, r"'convnextv2_bse'.*Similar names.*'convnextv2_base'"),
        ({"backbone": "no_such_net"}, r"'no_such_net'"),
        ({"layers": ["layer1", "layer4"]}, r"no layer 'layer1'.*'stages.0'"),
        ({"layers": [0, 7]}, r"no layer 7. It has 0 to 3"),
        ({"layers": [0]}, "at least two different layers"),
        ({"layers": "stages.3"}, "at least two different layers"),
        ({"layers": [3, 0, 1, 2]}, "fine to coarse"),
        ({"input_size": (7, 7)}, r"7x7 pixels.*is \(32, 32\).*give it as input_size"),
        ({"flow_steps": (1, 1), "layers": (1, 2, 3)}, "each of the 3 levels"),
        ({"flow_steps": (1, 0, 1)}, "flow_steps must be a list of positive integers"),
        ({"num_concepts": 0}, "num_concepts must be a positive integer"),
        ({"num_patterns": 0}, "num_patterns must be a positive integer"),
        ({"concept_dim": 0}, "concept_dim must be a positive integer"),
        ({"position_dim": 6}, "position_dim must be a multiple of 4"),
        ({"position_dim": -4}, "position_dim must be a multiple of 4"),
        ({"hidden_dim": 0}, "hidden_dim"),
        ({"affine_clamp": 0.0}, "affine_clamp"),
        ({"commitment_weight": -1.0}, "commitment_weight must be a number of at least 0"),
        ({"tail_weight": 1.5}, r"tail_weight must be a number in \[0, 1\]"),
        ({"concept_novelty": -1.0}, "concept_novelty must be a number of at least 0"),
        ({"score_map": "sum"}, "score_map must be one of"),
        ({"top_k_ratio": 0.0}, r"top_k_ratio must be a number in \(0, 1\]"),
        ({"quantization": "Residual"}, r"quantization must be one of \['independent', 'residual'\]"),
    ],
)
def test_arguments_are_checked_at_the_door(arguments, words):
    """A wrong argument is refused when the model is built, with what would be right."""
    with pytest.raises(ValueError, match=words):
        tiny_model(**arguments)


def test_weights_that_cannot_be_downloaded_name_the_two_ways_round(monkeypatch):
    """Without a network, the error names the backbone, the argument for a local file, and the backbone that we ship."""

    def fail(*_args, **_kwargs):
        msg = "cannot reach the hub"
        raise LocalEntryNotFoundError(msg)

    monkeypatch.setattr("timm.models._hub.hf_hub_download", fail)

    with pytest.raises(ValueError, match=r"'resnet18' could not be downloaded.*pre_trained='path/.*'vqflow_tiny'"):
        tiny_model(backbone="resnet18", pre_trained=True)


def test_a_wrong_weights_file_is_named_with_its_keys(tmp_path):
    """A file of another architecture names missing and unexpected keys; no weights file, and no file, the path."""
    save_file({"conv9.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other.safetensors.*Missing.*stem_0.weight.*Unexpected \(1\): \['conv9"):
        tiny_model(pre_trained=tmp_path / "other.safetensors")

    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(ValueError, match=r"text.pth is no readable state dict"):
        tiny_model(pre_trained=tmp_path / "text.pth")
    with pytest.raises(FileNotFoundError, match=r"gone.pth"):
        tiny_model(pre_trained=tmp_path / "gone.pth")


def test_codebooks_larger_than_the_data_work(root, tmp_path):
    """More concepts than images and more patterns than cells leave codes free, and break nothing."""
    model, engine = tiny_model(num_concepts=64, num_patterns=2048), tiny_engine(tmp_path)
    engine.train(model, datamodule=tiny_data(root))

    assert model.model.concept.codebook.usage < 0.5
    assert model.model.pattern_codebooks[2].usage < 0.5
    for batch in engine.predict(model, datamodule=tiny_data(root)):
        assert batch.pred_score.isfinite().all()


def test_missing_and_empty_folders_are_named(root, tmp_path):
    """A folder that does not exist or holds nothing is named, with the layout that was expected."""
    with pytest.raises(ValueError, match=rf"found none at {tmp_path / 'missing'}"):
        train(tmp_path / "missing", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=rf"{tmp_path / 'empty'}, found none"):
        train(tmp_path / "empty", tmp_path)
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "missing")):
        tiny_engine(tmp_path).predict(tiny_model(), data_path=tmp_path / "missing")


def test_a_category_without_normal_images_is_named(root, tmp_path):
    """A category that cannot be trained is named before the others are trained."""
    shutil.rmtree(root / "nut" / "train")

    check_refused(root, tmp_path, r"'nut' has no normal training images.*leave it out")


@pytest.mark.parametrize("content", [b"", b"this is no image"])
def test_an_unreadable_image_is_named(root, image, tmp_path, content):
    """An empty or foreign file is named before the first step."""
    image.write_bytes(content)

    check_refused(root, tmp_path, rf"cannot read {image}")


def test_a_cut_off_image_is_named(root, image, tmp_path):
    """A file whose header is sound and whose pixels are not is named, too."""
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(image)
    image.write_bytes(image.read_bytes()[:2000])

    with pytest.raises(ValueError, match=rf"(?i)cannot read .*{image}"):
        train(root, tmp_path)


def test_an_image_without_a_range_is_named(root, image, tmp_path):
    """An image of 32 bits, of which nobody knows what is white, is named before the first step."""
    image = image.rename(image.with_suffix(".tiff"))
    Image.fromarray(np.full((32, 32), 0.3, np.float32)).save(image)

    check_refused(root, tmp_path, rf"{image} .*32 bits")


def test_a_mask_of_another_size_is_named(root, tmp_path):
    """A mask that does not fit its image is named with both sizes before the first step."""
    mask = root / "nut" / "ground_truth" / "hole" / "001_mask.png"
    Image.fromarray(np.zeros((20, 40), np.uint8)).save(mask)

    check_refused(root, tmp_path, rf"{mask} is 40x20, its image .* is 32x32")


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1"])
def test_other_image_modes_work_beside_rgb(root, image, tmp_path, mode):
    """Grayscale, alpha, palette and black-and-white images train and predict among RGB images."""
    for path in (image, root / "bolt" / "test" / "good" / "000.png"):
        Image.open(path).convert(mode).save(path)

    assert train(root, tmp_path).isfinite().all()


def test_grayscale_equals_its_rgb_copy(root, tmp_path):
    """A grayscale image scores exactly as the RGB image with three equal channels."""
    folder = tmp_path / "pair"
    folder.mkdir()
    gray = Image.open(root / "bolt" / "test" / "hole" / "000.png").convert("L")
    gray.save(folder / "gray.png")
    gray.convert("RGB").save(folder / "rgb.png")

    model = tiny_model(post_processor=False)
    first, second = (batch.pred_score for batch in tiny_engine(tmp_path).predict(model, data_path=folder))

    assert torch.equal(first, second)


def test_a_plain_anomalib_folder_works(root, tmp_path):
    """anomalib's own single-category ``Folder``, with masks, trains and tests without our datamodule."""
    datamodule = Folder(
        "bolt",
        root=root / "bolt",
        normal_dir="train/good",
        abnormal_dir="test/hole",
        normal_test_dir="test/good",
        mask_dir="ground_truth/hole",
        train_batch_size=4,
        num_workers=0,
    )
    (results,) = tiny_engine(tmp_path).train(tiny_model(), datamodule=datamodule)

    assert 0 <= results["image_AUROC"] <= 1


def test_a_wrong_checkpoint_path_is_named_before_anything_runs(root, tmp_path):
    """A checkpoint that does not exist is named, in every verb that takes one."""
    gone = tmp_path / "gone.ckpt"
    count = CountSteps()
    engine = tiny_engine(tmp_path, callbacks=[count])

    for verb in (engine.fit, engine.train, engine.validate, engine.test, engine.predict):
        with pytest.raises(FileNotFoundError, match=str(gone)):
            verb(tiny_model(), datamodule=tiny_data(root), ckpt_path=gone)
    with pytest.raises(FileNotFoundError, match=str(gone)):
        VQFlow.load_from_checkpoint(gone)
    assert count.steps == 0
