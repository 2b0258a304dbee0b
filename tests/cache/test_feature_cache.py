# SPDX-License-Identifier: Apache-2.0
"""Training on cached maps equals training on images, and no map is ever a wrong one."""

import os
import shutil

import pytest
import torch
import yaml
from anomalib.data import Folder
from anomalib.engine import Engine
from anomalib.models import Padim
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import Callback, seed_everything
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Compose, Normalize, RandomHorizontalFlip, Resize

from anomalib_vqflow import FeatureCache, MultiCategory, VQFlow
from anomalib_vqflow.cache.dataset import CachedImages
from anomalib_vqflow.data import items as reading
from anomalib_vqflow.features import Features
from tests.data.folders import make_category, make_image
from tests.tiny import ARGUMENTS, tiny_data, tiny_engine, tiny_model, tiny_root

NUM_IMAGES = 8


class Watch(Callback):
    """Note the order of training images and the random states, and count the images that the backbone sees."""

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.paths, self.losses, self.states, self.num_seen = [], [], [], 0

    def setup(self, trainer, pl_module, stage):
        def count(_, inputs, __):
            self.num_seen += len(inputs[0])

        if stage == "fit":
            self.hook = pl_module.model.features.register_forward_hook(count)

    def teardown(self, trainer, pl_module, stage):
        self.hook.remove()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.paths += batch.image_path
        self.losses.append(outputs["loss"].item())
        if len(self.paths) == self.stop_after:
            raise InterruptedError

    def on_train_epoch_end(self, *_):
        self.states.append(torch.get_rng_state())


@pytest.fixture
def root(tmp_path):
    return tiny_root(tmp_path / "products")


def fit(data, folder, cache=None, *, watch=None, prepare=(), checkpoint=None, seed=0, model=None, **arguments):
    """Train a whitened model for two epochs without validation; return the model, the engine and what was watched."""
    seed_everything(seed)
    model, watch = tiny_model(**{"use_whitening": True, "lr": 1e-2, **(model or {})}), watch or Watch()
    for change in prepare:
        change(model)
    callbacks = [watch] if cache is None else [watch, cache]
    engine = tiny_engine(folder, **{"callbacks": callbacks, "max_epochs": 2, "limit_val_batches": 0, **arguments})
    engine.fit(model, datamodule=data, ckpt_path=checkpoint)
    return model, engine, watch


def num_computed(root, folder, cache, **arguments):
    """Train and count the images that the backbone saw, apart from the one that is always looked at."""
    return fit(tiny_data(root), folder, cache, **arguments)[2].num_seen - 1


def check_equal(one, other):
    state = other.model.state_dict()
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, state[name]), name


def check_refused(data, folder, error, words, cache=None, prepare=(), **arguments):
    """Training is refused before its first step, and the model and the datamodule are left as they were."""
    watch, models = Watch(), []
    with pytest.raises(error, match=words):
        fit(data, folder, cache or FeatureCache(), watch=watch, prepare=[*prepare, models.append], **arguments)
    assert not watch.paths
    assert not isinstance(data.train_data, CachedImages)
    assert "configure_optimizers" not in vars(models[0])


@pytest.mark.parametrize(
    ("on_disk", "dtype", "arguments"),
    [
        (False, "float16", {}),
        (False, "bfloat16", {"num_workers": 1}),
        (True, "float16", {"num_workers": 1}),
        (True, "bfloat16", {"balanced_sampling": True}),
    ],
)
def test_training_equals_training_on_rounded_maps(tmp_path, on_disk, dtype, arguments):
    """All weights and buffers are bit-equal to a training that rounds the maps; so are order and random states.

    In double precision, so that no map is rounded otherwise because of the batch that it was computed in.
    """
    make_category(tmp_path / "products", "bolt", train=6)
    make_category(tmp_path / "products", "nut", train=3, size=(48, 40))

    kept = getattr(torch, dtype)

    def round_maps(model):
        def hook(_, __, maps):
            return Features([m.to(kept).double() for m in maps.details], maps.semantic.to(kept).double())

        model.model.features.register_forward_hook(hook)

    arguments = {"train_batch_size": 3, "seed": 1, **arguments}
    data = [tiny_data(tmp_path / "products", **arguments) for _ in range(2)]
    cache = FeatureCache(tmp_path / "cache" if on_disk else None, dtype)

    plain, _, expected = fit(data[0], tmp_path, prepare=[round_maps], precision="64-true")
    cached, _, watched = fit(data[1], tmp_path, cache, precision="64-true")

    check_equal(plain, cached)
    assert watched.paths == expected.paths
    assert all(torch.equal(one, other) for one, other in zip(watched.states, expected.states, strict=True))


