# SPDX-License-Identifier: Apache-2.0
"""In whatever way images are predicted, they are read as in training, or refused by name."""

import csv
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from anomalib.data import Folder, PredictDataset
from lightning.pytorch import seed_everything
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Resize

from anomalib_vqflow import MultiCategory, VQFlow
from anomalib_vqflow.image_files import TrueImageVisualizer
from anomalib_vqflow.prediction.__main__ import main as predict

from .data.folders import make_mask
from .scripts import load_script
from .tiny import tiny_data, tiny_engine, tiny_model

TURNS = {3: 2, 6: 1, 8: -1}  # orientation in EXIF: quarters that the pixels are stored turned to the left
STEP_12 = 273  # of 15 in 12 bits
STEP_8 = 17  # of 15 in 8 bits


def draw(seed, size=(32, 40)):
    """Draw an image of 16 grays, which 8 and 12 bits hold exactly."""
    rng = np.random.default_rng(seed)
    return np.clip(rng.integers(2, 5, size) + np.arange(size[1]) // 6, 0, 15).astype(np.uint16)


def write(path, grays, bits=8, orientation=1):
    """Write grays with 8 bits, or 12 of 16, upright or not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if bits == 8:
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = np.rot90(grays, TURNS.get(orientation, 0))
        options = {"lossless": True} if path.suffix == ".webp" else {}
        Image.fromarray((STEP_8 * stored).astype(np.uint8)).convert("RGB").save(path, exif=exif, **options)
    elif path.suffix == ".png":
        cv2.imwrite(str(path), np.repeat(STEP_12 * grays[..., None], 3, axis=2))
    else:
        Image.fromarray(STEP_12 * grays).save(path)


def write_products(folder, bits):
    """Write the same two categories with 8 bits, or with 12: one in color as PNG, one in gray as TIFF."""
    for seed, (name, suffix) in enumerate({"bolt": "png", "nut": "tif"}.items()):
        for kind, count in {"train/good": 4, "test/good": 2, "test/hole": 2}.items():
            for index in range(count):
                grays = draw(100 * seed + 10 * len(kind) + index)
                if kind == "test/hole":
                    grays[8:16, 8:16] = 15
                    make_mask(folder / name / f"ground_truth/hole/{index:03}_mask.png", (40, 32))
                write(folder / name / kind / f"{index:03}.{suffix}", grays, bits)
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_products(tmp_path_factory.mktemp("plain") / "products", 8)


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    return write_products(tmp_path_factory.mktemp("deep") / "products", 12)


@pytest.fixture(scope="module")
def trained(deep, tmp_path_factory):
    """Checkpoint of a training on images of 12 bits."""
    seed_everything(0)
    engine = tiny_engine(tmp_path_factory.mktemp("trained"), max_epochs=5)
    engine.fit(tiny_model(lr=1e-3), datamodule=tiny_data(deep))
    return engine.best_model_path


@pytest.fixture(scope="module")
def true_scores(deep, trained, tmp_path_factory):
    """Score of every test image, by its path below the root, as the datamodule reads it."""
    engine = tiny_engine(tmp_path_factory.mktemp("true"))
    batches = engine.predict(tiny_model(), datamodule=tiny_data(deep), ckpt_path=trained)
    return scores(batches, deep)


def scores(batches, root):
    pairs = [pair for batch in batches for pair in zip(batch.image_path, batch.pred_score.tolist(), strict=True)]
    return {str(Path(path).relative_to(root).with_suffix("")): score for path, score in pairs}


def check_scores(found, expected):
    assert len({round(score, 2) for score in expected.values()}) > 3  # they tell images apart
    assert found == pytest.approx(expected, abs=1e-3)


def test_the_range_is_found_and_kept(trained):
    """The checkpoint knows how many bits the images of its training use; that of others, and of the past, none."""
    assert VQFlow.load_from_checkpoint(trained, map_location="cpu").bit_depth == 12
    content = torch.load(trained, weights_only=False)
    del content["vqflow_bit_depth"]
    model = tiny_model()
    model.on_load_checkpoint(content)
    assert model.bit_depth is None


@pytest.mark.parametrize("kind", ["data_path", "dataset", "dataloaders"])
@pytest.mark.parametrize("bits", [8, 12])
def test_every_way_to_predict_gives_the_same_scores(plain, deep, trained, true_scores, tmp_path, kind, bits):
    """Paths, datasets and loaders; of images of 12 bits, and of the same with 8."""
    root = deep if bits == 12 else plain
    batches = []
    for folder in sorted(root.glob("*/test")):
        data = folder if kind == "data_path" else PredictDataset(folder)
        data = DataLoader(data, batch_size=3, collate_fn=data.collate_fn) if kind == "dataloaders" else data
        batches += tiny_engine(tmp_path).predict(tiny_model(), **{kind: data}, ckpt_path=trained)
    check_scores(scores(batches, root), true_scores)


def test_the_example_gives_the_same_scores(deep, trained, true_scores, tmp_path, capsys):
    """``examples/predict.py`` reads like the datamodule."""
    found = {}
    for folder in sorted(deep.glob("*/test")):
        assert load_script("examples/predict.py").main([trained, str(folder), "--results-dir", str(tmp_path)]) == 0
    for line in capsys.readouterr().out.splitlines():
        if line.endswith((".png", ".tif")):
            score, _, path = line.split(maxsplit=2)
            found[str(Path(path).relative_to(deep).with_suffix(""))] = float(score)
    check_scores(found, true_scores)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_exports_give_the_same_scores(plain, deep, trained, true_scores, tmp_path, onnx_steps, kind):
    """The exported model tells the range to ``vqflow-predict``, which takes images of 8 bits, too."""
    model = VQFlow.load_from_checkpoint(trained, map_location="cpu")
    with onnx_steps():
        path = model.to_onnx(tmp_path) if kind == "onnx" else model.to_openvino(tmp_path)
    output = tmp_path / "out.csv"
    for root in (plain, deep):
        found = {}
        for folder in sorted(root.glob("*/test")):
            maps = ["--heat-maps", str(tmp_path / "maps")]
            assert predict([str(path), str(folder), "--output", str(output), *maps]) == 0
            for row in csv.DictReader(output.open()):
                found[str(Path(row["path"]).relative_to(root).with_suffix(""))] = float(row["score"])
        check_scores(found, true_scores)


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_images_are_turned_upright(trained, tmp_path, suffix):
    """An image that is stored turned scores as an upright one, also beside others in a batch, and transformed."""
    grays = draw(5)
    for orientation in (1, *TURNS):
        write(tmp_path / "images" / f"{orientation}.{suffix}", grays, orientation=orientation)
    for arguments in ({}, {"transform": Resize((48, 80))}):
        dataset = PredictDataset(tmp_path / "images", **arguments)
        loader = DataLoader(dataset, batch_size=2, collate_fn=dataset.collate_fn)
        batches = tiny_engine(tmp_path).predict(tiny_model(), dataloaders=loader, ckpt_path=trained)
        upright, *others = scores(batches, tmp_path).values()
        assert others == pytest.approx([upright] * len(TURNS), abs=1e-5)


def test_ordinary_images_are_left_as_they_are(trained, plain, tmp_path, monkeypatch):
    """Nothing is read twice without need."""
    monkeypatch.setattr("anomalib_vqflow.image_files.read_image", None)
    assert len(tiny_engine(tmp_path).predict(tiny_model(), data_path=plain / "bolt/test", ckpt_path=trained)) == 4


def write_float(path):
    Image.fromarray(np.zeros((32, 32), dtype=np.float32)).save(path)


def write_16_bits(path):
    write(path, 16 * draw(0), 12)


@pytest.mark.parametrize(
    ("write_bad", "message"),
    [(write_float, "are not read truly"), (write_16_bits, "the range of its training ends at 4095")],
)
def test_images_without_a_known_range_are_refused(trained, tmp_path, write_bad, message):
    """Prediction stops with the name of a file that would be misread."""
    write(tmp_path / "images" / "a.tif", draw(0))
    write_bad(tmp_path / "images" / "b.tif")
    with pytest.raises(ValueError, match=rf"images/b\.tif.*{message}"):
        tiny_engine(tmp_path).predict(tiny_model(), data_path=tmp_path / "images", ckpt_path=trained)


def test_a_model_of_8_bits_refuses_16(tmp_path, deep):
    """It cannot know their range."""
    with pytest.raises(ValueError, match=r"bolt/test/good/000\.png .*16 bits .* convert it to 8 bits"):
        tiny_engine(tmp_path).predict(tiny_model(), data_path=deep / "bolt" / "test")


def test_a_test_uses_the_range_of_the_training(trained, tmp_path):
    """Images that happen to use fewer bits are not brighter; such that use more are refused."""
    dark = write_products(tmp_path / "dark", 12)
    for path in [*dark.glob("*/train/*/*"), *dark.glob("*/test/*/*")]:
        write(path, draw(0) // 4, 12)
    datamodule = tiny_data(dark)
    with pytest.warns(UserWarning, match="test images are training images"):
        tiny_engine(tmp_path).test(tiny_model(), datamodule=datamodule, ckpt_path=trained)
    assert datamodule.bit_depth == datamodule.test_data.bit_depth == 12

    write(dark / "bolt" / "test" / "good" / "000.png", 16 * draw(0), 12)
    with pytest.raises(ValueError, match=r"images use 16 bits, but those of the model's training used 12"):
        tiny_engine(tmp_path).test(tiny_model(), datamodule=tiny_data(dark), ckpt_path=trained)


def test_damaged_pixels_of_16_bits_are_named_before_a_training(tmp_path):
    """Header and end of the file are whole, but what is between them is not."""
    root = write_products(tmp_path, 12)
    path = root / "bolt" / "train" / "good" / "000.png"
    content = path.read_bytes()
    at = content.index(b"IDAT") + 10
    path.write_bytes(content[:at] + b"damaged" + content[at + 7 :])
    with pytest.raises(ValueError, match=rf"cannot read {path} \(OpenCV cannot read its 16 bits"):
        tiny_engine(tmp_path).fit(tiny_model(), datamodule=tiny_data(root))


def folder_of(root, **arguments):
    places = {"normal_dir": "train/good", "abnormal_dir": "test/hole", "normal_test_dir": "test/good"}
    sizes = {"num_workers": 0, "train_batch_size": 4, "eval_batch_size": 4}
    return Folder("bolt", root=root / "bolt", **places, **sizes, val_split_mode="same_as_test", **arguments)


@pytest.mark.parametrize("kind", ["deep", "turned"])
def test_datamodules_that_would_misread_are_refused(deep, tmp_path, kind, trained):
    """anomalib's ``Folder`` reads files by itself: training, test and prediction say so, and what to do."""
    root = write_products(tmp_path, 8)
    bad = root / "bolt" / "test" / "hole" / "001.png"
    write(bad, draw(0), *((12,) if kind == "deep" else (8, 6)))
    message = rf"anomalib misreads 1 images .*{bad}.*MultiCategory\(datamodules=\[Folder"
    for act in (tiny_engine(tmp_path).fit, tiny_engine(tmp_path).test, tiny_engine(tmp_path).predict):
        with pytest.raises(ValueError, match=message):
            act(tiny_model(), datamodule=folder_of(root), ckpt_path=None if act.__name__ == "fit" else trained)


def test_they_work_inside_of_ours(deep, trained, true_scores, tmp_path):
    """As the refusal says, a model is trained and predicts with the same datamodule in ``MultiCategory``."""
    datamodule = MultiCategory(datamodules=[folder_of(deep)], num_workers=0, train_batch_size=4)
    model = tiny_model()
    tiny_engine(tmp_path).fit(model, datamodule=datamodule)
    assert model.bit_depth == 12
    batches = tiny_engine(tmp_path).predict(tiny_model(), datamodule=datamodule, ckpt_path=trained)
    assert scores(batches, deep) == pytest.approx(
        {name: score for name, score in true_scores.items() if name.startswith("bolt")}, abs=1e-3
    )


def test_training_warns_of_no_hook(plain, tmp_path):
    """Lightning would warn in every training of a model that takes part in the transfer of batches."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*overridden")
        tiny_engine(tmp_path).fit(tiny_model(), datamodule=tiny_data(plain))


@pytest.mark.parametrize("kind", ["test", "predict"])
def test_pictures_show_what_the_model_saw(trained, tmp_path, kind):
    """Of a turned image the upright one, of 12 bits their range, in the files and places of anomalib's visualizer."""
    root = write_products(tmp_path / "products", 12)
    grays = np.zeros((32, 40), dtype=np.uint16)
    grays[:16] = 10
    write(root / "bolt" / "test" / "good" / "000.png", grays, orientation=6)
    write(root / "bolt" / "test" / "good" / "001.png", grays, 12)
    write(root / "bolt" / "test" / "hole" / "000.png", grays, 8)
    engine, model = tiny_engine(tmp_path), tiny_model(visualizer=True)
    if kind == "test":
        engine.test(model, datamodule=tiny_data(root), ckpt_path=trained)
    else:
        engine.predict(model, data_path=root / "bolt" / "test", ckpt_path=trained)
    pictures = {f"{path.parent.name}/{path.name}": path for path in tmp_path.rglob("images/**/*.png")}
    assert {"good/000.png", "good/001.png", "hole/000.png", "hole/001.png"} <= pictures.keys()
    for name in ("good/000.png", "good/001.png", "hole/000.png"):
        panel = np.asarray(Image.open(pictures[name]).convert("RGB"))[:, :256]
        assert panel[100, 128].tolist() == [170] * 3
        assert panel[200, 128].tolist() == [0] * 3


def test_pictures_have_no_panel_of_a_mask_that_is_unknown(tmp_path, plain):
    """A model without a threshold gets the image, and the map on it; one with a threshold, the mask as well."""
    model = VQFlow(**{**tiny_model().hparams, "visualizer": True})
    assert isinstance(model.visualizer, TrueImageVisualizer)
    tiny_engine(tmp_path).predict(model, data_path=plain / "bolt/test/good/000.png")
    (path,) = tmp_path.rglob("images/**/*.png")
    assert Image.open(path).size == (2 * 256, 256)
