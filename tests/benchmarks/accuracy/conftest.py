# SPDX-License-Identifier: Apache-2.0
"""Runs of benchmarks/accuracy/smoke.yaml, done once."""

from pathlib import Path

import pytest

from benchmarks.accuracy.plan import read_plan
from benchmarks.accuracy.running import execute
from benchmarks.accuracy.store import Store

SMOKE = Path(__file__).parents[3] / "benchmarks" / "accuracy" / "smoke.yaml"


def smoke_runs():
    """Runs of seed 0, by the name of the method."""
    return {run.method: run for run in read_plan(SMOKE) if run.seed == 0}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The results of every method of the file, with seed 0."""
    folder = tmp_path_factory.mktemp("smoke")
    store = Store(folder / "results")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # where the images are drawn
        for run in smoke_runs().values():
            execute(run, store, "a test")
    return store
