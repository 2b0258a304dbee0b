# SPDX-License-Identifier: Apache-2.0
import shutil

import pytest
from anomalib.models import Padim
from anomalib.pipelines.benchmark import generator

from anomalib_vqflow import CategoryEvaluator
from anomalib_vqflow.evaluation.benchmark import BenchmarkJob
from tests.tiny import tiny_data


def run(data, evaluator):
    model = Padim("resnet18", ["layer1"], pre_trained=False, n_features=8, evaluator=evaluator, visualizer=False)
    return BenchmarkJob("cpu", model, data, seed=0, flat_cfg={"model": "Padim"}).run()


def test_anomalib_benchmark_runs_our_jobs():
    """The jobs that anomalib makes and collects are ours, without a setting."""
    assert generator.BenchmarkJob is BenchmarkJob
    assert generator.BenchmarkJobGenerator("cpu").job_class is BenchmarkJob


def test_results_of_all_runs_and_categories_are_kept(root, tmp_path):
    """With masks, without, of other categories, of another evaluator: a row each, NaN where something is missing."""
    bare = tmp_path / "bare"
    shutil.copytree(root / "nut", bare / "screw")
    shutil.rmtree(bare / "screw" / "ground_truth")
    runs = [(bare, CategoryEvaluator()), (root, CategoryEvaluator()), (root, True)]

    table = BenchmarkJob.collect([run(tiny_data(folder), evaluator) for folder, evaluator in runs])

    assert len(table) == 3
    assert table["pixel_AUROC"].isna().tolist() == [True, False, False]
    for name in ("macro/image_AUROC", "pooled/image_AUROC"):
        assert table[name].isna().tolist() == [False, False, True]
    assert table["bolt/pixel_AUROC"].isna().tolist() == [True, False, True]
    assert table["screw/image_AUROC"].isna().tolist() == [False, True, True]
    assert table["screw/pixel_AUROC"].isna().all()


def test_a_lone_run_tells_what_is_not_evaluable(root, tmp_path):
    """A table without any masks has the columns of pixel metrics."""
    shutil.copytree(root / "nut", tmp_path / "nut")
    shutil.rmtree(tmp_path / "nut" / "ground_truth")

    result = run(tiny_data(tmp_path), CategoryEvaluator())

    assert result["pixel_AUROC"] != result["pixel_AUROC"]
    assert result["nut/image_AUROC"] == pytest.approx(result["image_AUROC"])
