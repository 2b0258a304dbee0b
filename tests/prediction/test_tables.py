# SPDX-License-Identifier: Apache-2.0
"""CSV and lines of JSON tell the same, in their own ways."""

import csv
import io
import json
from pathlib import Path, PurePath

import pytest

from anomalib_vqflow.prediction.pipeline import Result
from anomalib_vqflow.prediction.regions import Region
from anomalib_vqflow.prediction.search import Source
from anomalib_vqflow.prediction.tables import open_table, table_writer

SOURCE = Source(Path("a, b.png"), PurePath("a.png"))
REGIONS = [Region(1, 2, 3, 4, 5, 0.3333333333), Region(0, 0, 1, 1, 1, 0.25)]
KNOWN = Result(SOURCE, score=0.123456789, label=True, threshold=0.2, concept=3, regions=REGIONS)
UNKNOWN = Result(SOURCE, score=0.5)


@pytest.mark.parametrize(
    ("tells_concept", "expected"),
    [
        (True, ["path,score,label,threshold,concept,regions,area", '"a, b.png",0.123457,anomalous,0.2,3,2,6']),
        (False, ["path,score,label,threshold,regions,area", '"a, b.png",0.123457,anomalous,0.2,2,6']),
    ],
)
def test_csv_counts_regions(tells_concept, expected):
    """And their pixels; what is not known is empty."""
    file = io.StringIO()
    write = table_writer(file, ".csv", tells_concept)
    write(KNOWN)
    write(UNKNOWN)
    assert file.getvalue().splitlines() == [*expected, '"a, b.png",0.500000' + "," * (expected[0].count(",") - 1)]


@pytest.mark.parametrize(("concept", "product"), [(3, "nut"), (4, None)])
def test_products_stand_beside_concepts(concept, product):
    """In both kinds of tables; of a concept that no product is known of, nothing."""
    csv_file, json_file = io.StringIO(), io.StringIO()
    result = KNOWN._replace(concept=concept)
    table_writer(csv_file, ".csv", tells_concept=True, products={3: "nut"})(result)
    table_writer(json_file, ".jsonl", tells_concept=True, products={3: "nut"})(result)
    (row,) = csv.DictReader(csv_file.getvalue().splitlines())
    assert (row["concept"], row["product"]) == (str(concept), product or "")
    assert json.loads(json_file.getvalue())["product"] == product


def test_json_lists_regions():
    """What is not known is null."""
    file = io.StringIO()
    for tells_concept in (True, False):
        write = table_writer(file, ".jsonl", tells_concept)
        write(KNOWN)
    write(UNKNOWN)
    first, second, third = map(json.loads, file.getvalue().splitlines())
    assert first == {
        "path": "a, b.png",
        "score": 0.123457,
        "label": "anomalous",
        "threshold": 0.2,
        "concept": 3,
        "regions": [
            {"x": 1, "y": 2, "width": 3, "height": 4, "area": 5, "peak": 0.333333},
            {"x": 0, "y": 0, "width": 1, "height": 1, "area": 1, "peak": 0.25},
        ],
    }
    assert second == {name: value for name, value in first.items() if name != "concept"}
    assert third == {"path": "a, b.png", "score": 0.5, "label": None, "threshold": None, "regions": None}


def test_a_table_makes_its_folder(tmp_path):
    """And holds any name of a file."""
    with open_table(tmp_path / "new" / "out.csv") as file:
        file.write("\udcff")
    assert (tmp_path / "new" / "out.csv").read_bytes() == b"\xff"