def test_single_precision_differs_by_rounding_only(root, tmp_path):
    """In the default precision, with maps rounded to 11 bits, every loss is within a thousandth."""
    _, _, expected = fit(tiny_data(root), tmp_path, model={"lr": 1e-4})
    _, _, watched = fit(tiny_data(root), tmp_path, FeatureCache(), model={"lr": 1e-4})

    assert watched.paths == expected.paths
    assert watched.losses == pytest.approx(expected.losses, rel=1e-3)


@pytest.mark.parametrize("on_disk", [False, True])
def test_every_image_is_computed_once(root, tmp_path, on_disk):
    """The backbone sees each image once, whatever the number of epochs, and not at all in the next training."""
    cache = FeatureCache(tmp_path / "cache" if on_disk else None)

    assert num_computed(root, tmp_path, cache, max_epochs=3) == NUM_IMAGES
    assert num_computed(root, tmp_path, cache) == 0
    cache.clear()
    assert num_computed(root, tmp_path, cache) == NUM_IMAGES


def test_tiles_are_drawn_as_without_a_cache(root, tmp_path):
    """With tiles, too, every loss is that of a training without it, up to rounding, and each tile is computed once."""
    tiles = {"lr": 1e-4, "input_size": (64, 96), "tile_size": 32}  # 12 of each image, of which 64 are drawn in a step
    arguments = {"train_batch_size": 8, "num_workers": 0}
    _, _, expected = fit(tiny_data(root, **arguments), tmp_path, model=tiles)
    _, _, watched = fit(tiny_data(root, **arguments), tmp_path, FeatureCache(), model=tiles)

    assert watched.losses == pytest.approx(expected.losses, rel=1e-3)
    assert watched.num_seen == 12 * (NUM_IMAGES + 1)


def test_images_are_not_read_again(root, tmp_path, monkeypatch):
    """After the maps have been computed, no training image is decoded."""
    read, image = [], reading.read_image
    monkeypatch.setattr(reading, "read_image", lambda path, *rest: read.append(path) or image(path, *rest))

    fit(tiny_data(root), tmp_path, FeatureCache(), max_epochs=3)

    assert len(read) == NUM_IMAGES + 1
    assert len(set(read)) == NUM_IMAGES


def replaced(root):
    """Replace a file by one of equal size and equal time."""
    path = root / "nut" / "train" / "good" / "001.bmp"
    before = path.stat()
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 255]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def test_a_replaced_file_is_computed_again(tmp_path):
    """Another content is noticed even if size and time of the file are the same; the other images are kept."""
    root = tmp_path / "products"
    for name in ("bolt", "nut"):
        make_category(root, name, train=0)
        for index in range(4):
            make_image(root / name / "train" / "good" / f"{index:03}.bmp", 60)
    assert num_computed(root, tmp_path, FeatureCache(tmp_path / "cache")) == NUM_IMAGES

    replaced(root)

    assert num_computed(root, tmp_path, FeatureCache(tmp_path / "cache")) == 1


@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        ({"seed": 1}, {}),
        ({"input_size": (64, 96)}, {}),
        ({"layers": [0, 2, 3]}, {}),
        ({"pre_processor": PreProcessor(Compose([Resize((64, 64)), Normalize([0.5] * 3, [0.2] * 3)]))}, {}),
        ({}, {"precision": "bf16-mixed"}),
        ({"dtype": "bfloat16"}, {}),
    ],
    ids=["weights", "input_size", "layers", "pre_processor", "precision", "dtype"],
)
def test_nothing_stale_is_used(root, tmp_path, model, arguments):
    """With other weights, size, layers, transform, precision or dtype, all maps are computed again; the old ones stay.

    Training with the first choice afterwards finds its maps.
    """
    dtype, seed = model.pop("dtype", "float16"), model.pop("seed", 0)
    folder = tmp_path / "cache"
    first = num_computed(root, tmp_path, FeatureCache(folder))

    second = num_computed(root, tmp_path, FeatureCache(folder, dtype), model=model, seed=seed, **arguments)
    third = num_computed(root, tmp_path, FeatureCache(folder))

    assert (first, second, third) == (NUM_IMAGES, NUM_IMAGES, 0)


