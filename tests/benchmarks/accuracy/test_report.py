# SPDX-License-Identifier: Apache-2.0
"""Rows become tables and plots."""

from pathlib import Path

import pytest

from benchmarks.accuracy.__main__ import main
from benchmarks.accuracy.bootstrap import METRICS
from benchmarks.accuracy.report import plot, tables
from benchmarks.accuracy.store import Store
from benchmarks.measuring import NOT_EVALUABLE
from benchmarks.pages import write_between_markers
from tests.scripts import read_table

ROOT = Path(__file__).parents[3]
KEPT = sorted((ROOT / "docs" / "rows").iterdir())
BEGIN, END = "<!-- accuracy of rows:begin -->", "<!-- accuracy of rows:end -->"


def row(seed, auroc, method="vqflow", **changes):
    metrics = dict.fromkeys(METRICS, 0.5)
    metrics = {name: {**metrics, "image_AUROC": auroc} for name in ("bolt", "nut", "macro", "pooled")}
    metrics["nut"] = {**metrics["nut"], "pixel_AP": None}
    return {
        "key": f"{method}{seed}",
        "method": method,
        "backbone": "resnet18",
        "data": "products",
        "seed": seed,
        "versions": {"torch": "2.10"},
        "hardware": {"cpu": "a CPU", "gpu": None, "threads": 1},
        "commit": "c0ffee",
        "train_seconds": 90.0,
        "test_seconds": 2.0,
        "test_images": 100,
        "peak_memory_mb": 1234.0,
        "peak_gpu_memory_mb": None,
        "metrics": metrics,
        **changes,
    }


SKIPPED = {key: value for key, value in row(0, 0.0, "uninet", skipped="no file x").items() if key != "metrics"}


def test_seeds_are_put_together():
    """Mean and deviation of the sample, beside what it cost; what was skipped is named."""
    text = tables([row(0, 0.9), row(1, 0.92), row(0, 0.8, "padim"), SKIPPED])
    rows = read_table(text)
    assert rows["vqflow"][:3] == ["resnet18", "2", "0.910 ± 0.014"]
    assert rows["vqflow"][-3:] == ["1.5", "20.0", "1234"]
    assert rows["padim"][2] == "0.800"
    assert "uninet" not in rows
    assert "Skipped: uninet/resnet18 on products: no file x." in text
    assert "torch 2.10; a CPU, 1 threads." in text


def test_rows_of_several_commits_are_told():
    """Their numbers may not compare."""
    assert "rows of 2 commits" in tables([row(0, 0.9), row(1, 0.9, commit="c0ffee+")])


def test_concepts_of_one_model_are_told():
    """How many are in use, and how they agree with categories; methods without any are left out."""
    found = [{"in_use": 14, "purity": 0.9, "NMI": 0.9}, {"in_use": 15, "purity": 1.0, "NMI": 0.94}]
    rows = [row(seed, 0.9, concepts=concepts) for seed, concepts in enumerate(found)]
    text = tables([*rows, row(0, 0.8, "padim", concepts=None)])
    part = text[text.index("| products, concepts |") :]
    assert read_table(part) == {"vqflow": ["resnet18", "2", "14.5", "0.950 ± 0.071", "0.920 ± 0.028"]}
    assert "concepts" not in tables([row(0, 0.9)])


def test_categories_on_request():
    """A table for each metric, a dash for what is not evaluable."""
    text = tables([row(0, 0.9)], per_category=True)
    part = text[text.index("| pixel AP | vqflow/resnet18 |") :]
    found = read_table(part[: part.index("\n\n")])
    assert found == {"bolt": ["0.500"], "nut": [NOT_EVALUABLE], "macro": ["0.500"], "pooled": ["0.500"]}


def test_macro_of_some_categories():
    """Their mean; nothing pooled, which is of all."""
    one = row(0, 0.9)
    one["metrics"]["nut"]["image_AUROC"] = 0.7
    rows = read_table(tables([one, SKIPPED], categories=["nut"]))
    assert rows["vqflow"][2] == "0.700"
    assert rows["vqflow"][6] == NOT_EVALUABLE
    assert "pooled" not in tables([one], per_category=True, categories=["nut"])
    with pytest.raises(ValueError, match="ring"):
        tables([one], categories=["ring"])


def test_tables_go_between_markers(tmp_path):
    """Again and again; the rest of the file stays."""
    store, path = Store(tmp_path / "rows"), tmp_path / "results.md"
    store.append(row(0, 0.9))
    path.write_text(f"# Results\n\n{BEGIN}\nold\n{END}\n\nThe end.\n")
    for _ in range(2):
        assert main(["report", str(store.folder), "--into", str(path)]) == 0
    text = path.read_text()
    assert text.startswith("# Results\n\n")
    assert text.endswith(f"{END}\n\nThe end.\n")
    assert "old" not in text
    assert text.count("| vqflow |") == 2


@pytest.mark.parametrize("folder", KEPT, ids=lambda folder: folder.name)
def test_tables_in_the_documents_are_those_of_the_rows_beside_them(tmp_path, folder):
    """Nobody has typed them."""
    page = ROOT / "docs" / "results.md"
    copy = tmp_path / page.name
    copy.write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    main(["report", str(folder), "--into", str(copy)])
    assert copy.read_text(encoding="utf-8") == page.read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}"])
def test_a_file_without_its_markers_is_left_alone(tmp_path, text):
    """The markers say where the tables go."""
    path = tmp_path / "results.md"
    path.write_text(text)
    with pytest.raises(ValueError, match="accuracy of rows:begin"):
        write_between_markers("table", path, "accuracy of rows")
    assert path.read_text() == text


def test_a_plot_is_drawn(tmp_path):
    """Of the rows that have results."""
    plot([row(0, 0.9), row(0, 0.8, "padim"), SKIPPED], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="got none"):
        plot([SKIPPED], tmp_path / "none.png")
