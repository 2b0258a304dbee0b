# SPDX-License-Identifier: Apache-2.0
"""Cached images are those of the dataset that they stand for."""

import pickle

import pytest
import torch
from pandas import DataFrame
from torch.utils.data import DataLoader

from anomalib_vqflow.cache.dataset import CachedImages
from anomalib_vqflow.cache.records import RecordFiles, encode

SHAPES = [(4, 6, 5), (2, 3, 7), (1, 2, 9)]
TILES = 2
NAMES = ["a", "b", "c"]


@pytest.fixture(params=["memory", "files"])
def images(request, tmp_path):
    records = {} if request.param == "memory" else RecordFiles(tmp_path)
    for number, name in enumerate(NAMES):
        records[f"vqflow-x/{name}"] = encode([torch.full((TILES, *shape), number).half() for shape in SHAPES])
    keys = [f"vqflow-x/{name}" for name in (*NAMES, "a")]  # the last file is a copy of the first
    samples = DataFrame({"image_path": ["a.png", "b.png", "c.png", "copy.png"]})
    return CachedImages(samples, keys, records, torch.Size([3, 32, 48]))


def test_a_batch_has_the_maps_of_its_images(images):
    """Values, order, shapes and layout are those of the backbone, tiles image by image; the images are black."""
    batch = images.collate_fn([images[index] for index in (2, 0, 1)])

    assert batch.image_path == ["c.png", "a.png", "b.png"]
    assert batch.image.shape == (3, 3, 32, 48)
    assert not batch.image.any()
    for maps, (height, width, channels) in zip((*batch.features.details, batch.features.semantic), SHAPES, strict=True):
        assert maps.shape == (3 * TILES, channels, height, width)
        assert maps.dtype == torch.float16
        assert maps.is_contiguous(memory_format=torch.channels_last)
        assert maps.mean((1, 2, 3)).tolist() == [2, 2, 0, 0, 1, 1]


def test_copies_of_a_file_share_a_record(images):
    """They have paths of their own."""
    assert len(images) == 4
    assert images[3][0] == "copy.png"
    assert all(torch.equal(one, other) for one, other in zip(images[3][1], images[0][1], strict=True))


def test_worker_processes_that_are_not_forked_can_read(images):
    """Whatever starts a worker process, it is handed the dataset as a pickle."""
    other = pickle.loads(pickle.dumps(images))

    assert [path for path, _ in (other[index] for index in range(4))] == ["a.png", "b.png", "c.png", "copy.png"]
    loader = DataLoader(images, batch_size=4, num_workers=1, collate_fn=images.collate_fn)
    (batch,) = loader
    assert batch.features.semantic.mean((1, 2, 3)).tolist() == [0, 0, 1, 1, 2, 2, 0, 0]


def test_lost_and_damaged_maps_are_named(images):
    """The error has the image's path and says what to do."""
    images.records["vqflow-x/b"] = images.records["vqflow-x/b"][:-1]
    with pytest.raises(OSError, match=r"cached maps of b\.png got lost.*damaged.*Resume"):
        images[1]
    images.records.clear()
    with pytest.raises(OSError, match=r"cached maps of a\.png got lost.*Resume"):
        images[0]
