# SPDX-License-Identifier: Apache-2.0
"""Files that show what was found show it where it is."""

import numpy as np
import pytest
from PIL import Image

from anomalib_vqflow.prediction.writing import write_heat_map, write_map, write_mask


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_heat_map_shows_the_image_under_its_map(tmp_path, dtype):
    """Blue where normal, red where anomalous, of the size of the image, for images of any depth."""
    pixels = np.zeros((40, 60, 3), dtype)
    pixels[20:] = 255 if dtype == np.uint8 else 1
    anomaly_map = np.zeros((4, 6), np.float32)
    anomaly_map[:, 3:] = 1
    write_heat_map(tmp_path / "new" / "a.png", pixels, anomaly_map)
    drawn = np.asarray(Image.open(tmp_path / "new" / "a.png")).astype(int)
    assert drawn.shape == pixels.shape
    assert (drawn[:, 5, 2] > drawn[:, 5, 0]).all()
    assert (drawn[:, 55, 0] > drawn[:, 55, 2]).all()
    assert (drawn[30] > drawn[10]).any(axis=1).all()


def test_masks_and_maps_are_written_as_they_are(tmp_path):
    """To folders that are made."""
    mask = np.arange(12).reshape(3, 4) % 3 == 0
    write_mask(tmp_path / "masks" / "a.png", mask)
    assert (np.asarray(Image.open(tmp_path / "masks" / "a.png")) == 255 * mask).all()
    write_map(tmp_path / "maps" / "a.npy", mask / 3)
    assert (np.load(tmp_path / "maps" / "a.npy") == (mask / 3).astype(np.float32)).all()
