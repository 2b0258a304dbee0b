# SPDX-License-Identifier: Apache-2.0
"""Whatever ends a process, at whatever moment: what is there is whole, and what goes on comes to the same end."""

import signal
import time

import numpy as np
import pytest
import torch

from anomalib_vqflow.cache.records import RecordFiles
from anomalib_vqflow.prediction.loading import load_model

from . import killed
from .killed import End
from .training import assert_same_bits

KILL, TERM = signal.SIGKILL, signal.SIGTERM
LONGEST_PAUSE = 150_000  # calls between two signals; saving a checkpoint takes a hundred thousand

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    """Uninterrupted trainings: their weights, and the calls that their places saw."""

    def train(job):
        folder = tmp_path_factory.mktemp(job.__name__)
        code, counts = killed.run(job, folder, root)
        assert code == 0
        return killed.weights_in(folder), counts

    return {job: train(job) for job in (killed.train_on_augmented, killed.train_on_cached)}


def files_in(folder):
    """Contents of all finished files."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths if path.suffix != ".part"}


@pytest.mark.parametrize(
    ("place", "signals", "count"),
    [("training", (KILL,), 6), ("checkpoint", (KILL,), 5), ("training", (TERM,), 6), ("training", (TERM, KILL), 6)],
)
def test_a_training_that_is_ended_anywhere_reaches_the_same_weights(root, whole, tmp_path, place, signals, count):
    """By SIGKILL, SIGTERM, or SIGTERM and SIGKILL soon after, and the resumed one once more, if it comes so far."""
    weights, counts = whole[killed.train_on_augmented]
    last = counts["checkpoint"] + (counts["training"] if place == "training" else 0)
    generator, hits = np.random.default_rng(1), 0
    chosen = killed.moments(0, count, 0.98 * last)
    ends = [End(place, moment, signals, int(generator.integers(LONGEST_PAUSE))) for moment in chosen]
    for number, (end, later) in enumerate(zip(ends, generator.permutation(count), strict=True)):
        folder = tmp_path / str(number)
        killed.run(killed.train_on_augmented, folder, root, end=end)
        hits += killed.weights_in(folder) is None
        killed.run(killed.train_on_augmented, folder, root, end=ends[later])
        assert all(torch.load(path, weights_only=True)["global_step"] for path in folder.rglob("model.ckpt"))
        assert killed.run(killed.train_on_augmented, folder, root)[0] == 0
        assert_same_bits(killed.weights_in(folder), weights)
    assert hits >= count - (TERM in signals)  # which comes too late in the last moment of a training


def test_a_cache_that_is_ended_anywhere_is_good(root, whole, tmp_path):
    """What it wrote before is used, and the weights are those of an uninterrupted training."""
    weights, counts = whole[killed.train_on_cached]
    for number, moment in enumerate(killed.moments(2, 8, 0.98 * counts["cache"])):
        folder, end = tmp_path / str(number), End("cache", moment, (TERM if number % 3 else KILL,))
        assert killed.run(killed.train_on_cached, folder, root, end=end)[0] == -end.signals[0]
        records = RecordFiles(folder / "cache")
        assert all(f"{path.parent.name}/{path.stem}" in records for path in folder.rglob("*.safetensors"))
        assert killed.run(killed.train_on_cached, folder, root)[0] == 0
        assert_same_bits(killed.weights_in(folder), weights)


def test_a_prediction_that_is_ended_anywhere_leaves_whole_files(root, trained, tmp_path):
    """A table is there when it is complete, every picture and map is whole, and the next run makes all of them."""
    code, counts = killed.run(killed.predict, tmp_path / "whole", trained[2], root)
    expected = files_in(tmp_path / "whole")
    assert code == 0
    for number, moment in enumerate(killed.moments(4, 8, 0.98 * counts["prediction"])):
        folder, end = tmp_path / str(number % 2), End("prediction", moment, (TERM if number % 3 else KILL,))
        assert killed.run(killed.predict, folder, trained[2], root, end=end)[0] == -end.signals[0]
        assert files_in(folder).items() <= expected.items()
        assert "table.csv" not in files_in(folder)
    for folder in (tmp_path / "0", tmp_path / "1"):
        assert killed.run(killed.predict, folder, trained[2], root)[0] == 0
        assert files_in(folder) == expected
        assert not list(folder.rglob("*.part"))


def test_files_of_two_exports_are_never_mixed(tmp_path):
    """Ended while the files of a later export are moved to their place, there is a model of one export, or none."""
    place = tmp_path / "weights" / "openvino"
    _, counts = killed.run(killed.export_texts, tmp_path, "0")
    for number, moment in enumerate(killed.moments(6, 10, 0.98 * counts["moving"]), start=1):
        end = End("moving", moment, (TERM if number % 3 else KILL,))
        assert killed.run(killed.export_texts, tmp_path, str(number), end=end)[0] == -end.signals[0]
        if (place / "model.xml").exists():
            texts = [(place / name).read_text() for name in ("metadata.json", "model.bin", "model.xml")]
            assert len({*texts}) == 1, texts
    assert killed.run(killed.export_texts, tmp_path, "last")[0] == 0
    assert {path.read_text() for path in place.iterdir() if path.is_file()} == {"last"}


def test_an_export_that_is_ended_leaves_the_one_before(trained, tmp_path):
    """By a signal, or a full disk, while it is computed or written; the next one is done."""
    place = tmp_path / "weights" / "openvino"
    assert killed.run(killed.export_texts, tmp_path, "before")[0] == 0
    before, start = {path.name: path.read_bytes() for path in place.iterdir()}, time.monotonic()
    code, said = killed.run(killed.export_to_a_disk_that_fills, tmp_path, trained[2])
    seconds = time.monotonic() - start
    assert code == 1
    assert "The disk has no room for the export" in said
    assert {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()} == before
    for share, number in ((0.2, KILL), (0.5, TERM), (0.7, KILL)):
        assert killed.run(killed.export, tmp_path, trained[2], end_after=(share * seconds, number))[0] == -number
        assert {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()} == before
    assert killed.run(killed.export, tmp_path, trained[2])[0] == 0
    assert load_model(place / "model.xml").metadata


def test_a_full_disk_leaves_the_checkpoint_before(root, whole, tmp_path):
    """The error names the file and what to do; with room again, the training reaches the same weights."""
    code, said = killed.run(killed.train_until_the_disk_is_full, tmp_path, root)
    assert code == 1
    assert "model.ckpt could not be written: " in said
    assert "resume" in said
    (path,) = tmp_path.rglob("model.ckpt*")
    assert torch.load(path, weights_only=True)["epoch"] == 0

    assert killed.run(killed.train_on_augmented, tmp_path, root)[0] == 0
    assert_same_bits(killed.weights_in(tmp_path), whole[killed.train_on_augmented][0])


def test_a_full_disk_leaves_a_cache_that_is_good(root, whole, tmp_path):
    """The error says what to do, and nothing is left behind."""
    code, said = killed.run(killed.train_on_cached, tmp_path, root, disk_is_full=True)
    assert code == 1
    assert "The feature cache could not write " in said
    assert not files_in(tmp_path)

    assert killed.run(killed.train_on_cached, tmp_path, root)[0] == 0
    assert_same_bits(killed.weights_in(tmp_path), whole[killed.train_on_cached][0])


def test_a_full_disk_leaves_the_predictions_before(root, trained, tmp_path):
    """The error names the file."""
    assert killed.run(killed.predict, tmp_path, trained[2], root)[0] == 0
    before = files_in(tmp_path)

    code, said = killed.run(killed.predict, tmp_path, trained[2], root, disk_is_full=True)

    assert code == 2
    assert "error: Cannot write " in said
    assert files_in(tmp_path) == before
    assert not list(tmp_path.rglob("*.part"))
