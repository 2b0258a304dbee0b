# SPDX-License-Identifier: Apache-2.0
"""One compiled model serves many threads: same answers, same memory, however long."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from .load import NUM_IMAGES, NUM_THREADS

SECONDS = float(os.environ.get("VQFLOW_LOAD_SECONDS", "60"))


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 600)
def test_threads_get_the_answers_of_one(exported):
    """Every bit of every output is that of a single thread, and after a warm-up memory stays as it is.

    For longer, set ``VQFLOW_LOAD_SECONDS``.
    """
    command = [sys.executable, str(Path(__file__).with_name("load.py")), str(exported("openvino")), str(SECONDS)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    print(found)  # noqa: T201  # shown by -s, for those who run it for longer
    assert len(found["asked"]) == NUM_THREADS
    assert min(found["asked"]) >= NUM_IMAGES
    assert found["differing"] == [0] * NUM_THREADS
    memory = found["memory"]
    share = len(memory) // 5
    warm, last = memory[share : 2 * share], memory[-share:]
    assert statistics.median(last) < statistics.median(warm) + 5
