# SPDX-License-Identifier: Apache-2.0
"""Runs of the small file, from the command line to the rows."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import pytest
import timm
from anomalib.engine import Engine
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.accuracy.__main__ import main
from benchmarks.accuracy.building import WeightsMissingError, build_data, reporting_downloads
from benchmarks.accuracy.comparison import print_comparison
from benchmarks.accuracy.plan import Run
from benchmarks.accuracy.running import ROOT, execute
from benchmarks.accuracy.store import Store
from tests.scripts import read_table

from .conftest import SMOKE, smoke_runs

MEANS = {"macro", "pooled"}


def changed(run, **changes):
    return Run(run.method, run.backbone, run.data, run.seed, {**run.definition, **changes})


def test_each_run_has_a_row_with_all_that_it_takes_to_repeat_it(smoke):
    """Command, commit, versions, hardware, time, memory, and metrics of each category and their means."""
    rows = smoke.finished()
    assert rows.keys() == {run.key for run in smoke_runs().values()}
    for row in rows.values():
        assert row["command"] == "a test"
        assert {"torch", "anomalib", "timm", "anomalib-vqflow"} <= row["versions"].keys()
        assert row["hardware"]["cores"] >= 1
        assert row["train_seconds"] > 0
        assert row["test_seconds"] > 0
        assert (row["train_images"], row["test_images"]) == (16, 20)
        assert row["peak_memory_mb"] > 100
        assert row["metrics"].keys() == {"gear", "tile"} | MEANS
        assert row["definition"] == smoke_runs()[row["method"]].definition


def test_rows_tell_how_concepts_agree_with_categories(smoke):
    """Of one model that finds any: those of several models, or of none, are not related to each other."""
    rows = {row["method"]: row["concepts"] for row in smoke.finished().values()}
    found = rows["vqflow"]
    assert 1 <= found["in_use"] <= 20
    assert 0 <= found["NMI"] <= 1
    assert 0.5 <= found["purity"] <= 1
    assert [name for name, concepts in rows.items() if concepts is None] == [name for name in rows if "vq" not in name]


def test_the_ranking_of_raw_scores_is_measured(smoke):
    """No sigmoid, no clamping: the row agrees with scikit-learn on the scores, which leave [0, 1] where models do."""
    largest = []
    for key, row in smoke.finished().items():
        with np.load(smoke.scores_file(key)) as arrays:
            labels, scores = arrays["anomalous"], arrays["scores"]
        assert row["metrics"]["pooled"]["image_AUROC"] == pytest.approx(roc_auc_score(labels, scores))
        assert row["metrics"]["pooled"]["image_AP"] == pytest.approx(average_precision_score(labels, scores))
        assert len(np.unique(scores)) == len(scores)
        largest.append(scores.max())
    assert max(largest) > 1


def test_a_finished_run_is_not_repeated(smoke, monkeypatch):
    """Not one step of it."""
    before = smoke.rows_file.read_bytes()
    monkeypatch.setattr(Engine, "fit", lambda *_, **__: pytest.fail("it trains again"))
    for run in smoke_runs().values():
        assert execute(run, smoke, "again") is None
    assert smoke.rows_file.read_bytes() == before


def test_a_run_that_was_cut_short_is_repeated_and_gives_the_same(smoke, tmp_path, monkeypatch):
    """It leaves no row, and what it left of files is no hindrance."""
    monkeypatch.chdir(tmp_path)
    run, store = smoke_runs()["patchcore_one_bank"], Store(tmp_path / "results")

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "test", interrupt)
        with pytest.raises(KeyboardInterrupt):
            execute(run, store, "first")
    assert store.rows() == {}
    assert execute(run, store, "second")["metrics"] == smoke.finished()[run.key]["metrics"]
    assert not list((tmp_path / "results" / "work").iterdir())


def test_a_training_that_lightning_stopped_has_no_result(tmp_path, monkeypatch):
    """Lightning may swallow an interruption; what it leaves is no trained model."""
    monkeypatch.chdir(tmp_path)

    @dataclass
    class Stopped:
        interrupted: bool = True

    monkeypatch.setattr(Engine, "fit", lambda *_, **__: None)
    monkeypatch.setattr(Engine, "trainer", Stopped())
    with pytest.raises(KeyboardInterrupt):
        execute(smoke_runs()["vqflow"], Store(tmp_path), "")


def test_a_model_per_category_is_what_each_would_be_alone(smoke, tmp_path, monkeypatch):
    """Its row of a category is that of a run with this category only."""
    monkeypatch.chdir(tmp_path)
    run = smoke_runs()["patchcore_bank_per_category"]
    data = {**run.definition["data"], "init_args": {**run.definition["data"]["init_args"], "categories": ["tile"]}}
    alone = execute(changed(run, data=data, per_category=False), Store(tmp_path / "results"), "")
    assert alone["metrics"]["tile"] == smoke.finished()[run.key]["metrics"]["tile"]


def test_categories_keep_their_names():
    """Whether they come together or one by one."""
    definition = smoke_runs()["patchcore_bank_per_category"].definition
    assert [part.categories for part in build_data(definition)] == [["gear"], ["tile"]]
    assert [part.categories for part in build_data({**definition, "per_category": False})] == [["gear", "tile"]]


def test_missing_weights_are_told_and_the_run_is_tried_again(tmp_path, monkeypatch):
    """A row with the reason, once; not a result."""
    monkeypatch.chdir(tmp_path)
    run, store = changed(smoke_runs()["patchcore_one_bank"], weights="nowhere.safetensors"), Store(tmp_path / "results")
    for _ in range(2):
        assert "nowhere.safetensors" in execute(run, store, "")["skipped"]
    assert len(store.rows_file.read_text().splitlines()) == 1
    assert store.finished() == {}


def test_a_failed_download_is_missing_weights(monkeypatch):
    """A mistake in the call of timm is not."""
    create = timm.create_model

    def offline(*args, pretrained=False, **kwargs):
        if pretrained:
            raise ConnectionError
        return create(*args, **kwargs)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(WeightsMissingError, match="test_convnext2"), reporting_downloads(random_weights=False):
        timm.create_model("test_convnext2", pretrained=True)
    with pytest.raises(RuntimeError, match="Unknown model"), reporting_downloads(random_weights=False):
        timm.create_model("test_convnext_of_another_world", pretrained=True)
    with reporting_downloads(random_weights=True):
        timm.create_model("test_convnext2", pretrained=True)


def test_the_command_names_runs_and_what_is_done(smoke, capsys):
    """Those that its words choose."""
    arguments = ["run", str(SMOKE), "--results", str(smoke.folder), "--list", "--only", "patchcore", "one_bank"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.rsplit(": ", 1)[1] for line in lines] == ["done", "to do"]


def test_words_that_choose_no_run_are_told(tmp_path, capsys):
    """A misspelled name must not look as if all were done; nothing is written."""
    assert main(["run", str(SMOKE), "--results", str(tmp_path / "results"), "--only", "patchcore", "seed0"]) == 1
    assert "--list` tells their names" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_two_methods_are_compared(smoke, capsys):
    """With the metrics of their rows."""
    assert main(["compare", str(smoke.folder), "vqflow", "patchcore_one_bank", "--resamples", "20"]) == 0
    table = read_table(capsys.readouterr().out)
    rows = {row["method"]: row["metrics"] for row in smoke.finished().values()}
    for name, cells in table.items():
        mean, metric = name.split(" ", 1)
        for method, cell in zip(("vqflow", "patchcore_one_bank"), cells, strict=False):
            assert float(cell) == pytest.approx(rows[method][mean][metric.replace(" ", "_")], abs=2e-3)
    with pytest.raises(ValueError, match="no_such_method"):
        print_comparison(smoke, "vqflow", "no_such_method", None, 20)


@pytest.mark.slow
def test_a_killed_command_goes_on_where_it_was(tmp_path):
    """The run that was killed is repeated, those before it are not; all rows are of processes of their own."""
    command = [sys.executable, "-m", "benchmarks.accuracy", "run", str(SMOKE), "--results", str(tmp_path / "results")]
    options = {"cwd": ROOT, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    store, command = Store(tmp_path / "results"), [*command, "--only", "patchcore", "seed 0"]
    process = subprocess.Popen(command, start_new_session=True, **options)
    while not store.rows():
        assert process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)  # the command and the run that it has begun
    process.wait()
    first = store.rows_file.read_text().splitlines()[0]
    assert subprocess.run(command, check=False, **options).returncode == 0
    lines = store.rows_file.read_text().splitlines()
    assert lines[0] == first
    assert [json.loads(line)["method"] for line in lines] == ["patchcore_one_bank", "patchcore_bank_per_category"]