def test_an_augmentation_that_is_always_the_same_is_part_of_the_key(root, tmp_path):
    """Maps of normalized images are not used for images that are not normalized beforehand."""
    folder = tmp_path / "cache"
    fit(tiny_data(root), tmp_path, FeatureCache(folder))
    data = tiny_data(root, train_augmentations=Normalize([0.5] * 3, [0.2] * 3))

    assert fit(data, tmp_path, FeatureCache(folder))[2].num_seen == NUM_IMAGES + 1


def test_memory_holds_what_the_training_needs_only(root, tmp_path):
    """Maps of other weights are never mixed up with those of these, and are forgotten; clearing forgets all."""
    cache = FeatureCache()
    assert num_computed(root, tmp_path, cache) == NUM_IMAGES
    assert num_computed(root, tmp_path, cache, seed=1) == NUM_IMAGES
    assert len(cache.records) == NUM_IMAGES
    assert num_computed(root, tmp_path, cache) == NUM_IMAGES

    cache.clear()

    assert not cache.records


def test_moved_images_keep_their_maps(root, tmp_path):
    """Only what is in a file matters: a moved folder of images costs nothing."""
    num_computed(root, tmp_path, FeatureCache(tmp_path / "cache"))
    shutil.move(root, tmp_path / "moved")

    assert num_computed(tmp_path / "moved", tmp_path, FeatureCache(tmp_path / "cache")) == 0


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:-1] + bytes([data[-1] ^ 1])])
def test_a_damaged_file_is_computed_again(root, tmp_path, damage):
    """A training after damage to the cache is bit-equal to the one before, in double precision as above."""
    before = fit(tiny_data(root), tmp_path, FeatureCache(tmp_path / "cache"), precision="64-true")[0]
    path = min((tmp_path / "cache").rglob("*.safetensors"))
    good = path.read_bytes()
    path.write_bytes(damage(good))

    with pytest.warns(UserWarning, match=rf"computes .*{path.name} again"):
        after, _, watch = fit(tiny_data(root), tmp_path, FeatureCache(tmp_path / "cache"), precision="64-true")

    assert watch.num_seen == 1 + 1
    assert path.read_bytes() == good
    check_equal(before, after)


def test_maps_that_get_lost_while_training_are_named(root, tmp_path):
    """Training stops with the path of an image whose maps are gone, and says how to go on."""
    cache = FeatureCache(tmp_path / "cache")

    class Clear(Callback):
        def on_train_epoch_end(self, *_):
            cache.clear()

    with pytest.raises(OSError, match=r"cached maps of .*\.png got lost.*Resume"):
        fit(tiny_data(root), tmp_path, callbacks=[cache, Clear()])


def test_a_file_that_changes_while_it_is_read_is_not_kept(root, tmp_path, monkeypatch):
    """Maps are kept only if the file is the same before and after it was decoded."""
    image = reading.read_image
    path = root / "nut" / "train" / "good" / "001.png"

    def change(name, *rest):
        read = image(name, *rest)
        if str(name) == str(path):
            make_image(path, 90)
        return read

    monkeypatch.setattr(reading, "read_image", change)

    check_refused(tiny_data(root), tmp_path, ValueError, "001.png has changed", FeatureCache(tmp_path / "cache"))
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) < NUM_IMAGES


