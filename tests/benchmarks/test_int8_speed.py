# SPDX-License-Identifier: Apache-2.0
"""benchmarks/int8_speed.py times an export in INT8 beside FP32."""

import pytest

from tests.scripts import load_script, read_table

int8_speed = load_script("benchmarks/int8_speed.py")


@pytest.mark.slow
def test_times_and_sizes_are_printed(config, capsys):
    """The whole model is timed in both types beside its backbone, and takes less space in INT8."""
    int8_speed.main(["--config", str(config), "use_whitening=true", "--threads", "1", "--rounds", "2"])
    rows = read_table(capsys.readouterr().out)
    (backbone, *_), (full, ratio, size), (*_, smaller) = (
        rows[name] for name in ("backbone, FP32", "whole model, FP32", "whole model, INT8_PTQ")
    )
    backbone, full, ratio = (float(cell.split()[0]) for cell in (backbone, full, ratio))  # wall time
    assert (full - 0.05) / (backbone + 0.05) - 0.005 <= ratio <= (full + 0.05) / (backbone - 0.05) + 0.005  # as printed
    assert float(smaller) < float(size)
