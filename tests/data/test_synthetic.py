# SPDX-License-Identifier: Apache-2.0
"""Tests of the generator of product images."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from zlib import crc32

import cv2
import numpy as np
import pytest
from anomalib.data import MVTecAD

from anomalib_vqflow.data.synthetic import (
    CATEGORIES,
    SetArguments,
    defects,
    drawing,
    generate,
    noise,
    primitives,
    render,
)
from anomalib_vqflow.data.synthetic import dataset as dataset_module
from anomalib_vqflow.data.synthetic.dataset import is_complete, set_folder
from anomalib_vqflow.data.synthetic.render import _draw, _photograph

SMALL = SetArguments(image_size=64, num_train=2, num_test_good=1, num_test_defective=3, seed=5)
# Mean red, green and blue, and pixels of the mask, of one defective image of 64 x 64: what version 1 draws.
VERSION_1 = {
    "cable": (80.3, 76.5, 72.4, 146),
    "cap": (149.8, 93.2, 89.8, 167),
    "capsule": (192.0, 195.2, 193.3, 51),
    "circuit": (75.8, 113.2, 86.1, 24),
    "fabric": (121.6, 121.6, 121.7, 46),
    "gear": (71.5, 93.4, 85.8, 43),
    "label": (189.9, 159.8, 139.5, 156),
    "plank": (189.4, 139.5, 92.4, 83),
    "plate": (96.0, 99.5, 102.9, 160),
    "tile": (144.9, 143.4, 139.3, 37),
}
PACKAGE = Path(dataset_module.__file__).parent
EVERY_DEFECT = [(category, defect) for category in CATEGORIES for defect in defects(category)]


def image_hashes(folder):
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(cv2.imread(str(file)).tobytes()).hexdigest()
        for file in sorted(folder.rglob("*.png"))
    }


def good_twin(category, defect, index, size, seed):
    """Photograph the piece that a faulty image shows, without its fault."""
    key = [seed, crc32(category.encode()), crc32(f"test/{defect}".encode()), index]
    return _photograph(_draw(category, "good", size, key, 0), key)


def start_generator(root, arguments, categories):
    """Generate in a process of its own, which loads the generator without the rest of the package."""
    code = f"""
