# SPDX-License-Identifier: Apache-2.0
"""benchmarks/import_time.py tells what the package adds to an import."""

import functools
import re

import pytest

from tests.scripts import load_script

import_time = load_script("benchmarks/import_time.py")


@pytest.mark.slow
def test_times_are_printed(monkeypatch, capsys):
    """All three kinds of processes are timed; each is started once here, for an import takes long."""
    monkeypatch.setattr(import_time, "run", functools.cache(import_time.run))
    import_time.main(["--repetitions", "2"])
    printed = capsys.readouterr().out
    assert re.search(r"[\d.]+ s without us, [\d.]+ s with", printed)
    assert re.search(r"Imported after anomalib: [1-9]\d* ms", printed)


def test_a_script_that_fails_is_an_error():
    """The time of a process that did nothing is no time."""
    with pytest.raises(RuntimeError, match="run it by hand"):
        import_time.run("import nothing_of_this_name", hook=False)