def test_size_is_told_and_room_checked_before_anything_is_written(root, tmp_path, monkeypatch, caplog):
    """The number of images and the MiB are told first; if the disk has less, nothing is computed."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 0))
    watch = Watch()

    with caplog.at_level("INFO"):
        check_refused(tiny_data(root), tmp_path, OSError, "MiB are free", FeatureCache(tmp_path / "cache"))
        monkeypatch.undo()
        fit(tiny_data(root), tmp_path, FeatureCache(tmp_path / "cache"), watch=watch)

    size = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.safetensors")) / 2**20
    told = [record.getMessage() for record in caplog.records if "Feature cache" in record.getMessage()]
    assert len(told) == 2
    assert all(f"{NUM_IMAGES} images, {size:.1f} MiB" in line for line in told)


def test_a_resumed_training_equals_an_uninterrupted_one(root, tmp_path):
    """Interrupted after an epoch and resumed under another seed, all weights and buffers are bit-equal.

    The new model's own random backbone is not that of the checkpoint, whose maps are to be used.
    """
    folder = tmp_path / "cache"
    whole = fit(tiny_data(root), tmp_path / "whole", FeatureCache(folder), max_epochs=3)[0]
    with pytest.raises(InterruptedError):
        fit(
            tiny_data(root),
            tmp_path / "part",
            FeatureCache(folder),
            watch=Watch(stop_after=2 * NUM_IMAGES + 4),
            max_epochs=3,
        )
    (checkpoint,) = (tmp_path / "part").rglob("*.ckpt")

    resumed, _, watch = fit(
        tiny_data(root), tmp_path / "rest", FeatureCache(folder), checkpoint=checkpoint, seed=1, max_epochs=3
    )

    check_equal(whole, resumed)
    assert len(watch.paths) == NUM_IMAGES
    assert watch.num_seen == 1


def test_datamodules_of_anomalib_and_test_after_training(root, tmp_path):
    """A plain Folder works, and its own training images are back when training is over: test and predict work."""
    folder = root / "nut"
    data = Folder(
        "nut", root=folder, normal_dir="train/good", abnormal_dir="test/hole", train_batch_size=2, num_workers=0
    )
    watch = Watch()
    model, engine = tiny_model(), tiny_engine(tmp_path, callbacks=[watch, FeatureCache()], max_epochs=2)

    engine.train(model, datamodule=data)

    assert len(next(iter(data.train_dataloader())).image) == 2
    assert not isinstance(data.train_data, CachedImages)
    assert "configure_optimizers" not in vars(model)
    assert watch.paths
    assert engine.predict(model, datamodule=data)


def test_a_model_with_an_optimizer_of_its_own(root, tmp_path):
    """A model that is derived from VQFlow, and does not ask for the length of the training, trains on maps, too."""

    class OwnOptimizer(VQFlow):
        def configure_optimizers(self):
            return torch.optim.SGD(self.model.flow.parameters(), 1e-3)

    watch = Watch()
    model = OwnOptimizer(**ARGUMENTS, input_size=(64, 64), visualizer=False)
    engine = tiny_engine(tmp_path, callbacks=[watch, FeatureCache()], max_epochs=2, limit_val_batches=0)
    engine.fit(model, datamodule=tiny_data(root))

    assert len(watch.paths) == 2 * NUM_IMAGES
    assert watch.num_seen == 1 + NUM_IMAGES


def test_reloaded_training_data_comes_from_the_cache(root, tmp_path):
    """The backbone sees each image once, also if Lightning asks for a new loader after every epoch."""
    assert num_computed(root, tmp_path, FeatureCache(), reload_dataloaders_every_n_epochs=1) == NUM_IMAGES


def test_in_a_configuration(root, tmp_path):
    """It can be named in a YAML file."""
    arguments = {**ARGUMENTS, "input_size": [64, 64], "flow_steps": [1, 1, 1], "visualizer": False}
    config = {
        "model": {"class_path": "anomalib_vqflow.VQFlow", "init_args": arguments},
        "data": {
            "class_path": "anomalib_vqflow.MultiCategory",
            "init_args": {"root": str(root), "train_batch_size": 4, "num_workers": 0},
        },
        "trainer": {
            "max_epochs": 1,
            "accelerator": "cpu",
            "limit_val_batches": 0,
            "callbacks": [
                {"class_path": "anomalib_vqflow.FeatureCache", "init_args": {"folder": str(tmp_path / "cache")}}
            ],
        },
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))

    engine, model, data = Engine.from_config(tmp_path / "config.yaml", default_root_dir=tmp_path)
    engine.fit(model, datamodule=data)

    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == NUM_IMAGES


def test_unknown_dtype_is_refused():
    """The error names what there is."""
    with pytest.raises(ValueError, match=r"\['float16', 'bfloat16'\], got 'float32'"):
        FeatureCache(dtype="float32")


def test_augmentation_is_refused(root, tmp_path):
    """What may differ from epoch to epoch is refused."""
    flip = Compose([Resize((64, 64)), RandomHorizontalFlip()])
    data = tiny_data(root, train_augmentations=flip)
    check_refused(data, tmp_path, ValueError, "same in every epoch.*RandomHorizontalFlip")


def test_other_models_and_data_are_refused(root, tmp_path):
    """Models that would not look at the maps, and data without files, are refused."""
    with pytest.raises(TypeError, match=r"serves VQFlow.*Padim"):
        tiny_engine(tmp_path, callbacks=[FeatureCache()]).fit(
            Padim(backbone="resnet18", pre_trained=False, layers=["layer1"], n_features=8), datamodule=tiny_data(root)
        )
    data = tiny_data(root)
    data.setup()
    loader = DataLoader(data.train_data, batch_size=4, collate_fn=data.train_data.collate_fn)
    with pytest.raises(TypeError, match="NoneType"):
        tiny_engine(tmp_path, callbacks=[FeatureCache()]).fit(tiny_model(), train_dataloaders=loader)


def test_data_beside_the_training_images_is_refused(root, tmp_path):
    """A loader over something else than the datamodule's training images has no maps."""
    other = tiny_data(root)
    other.setup()
    loader = other.train_dataloader()
    other = type("Other", (MultiCategory,), {"train_dataloader": lambda self: loader})(root, num_workers=0)
    check_refused(other, tmp_path, TypeError, "Other does not train on its `train_data`")


