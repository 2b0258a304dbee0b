# SPDX-License-Identifier: Apache-2.0
import csv
import json

import pytest

from anomalib_vqflow.evaluation.results import print_results, save_results, to_frame, to_scalars

NAN = float("nan")
METRICS = [f"{level}_{metric}" for level in ("image", "pixel") for metric in ("AUROC", "AP", "F1Max", "F1Score")]
METRICS.append("pixel_AUPRO")
ROWS = {
    "a_category_of_some_length": {"normal": 100, "anomalous": 200, **dict.fromkeys(METRICS, 0.25)},
    "nut": {"normal": 1, "anomalous": 2, **dict.fromkeys(METRICS, 0.75), "pixel_AUROC": NAN},
    "plate": {"normal": 3, "anomalous": 0, **dict.fromkeys(METRICS, NAN)},
}
POOLED = {"normal": 104, "anomalous": 202, **dict.fromkeys(METRICS, 1 / 3)}


def test_frame_has_a_row_for_each_category_then_mean_and_pool():
    """Rows are found by category, columns by metric; numbers of images are integers."""
    frame = to_frame(ROWS, POOLED)

    assert list(frame.index) == [*ROWS, "macro", "pooled"]
    assert list(frame.columns) == ["normal", "anomalous", *METRICS]
    assert frame.loc["nut", "image_AUROC"] == 0.75
    assert frame.loc["pooled", "image_AUROC"] == 1 / 3
    assert frame["normal"].dtype == frame["anomalous"].dtype == int


def test_mean_is_over_what_is_evaluable():
    """The macro mean of a metric is over the categories that have it."""
    macro = to_frame(ROWS, POOLED).loc["macro"]

    assert macro["image_AUROC"] == 0.5
    assert macro["pixel_AUROC"] == 0.25
    assert (macro["normal"], macro["anomalous"]) == (104, 202)


def test_what_is_evaluable_nowhere_is_a_dash(capsys):
    """A metric that nobody has is a dash, not a number, and the table says what that means."""
    rows = {"plate": ROWS["plate"], "disk": ROWS["plate"]}

    print_results(to_frame(rows, ROWS["plate"]))

    table, meaning = capsys.readouterr().out.split("\N{EN DASH} not evaluable")
    assert table.count("\N{EN DASH}") == 4 * len(METRICS)
    assert "no masks" in meaning
    assert "0.0" not in table
    assert "nan" not in table


def test_table_of_usual_names_fits_eighty_columns(capsys):
    """The table of a category name of usual length fits 80 columns."""
    row = ROWS["nut"] | {"normal": 2000, "anomalous": 2000}

    print_results(to_frame({"magnetic_tile": row, "nut": row}, row))

    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_table_is_never_cut(capsys, monkeypatch):
    """A narrow terminal does not shorten names or numbers."""
    monkeypatch.setenv("COLUMNS", "40")

    print_results(to_frame(ROWS, POOLED))

    printed = capsys.readouterr().out
    assert "a_category_of_some_length" in printed
    assert "0.250" in printed
    assert "…" not in printed


def test_single_category_has_one_row(capsys):
    """The mean and pool of one category equal it and are not printed."""
    print_results(to_frame({"nut": ROWS["nut"]}, ROWS["nut"]))

    printed = capsys.readouterr().out
    assert "nut" in printed
    assert "1+2" in printed
    assert "macro" not in printed
    assert "pooled" not in printed


def test_files_hold_all_numbers(tmp_path, capsys):
    """CSV and JSON hold every number, and an empty cell or null for what is not evaluable."""
    folder = tmp_path / "new"
    save_results(to_frame(ROWS, POOLED), folder)

    with (folder / "category_metrics.csv").open(newline="") as file:
        table = {row["category"]: row for row in csv.DictReader(file)}
    data = json.loads((folder / "category_metrics.json").read_text())
    assert list(table) == list(data) == [*ROWS, "macro", "pooled"]
    assert list(table["nut"]) == ["category", "normal", "anomalous", *METRICS]
    assert list(data["nut"]) == ["normal", "anomalous", *METRICS]
    assert table["nut"]["pixel_AUROC"] == ""
    assert data["nut"]["pixel_AUROC"] is None
    assert float(table["pooled"]["image_AP"]) == 1 / 3
    assert data["pooled"]["image_AP"] == pytest.approx(1 / 3, abs=1e-15)
    assert table["plate"]["anomalous"] == "0"
    assert data["plate"]["anomalous"] == 0
    written = f"Written to {folder / 'category_metrics.csv'} and {folder / 'category_metrics.json'}"
    assert written in capsys.readouterr().out


def test_files_of_another_run_stay(tmp_path):
    """Each run writes files of its own, even where one of the pair was deleted."""
    for value in range(3):
        save_results(to_frame({"nut": {**ROWS["nut"], "normal": value}}, POOLED), tmp_path)
    (tmp_path / "category_metrics-v1.csv").unlink()
    save_results(to_frame({"nut": {**ROWS["nut"], "normal": 3}}, POOLED), tmp_path)

    written = {path.name: json.loads(path.read_text())["nut"]["normal"] for path in tmp_path.glob("*.json")}
    names = ["category_metrics.json", *(f"category_metrics-v{version}.json" for version in (1, 2, 3))]
    assert written == dict(zip(names, range(4), strict=True))


def test_folder_that_cannot_be_written_is_a_warning(tmp_path, caplog, capsys):
    """What cannot be written is reported with its reason, not raised."""
    (tmp_path / "file").touch()

    save_results(to_frame(ROWS, POOLED), tmp_path / "file" / "folder")

    assert "Could not write the results per category" in caplog.text
    assert "Written" not in capsys.readouterr().out


def test_scalars_leave_out_what_is_not_evaluable():
    """Loggers get no NaN, and no numbers of images."""
    scalars = to_scalars(to_frame(ROWS, POOLED))

    assert scalars["nut/image_AUROC"] == 0.75
    assert scalars["macro/image_AUROC"] == 0.5
    assert "nut/pixel_AUROC" not in scalars
    assert "nut/normal" not in scalars
    assert not any(name.startswith("plate") for name in scalars)
