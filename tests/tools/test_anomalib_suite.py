# SPDX-License-Identifier: Apache-2.0
"""tests/tools/anomalib_suite.py runs the tests of a copy of anomalib, for our model only and offline."""

import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).with_name("anomalib_suite.py")
COPY = """
import pytest

@pytest.mark.parametrize("model_name", ["padim", "v_q_flow"])
def test_model(model_name):
    import timm
    timm.create_model("mobilenetv2_100", pretrained=True)  # would download
    assert model_name == "v_q_flow"
"""


def run(*arguments):
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_only_our_model_is_tested_and_nothing_is_downloaded(tmp_path):
    """Of a copy with a test for two models, which asks for weights, ours alone runs; options reach pytest."""
    copy = tmp_path / "tests" / "integration" / "model" / "test_models.py"
    copy.parent.mkdir(parents=True)
    copy.write_text(COPY)
    done = run(tmp_path, "--durations=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed, 1 deselected" in done.stdout
    assert "slowest 1 durations" in done.stdout


def test_another_folder_is_refused(tmp_path):
    """The error names what is missing."""
    done = run(tmp_path)
    assert done.returncode == 2
    assert "test_models.py" in done.stderr
