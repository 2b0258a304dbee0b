# SPDX-License-Identifier: Apache-2.0
"""benchmarks/export_profile.py tells where an exported model spends its time."""

import pytest

from tests.scripts import load_script, read_table

export_profile = load_script("benchmarks/export_profile.py")


@pytest.mark.slow
def test_parts_add_up_and_none_is_lost(config, capsys):
    """Each part takes time, and so do convolutions outside of the backbone, whose names OpenVINO changes."""
    export_profile.main(["--config", str(config), "--rounds", "3"])

    parts, kinds = (read_table(table) for table in capsys.readouterr().out.strip().rsplit("\n\n", 1))
    times = {name: float(cells[0]) for name, cells in parts.items()}
    total = times.pop("all")
    assert times.keys() == {*export_profile.PARTS, export_profile.REST}
    assert sum(times.values()) == pytest.approx(total, abs=0.01 * len(times))
    assert min(times["flow, level 1"], times["flow, fusion"], times["backbone"]) > 0
    assert "Convolution" in kinds


@pytest.mark.parametrize(
    ("module", "part"),
    [
        ("model.flow.levels.1.module_list.2", "flow, level 2"),
        ("model.features", "backbone"),
        ("model.features_too", export_profile.REST),
        ("", export_profile.REST),
    ],
)
def test_modules_belong_to_parts(module, part):
    """By their paths; what belongs to none is the rest."""
    assert export_profile.part_of(module) == part