def test_images_of_several_sizes_are_refused(tmp_path):
    """Without a height and a width in the pre-processor, the size of an image depends on the batch it comes in."""
    make_category(tmp_path / "products", "bolt")
    make_category(tmp_path / "products", "nut", size=(48, 32))
    several = {"pre_processor": PreProcessor(Resize(64))}
    for batch_size in (3, 4):  # within a batch, and between batches
        data = tiny_data(tmp_path / "products", train_batch_size=batch_size)
        check_refused(data, tmp_path, ValueError, r"one size.*\.png.*height and width", model=several)


@pytest.mark.parametrize(
    ("dtype", "value", "words"),
    [
        ("float16", 1e6, r"001\.png are beyond the range of float16.*dtype='bfloat16'"),
        ("bfloat16", float("nan"), r"001\.png are NaN or infinite.*precision 32"),
    ],
)
def test_maps_that_cannot_be_kept_are_refused(root, tmp_path, dtype, value, words):
    """A map that overflows in float16, or is broken from the start, is named by its image and not kept."""

    def spoil(model):
        def hook(_, inputs, maps):
            maps.semantic[inputs[0].flatten(1).max(1).values > 0.5] = value
            return maps

        model.model.features.register_forward_hook(hook)

    make_image(root / "nut" / "train" / "good" / "001.png", 215)
    folder = tmp_path / "cache"

    check_refused(tiny_data(root), tmp_path, ValueError, words, FeatureCache(folder, dtype), prepare=[spoil])
    if value == 1e6:
        assert num_computed(root, tmp_path, FeatureCache(folder, "bfloat16"), prepare=[spoil], max_epochs=1) > 0


def test_a_refusal_leaves_no_trace_in_torch(tmp_path):
    """Lightning wraps torch's DataLoader while it asks for loaders; what is refused then must not leave it wrapped."""
    before = {name: vars(DataLoader)[name] for name in ("__init__", "__setattr__")}
    make_category(tmp_path / "products", "bolt")
    make_category(tmp_path / "products", "nut", size=(48, 32))
    model = tiny_model(pre_processor=PreProcessor(Resize(64)), evaluator=False)
    with pytest.raises(ValueError, match="one size"):
        tiny_engine(tmp_path, callbacks=[FeatureCache()]).fit(model, datamodule=tiny_data(tmp_path / "products"))

    assert {name: vars(DataLoader)[name] for name in before} == before


def test_broken_pixels_are_named(root, tmp_path, monkeypatch):
    """An image with NaN stops the training with its name, as without a cache."""
    image = reading.read_image

    def broken(path, *rest):
        return image(path, *rest) * (torch.nan if "nut/train/good/001" in str(path) else 1)

    monkeypatch.setattr(reading, "read_image", broken)

    check_refused(tiny_data(root), tmp_path, ValueError, r"NaN or infinite pixels: .*nut/train/good/001\.png")