import importlib.util, sys
folder = {str(PACKAGE)!r}
spec = importlib.util.spec_from_file_location("alone", folder + "/__init__.py", submodule_search_locations=[folder])
sys.modules["alone"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["alone"])
from alone import SetArguments, generate
assert "torch" not in sys.modules
generate({str(root)!r}, SetArguments(*{tuple(arguments)}), {categories})
"""
    return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": "7"})


def test_there_are_enough_kinds():
    """There are at least eight products with four defects each."""
    assert len(CATEGORIES) >= 8
    assert all(len(defects(category)) >= 4 for category in CATEGORIES)


@pytest.mark.parametrize(("category", "defect"), EVERY_DEFECT)
def test_mask_is_where_the_defect_changed_the_image(category, defect):
    """A defect is visible, changes its mask and nothing outside it."""
    for index in range(2):
        image, mask = render(category, defect=defect, index=index, size=96, seed=3)
        twin = good_twin(category, defect, index, size=96, seed=3)
        change = np.abs(image.astype(int) - twin).max(axis=2)

        assert set(np.unique(mask)) == {0, 255}
        assert 0.0015 <= (mask > 0).mean() < 0.4
        assert (change[mask == 0] == 0).all(), "the image differs from its faultless twin outside the mask"
        assert change[mask > 0].mean() >= 18, "too faint to be seen"
        assert (change[mask > 0] > 0).mean() > 0.8, "the mask covers much that did not change"


@pytest.mark.parametrize("category", CATEGORIES)
def test_smallest_images_show_every_defect(category):
    """Every defect has a mask at the smallest size."""
    for defect in defects(category):
        assert render(category, defect=defect, size=64).mask.any(), defect


@pytest.mark.parametrize("category", CATEGORIES)
def test_normal_images_vary_and_have_an_empty_mask(category):
    """Normal images differ from each other, have contrast and an empty mask."""
    first, second = (render(category, index=index, size=64) for index in (0, 1))
    assert first.image.shape == (64, 64, 3)
    assert first.image.dtype == np.uint8
    assert not first.mask.any()
    assert np.abs(first.image.astype(int) - second.image).mean() > 2
    assert first.image.std() > 10


@pytest.mark.parametrize("category", CATEGORIES)
def test_scenes_are_single_precision(category):
    """No step of drawing falls back to double precision."""
    for defect in ("good", *defects(category)):
        scene = _draw(category, defect, 64, [0, 1, 2, 3], 0)
        for name in ("albedo", "height", "gloss", "region"):
            assert getattr(scene, name).dtype == np.float32, (defect, name)


@pytest.mark.parametrize("category", ["cable", "gear", "label"])
def test_larger_images_show_the_same_piece(category):
    """The size changes the resolution and not the piece."""
    small = render(category, size=96).image.astype(float)
    large = cv2.resize(render(category, size=192).image, (96, 96), interpolation=cv2.INTER_AREA).astype(float)
    small, large = (cv2.GaussianBlur(image, (0, 0), 3) for image in (small, large))
    other = cv2.GaussianBlur(render(category, size=96, index=1).image.astype(float), (0, 0), 3)
    assert np.abs(small - large).mean() < 0.5 * np.abs(small - other).mean()


def test_seed_split_index_and_defect_each_change_the_image():
    """Each of seed, split, index and defect gives another image."""
    arguments = {"category": "plate", "size": 64}
    images = [
        render(**arguments),
        render(**arguments, seed=1),
        render(**arguments, split="train"),
        render(**arguments, index=1),
        render(**arguments, defect="rust"),
        render(**arguments, defect="dent"),
    ]
    assert len({image.image.tobytes() for image in images}) == len(images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"category": "spoon"}, "Unknown category 'spoon'.*cable.*tile"),
        ({"category": "gear", "defect": "knot"}, "Unknown defect 'knot' of 'gear'.*broken_tooth"),
        ({"category": "gear", "split": "val"}, "'train' or 'test', got 'val'"),
        ({"category": "gear", "size": 32}, "size >= 64.*got 32"),
        ({"category": "gear", "index": -1}, "index >= 0"),
        ({"category": "gear", "seed": -1}, "seed >= 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    """Unknown names and impossible numbers are refused, with what is possible."""
    with pytest.raises(ValueError, match=message):
        render(**arguments)


def test_another_process_generates_the_same_set(tmp_path):
    """The images are the same in another process with another hash seed."""
    folder = generate(tmp_path / "here", SMALL, ["gear", "label"])
    assert start_generator(tmp_path / "there", SMALL, ["label", "gear"]).wait() == 0

    here = image_hashes(folder)
    assert len(here) == 2 * (2 + 1 + 2 * 3)
    assert image_hashes(tmp_path / "there" / folder.name) == here


def test_counts_do_not_change_the_images(tmp_path):
    """A larger set begins with the images of a smaller one."""
    few = image_hashes(generate(tmp_path, SMALL, ["cap"]))
    more = SMALL._replace(num_train=3, num_test_good=2, num_test_defective=8)
    many = image_hashes(generate(tmp_path, more, ["cap"]))
    assert few.items() < many.items()


def test_anomalib_reads_a_category_as_mvtec_ad(tmp_path):
    """anomalib's own `MVTecAD` reads a generated category."""
    folder = generate(tmp_path, SMALL._replace(num_test_defective=7), ["tile"])
    datamodule = MVTecAD(root=folder, category="tile", num_workers=0)
    datamodule.prepare_data()
    datamodule.setup()

    assert len(datamodule.train_data) == 2
    assert sorted(datamodule.test_data.samples.label.unique()) == sorted(["good", *defects("tile")])
    for item in datamodule.test_data:
        assert item.image.shape == (3, 64, 64)
        assert bool(item.gt_mask.any()) == bool(item.gt_label)


def test_set_is_reused_and_another_set_has_its_own_folder(tmp_path):
    """Existing images are not written again, and other arguments lead to another folder."""
    folder = generate(tmp_path, SMALL, ["plank"])
    written = {file: file.stat().st_mtime_ns for file in folder.rglob("*.png")}

    assert generate(tmp_path, SMALL, ["plank"]) == folder
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*.png")} == written
    assert generate(tmp_path, SMALL._replace(seed=6), ["plank"]) != folder


def test_new_generator_version_does_not_serve_old_images(tmp_path, monkeypatch):
    """Another generator version has another folder."""
    old = set_folder(tmp_path, SMALL)
    monkeypatch.setattr(dataset_module, "GENERATOR_VERSION", 10**6)
    assert set_folder(tmp_path, SMALL) != old


