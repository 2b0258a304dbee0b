# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share measures what it says."""

import time

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from tests.scripts import load_script, read_table

measuring = load_script("benchmarks/measuring.py")


@pytest.fixture
def exported(tmp_path):
    """A model that doubles an image of any size, exported."""
    image = ops.parameter([-1, 3, -1, -1], np.float32, name="image")
    path = tmp_path / "model.xml"
    openvino.save_model(openvino.Model([ops.add(image, image)], [image]), path)
    return path


def test_functions_take_turns():
    """Each is called once per round, in order, the warm-up first."""
    calls = []
    measuring.take_turns({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=2, warm_up=1)
    assert calls == list("ababab")


def test_times_are_medians_without_the_warm_up():
    """One slow call changes nothing, nor does a slow warm-up; waiting takes no processor time."""
    pauses = iter([0.3, 0.01, 0.3, 0.01])
    times = measuring.take_turns({"sleep": lambda: time.sleep(next(pauses))}, rounds=3)["sleep"]
    assert 0.01 <= times.wall < 0.25
    assert times.processor < 0.01


def test_peak_memory_never_falls():
    """What was allocated counts, also when it was given back."""
    before = measuring.peak_memory()
    floats = np.ones(40_000_000)
    held = measuring.peak_memory()
    del floats
    assert held >= before
    assert measuring.peak_memory() == pytest.approx(held, rel=0.01)


def test_inference_takes_more_memory_than_openvino_alone(exported):
    """The process that infers with a model holds at least its image in addition."""
    alone = measuring.peak_memory_of_inference(None, 1, (64, 64))
    assert measuring.peak_memory_of_inference(exported, 1, (2000, 2000)) > alone + 4 * 3 * 2000 * 2000 / 1e6


def test_a_model_is_compiled_as_exported_or_for_one_shape(exported):
    """In float32, with the threads asked for."""
    image = np.ones((1, 3, 4, 6), dtype=np.float32)
    for shape in (None, image.shape):
        request = measuring.compile_request(exported, 1, shape)
        assert request.infer({0: image})[0].sum() == 2 * image.sum()
        assert request.get_compiled_model().input(0).partial_shape.is_static == (shape is not None)
        assert request.get_compiled_model().get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
        assert request.get_compiled_model().get_property("INFERENCE_NUM_THREADS") == 1


def test_the_size_of_a_model_counts_all_of_its_files(tmp_path):
    """The graph and the weights beside it, nothing else."""
    for name in ("model.xml", "model.bin", "other.bin"):
        (tmp_path / name).write_bytes(bytes(500_000))
    assert measuring.file_size(tmp_path / "model.xml") == 1.0


def test_tables_are_markdown(capsys):
    """A head, a line below it, and rows of as many cells."""
    measuring.print_header("name", "value")
    measuring.print_row("one", "1")
    printed = capsys.readouterr().out
    assert printed.splitlines()[1] == "|---|---|"
    assert read_table(printed) == {"one": ["1"]}


@pytest.mark.parametrize(
    ("values", "text"), [([0.5], "0.500"), ([0.4, 0.6], "0.500 ± 0.141"), ([0.4, float("nan")], "\N{EN DASH}")]
)
def test_means_come_with_the_deviation_of_the_sample(values, text):
    """One value has none; a dash for what cannot be evaluated."""
    assert measuring.mean_and_deviation(values) == text
