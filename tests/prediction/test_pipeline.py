# SPDX-License-Identifier: Apache-2.0
"""The pipeline keeps order, works ahead, and holds few images at a time, whatever model it has."""

import threading
import time
from pathlib import Path, PurePath

import numpy as np
import pytest

from anomalib_vqflow.prediction.pipeline import Result, ahead, score_images
from anomalib_vqflow.prediction.predictions import Picture, Prediction
from anomalib_vqflow.prediction.search import Source
from anomalib_vqflow.prediction.writing import Folders


class Counting:
    """A model that scores an image by the number in its name, and counts how many images there are at a time."""

    tells_concept = False
    metadata = None

    def __init__(self, num_requests=1, slow=None, broken=()):
        self.num_requests, self.slow, self.broken = num_requests, slow, broken
        self.lock, self.read_images, self.running, self.most_running = threading.Lock(), 0, 0, 0

    def read(self, path):
        with self.lock:
            self.read_images += 1
        if path.stem == self.slow:
            time.sleep(0.2)
        if path.stem in self.broken:
            raise ValueError(path.stem)
        pixels = np.full((4, 6, 3), int(path.stem), dtype=np.uint8)
        return Picture(pixels, pixels)

    def start(self, picture):
        self.running += 1
        self.most_running = max(self.most_running, self.running)

        def collect():
            self.running -= 1
            value = picture.given[0, 0, 0] / 255
            return Prediction(value, value > 0.5, 0.5, np.full((2, 3), value, np.float32), None, None)

        return collect


def sources(count):
    return [Source(Path(f"{number}.png"), PurePath(f"{number}.png")) for number in range(count)]


@pytest.mark.parametrize("num_requests", [1, 3])
@pytest.mark.parametrize("num_readers", [1, 4])
@pytest.mark.parametrize("count", [1, 2, 20])
def test_results_are_in_order_and_as_many_run_at_once_as_may(num_requests, num_readers, count):
    """However long one takes, and whichever fails."""
    model = Counting(num_requests, slow="1", broken={"3", "19"})
    results = list(score_images(model, sources(count), num_readers))
    assert [result.source.path.stem for result in results] == [str(number) for number in range(count)]
    assert [result.failure for result in results if result.failure] == [n for n in ("3", "19") if int(n) < count]
    assert all(result.failure or result.score == int(result.source.path.stem) / 255 for result in results)
    assert model.most_running == min(num_requests, count)
    assert model.running == 0


def test_memory_is_bounded():
    """Images are read ahead by a number that does not depend on how many there are, if nobody takes the results."""
    model = Counting(num_requests=2)
    results = score_images(model, sources(500), num_readers=3)
    for _ in range(10):
        next(results)
    time.sleep(0.1)
    assert model.read_images < 40
    results.close()


def test_errors_of_a_model_are_not_hidden():
    """Only files may be at fault for what is left out."""
    model = Counting()
    model.start = lambda picture: 1 / 0
    with pytest.raises(ZeroDivisionError):
        list(score_images(model, sources(3)))


def test_a_file_that_cannot_be_written_is_an_error(tmp_path):
    """No image is left out in silence."""
    (tmp_path / "maps").touch()
    with pytest.raises(OSError, match="maps"):
        list(score_images(Counting(), sources(3), folders=Folders(maps=tmp_path / "maps")))


def test_a_threshold_makes_regions_of_a_map():
    """In pixels of the image, where the model tells no mask."""
    low, high = score_images(Counting(), [sources(101)[index] for index in (10, 100)], threshold=0.2)
    assert isinstance(low, Result)
    assert (low.label, low.regions) == (False, [])
    assert (high.label, high.threshold) == (True, 0.2)
    ((*box, peak),) = high.regions
    assert box == [0, 0, 6, 4, 24]
    assert peak == pytest.approx(100 / 255)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_ahead_takes_what_it_may_and_gives_all(count):
    """In order."""
    taken = []
    found = ahead((taken.append(number) or number for number in range(4)), count)
    assert next(found) == 0
    assert len(taken) == min(count + 1, 4)
    assert list(found) == [1, 2, 3]