@pytest.mark.parametrize("category", CATEGORIES)
def test_pixels_belong_to_the_generator_version(category):
    """The pixels are those of the stated version, so that a change of them needs a new one."""
    image, mask = render(category, defect=defects(category)[0], size=64)
    found = (*image.mean(axis=(0, 1)), np.count_nonzero(mask))
    assert dataset_module.GENERATOR_VERSION == 1, "write down what the new version draws"
    assert found[:3] == pytest.approx(VERSION_1[category][:3], abs=0.3), "raise GENERATOR_VERSION"
    assert found[3] == pytest.approx(VERSION_1[category][3], abs=4), "raise GENERATOR_VERSION"


def test_manifest_names_all_arguments(tmp_path):
    """A category's manifest tells what it was made with."""
    folder = generate(tmp_path, SMALL, ["plank"])
    manifest = json.loads((folder / "plank" / "manifest.json").read_text())
    assert manifest == {
        "generator_version": dataset_module.GENERATOR_VERSION,
        "category": "plank",
        **SMALL._asdict(),
    }


def test_incomplete_category_is_made_again(tmp_path):
    """A category that lost a file is made again."""
    folder = generate(tmp_path, SMALL, ["plank"])
    before = image_hashes(folder)
    next((folder / "plank" / "train" / "good").iterdir()).unlink()
    assert not is_complete(folder / "plank", SMALL)

    generate(tmp_path, SMALL, ["plank"])
    assert image_hashes(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_failing_run_leaves_nothing(tmp_path, monkeypatch):
    """A run that fails leaves no half category."""
    calls = []

    def failing_render(*args, **kwargs):
        calls.append(args)
        if len(calls) > 5:
            raise KeyboardInterrupt
        return render(*args, **kwargs)

    monkeypatch.setattr(dataset_module, "render", failing_render)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path, SMALL, ["plank"])
    folder = set_folder(tmp_path, SMALL)
    assert list(tmp_path.iterdir()) == [folder]
    assert list(folder.iterdir()) == []


def test_killed_run_leaves_no_half_category(tmp_path):
    """A killed run leaves no half category, and its remains are removed later."""
    arguments = SMALL._replace(num_train=2000)
    process = start_generator(tmp_path, arguments, ["plank"])
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".generating-*/plank/train/good/*.png")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()

    folder = set_folder(tmp_path, arguments)
    assert list(folder.iterdir()) == [], "a killed run must not publish a category"
    leftover = next(tmp_path.glob(".generating-*"))
    old = time.time() - 2 * 3600
    os.utime(leftover, (old, old))
    generate(tmp_path, SMALL, ["plank"])
    assert not leftover.exists(), "what a killed run left is removed later"


def test_two_runs_side_by_side_agree(tmp_path):
    """Two runs at the same time give one complete set."""
    processes = [start_generator(tmp_path, SMALL, ["cap", "tile"]) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    folder = set_folder(tmp_path, SMALL)
    assert list(tmp_path.iterdir()) == [folder]
    assert all(is_complete(folder / name, SMALL) for name in ("cap", "tile"))


@pytest.mark.parametrize(
    ("change", "error"),
    [({"num_train": 0}, ValueError), ({"image_size": 8}, ValueError), ({"seed": 0.5}, TypeError)],
)
def test_bad_set_arguments_are_refused(tmp_path, change, error):
    """Numbers that are too small or no integers are refused."""
    with pytest.raises(error, match=next(iter(change))):
        generate(tmp_path / "new", SMALL._replace(**change))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("make_noise", [noise.value_noise, noise.fbm])
def test_noise_is_centered_and_smooth(make_noise):
    """Noise has mean zero and no steps."""
    image = make_noise(np.random.default_rng(0), 128, 16)
    assert image.shape == (128, 128)
    assert image.dtype == np.float32
    assert abs(image.mean()) < 0.15
    assert 0.2 < image.std() < 1.2
    assert np.abs(np.diff(image)).mean() < 0.5 * image.std()


def test_strokes_and_polygons_have_the_drawn_area():
    """Strokes and polygons cover the area that geometry says."""
    line = drawing.stroke(128, [(-0.25, 0), (0.25, 0)], 0.05)
    square = drawing.polygon(128, [(-0.25, -0.25), (0.25, -0.25), (0.25, 0.25), (-0.25, 0.25)])
    assert line.mean() == pytest.approx(0.5 * 0.05, rel=0.15)
    assert square.mean() == pytest.approx(0.25, rel=0.03)


def test_flat_surface_keeps_its_color_under_light():
    """Light does not change the color of a flat surface."""
    albedo = np.full((16, 16, 3), 0.4, dtype=np.float32)
    lit = primitives.shade(albedo, np.zeros((16, 16), dtype=np.float32), gloss=0.5)
    np.testing.assert_allclose(lit, albedo, atol=1e-6)
