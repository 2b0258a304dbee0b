# SPDX-License-Identifier: Apache-2.0
"""benchmarks/public_tables.py writes the numbers that it is given, and the published ones where they compare."""

import pandas as pd
import pytest

from tests.scripts import load_script, read_table

public_tables = load_script("benchmarks/public_tables.py")
NONE = "\N{EN DASH}"


def table(capsys, count, dataset="MVTecAD", **values):
    names = [f"part_{index}" for index in range(count)]
    results = pd.DataFrame(dict.fromkeys(public_tables.SECTIONS.values(), 0.5), index=names)
    for metric, column in values.items():
        results[metric] = column
    public_tables.print_tables(results, dict.fromkeys(names, dataset), "VQFlow, x", 3)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("dataset", "count", "published"), [("MVTecAD", 15, "99.5 / 98.3"), ("MVTecAD", 2, NONE), ("Visa", 12, NONE)]
)
def test_published_numbers_stand_beside_what_they_compare_with(dataset, count, published, capsys):
    """The abstract has a mean over all categories of MVTec AD; there is no other number to compare with."""
    printed = table(capsys, count, dataset)
    assert read_table(printed.partition("## ")[0])[f"mean of {dataset}"] == ["50.0 / 50.0", published]


def test_averages_are_of_the_categories_that_have_a_number(capsys):
    """What is not evaluable is a dash, and not part of the mean."""
    printed = table(capsys, 3, pixel_AUROC=[0.9, float("nan"), 0.8])
    assert read_table(printed.partition("## ")[0])["part_1"] == [f"50.0 / {NONE}", NONE]
    section = printed.partition("### Pixel-Level AUC")[2].partition("###")[0]
    assert read_table(section) == {"VQFlow, x": ["0.850", "0.900", NONE, "0.800"]}


def test_the_seed_is_told_as_anomalib_does(capsys):
    assert "All results gathered with seed `3`." in table(capsys, 2)
