# SPDX-License-Identifier: Apache-2.0
"""tests/tools/compatibility.py: what is installed, what is counted, what the table says."""

import json
import subprocess
import sys

import pytest
from packaging.version import Version

from . import compatibility

REPORT = """<testsuites>
<testsuite errors="1" failures="2" skipped="3" tests="10"/>
<testsuite errors="0" failures="0" skipped="0" tests="5"/>
</testsuites>"""
RESULT = {"python": "3.11.7", **dict.fromkeys(compatibility.SHOWN, "1.2"), "passed": 9, "skipped": 3, "minutes": 7.4}


def run(*arguments):
    command = [sys.executable, "-m", compatibility.__name__, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=compatibility.ROOT)


def test_the_oldest_set_is_what_the_package_states():
    """Every lower bound is a pin, and none of a development tool is."""
    pins = dict(pin.split("==") for pin in compatibility.lower_bounds())
    assert {"anomalib", "freia", "safetensors", "timm", "torch", "torchvision"} == {name.lower() for name in pins}
    assert all(Version(version) for version in pins.values())


def test_counts(tmp_path):
    """Errors are failures, and what passed is the rest; a run without a report has failed."""
    path = tmp_path / "report.xml"
    assert compatibility.counts(path)["failed"] == 1
    path.write_text(REPORT)
    assert compatibility.counts(path) == {"passed": 9, "failed": 3, "skipped": 3}


@pytest.mark.parametrize(("failed", "code"), [(0, 0), (2, 1)])
def test_results_that_are_there_are_written_between_the_markers(tmp_path, failed, code):
    """Nothing is installed for them; what stands around the table stays, and failures end with 1."""
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- compatibility:begin -->\nold\n<!-- compatibility:end -->\nafter\n")
    (tmp_path / "python3.11-newest.json").write_text(json.dumps({**RESULT, "failed": failed}))
    done = run("/usr/bin/python3.11", "--sets", "newest", "--folder", tmp_path, "--into", page)
    assert done.returncode == code, done.stderr
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert f"| 3.11.7 | newest | {' | '.join(['1.2'] * len(compatibility.SHOWN))} | 9 | {failed} | 3 | 7 |" in text


def test_an_interpreter_that_is_not_there_is_a_row(tmp_path):
    """The others are still tried, and the exit code tells."""
    done = run(tmp_path / "python9", "--sets", "oldest", "--folder", tmp_path / "new")
    assert done.returncode == 1
    assert "| oldest | [Errno 2] No such file" in done.stdout
