# SPDX-License-Identifier: Apache-2.0
import csv
import json

import pytest
from rich.console import Console

from anomalib_vqflow.evaluation.report import CategoryRow, macro_row, print_table, to_scalars, to_table, write_report

NAN = float("nan")
METRICS = [f"{level}_{metric}" for level in ("image", "pixel") for metric in ("AUROC", "AP", "F1Max", "F1Score")]
ROWS = {
    "a_category_of_some_length": CategoryRow(100, 200, dict.fromkeys([*METRICS, "pixel_AUPRO"], 0.25)),
    "nut": CategoryRow(1, 2, dict.fromkeys([*METRICS, "pixel_AUPRO"], 0.75) | {"pixel_AUROC": NAN}),
    "plate": CategoryRow(3, 0, dict.fromkeys([*METRICS, "pixel_AUPRO"], NAN)),
}


def test_mean_is_over_what_is_evaluable():
    """The macro mean of a metric is over the categories that have it."""
    macro = macro_row(ROWS)

    assert macro.metrics["image_AUROC"] == 0.5
    assert macro.metrics["pixel_AUROC"] == 0.25
    assert (macro.normal, macro.anomalous) == (104, 202)


def test_what_is_evaluable_nowhere_is_a_dash():
    """A metric that nobody has is a dash, not a number."""
    rows = {"plate": ROWS["plate"], "macro": macro_row({"plate": ROWS["plate"]})}

    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(to_table(rows, "Results"))

    text = console.export_text()
    assert text.count("\N{EN DASH}") >= 18
    assert "0.0" not in text
    assert "nan" not in text


def test_table_of_usual_names_fits_eighty_columns():
    """The table of a category name of usual length fits 80 columns."""
    table = to_table({"magnetic_tile": CategoryRow(2000, 2000, ROWS["nut"].metrics)}, "Results")

    assert Console(width=200).measure(table).maximum <= 80


def test_table_is_never_cut(capsys, monkeypatch):
    """A narrow terminal does not shorten names or numbers."""
    monkeypatch.setenv("COLUMNS", "40")

    print_table(ROWS | {"macro": macro_row(ROWS)}, "Results")

    printed = capsys.readouterr().out
    assert "a_category_of_some_length" in printed
    assert "0.250" in printed
    assert "…" not in printed


def test_files_hold_all_numbers(tmp_path):
    """CSV and JSON hold every number, and an empty cell or null for what is not evaluable."""
    write_report(ROWS, tmp_path / "new")

    with (tmp_path / "new/category_metrics.csv").open(newline="") as file:
        table = {row["category"]: row for row in csv.DictReader(file)}
    data = json.loads((tmp_path / "new/category_metrics.json").read_text())
    assert list(table) == list(data) == list(ROWS)
    assert table["nut"]["pixel_AUROC"] == ""
    assert data["nut"]["pixel_AUROC"] is None
    assert float(table["nut"]["image_AP"]) == data["nut"]["image_AP"] == 0.75
    assert data["plate"]["anomalous"] == 0


def test_scalars_leave_out_what_is_not_evaluable():
    """Loggers get no NaN."""
    scalars = to_scalars(ROWS)

    assert scalars["nut/image_AUROC"] == pytest.approx(0.75)
    assert "nut/pixel_AUROC" not in scalars
    assert not any(name.startswith("plate") for name in scalars)
