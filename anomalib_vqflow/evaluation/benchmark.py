# SPDX-License-Identifier: Apache-2.0
"""Runs of ``anomalib benchmark`` that keep all their results."""

from typing import Any

from anomalib.pipelines.benchmark.job import BenchmarkJob as AnomalibBenchmarkJob
from pandas import DataFrame

from .category_evaluator import ANOMALIB_NAMES, CategoryEvaluator
from .results import to_scalars


class BenchmarkJob(AnomalibBenchmarkJob):
    """anomalib's run of a benchmark, with results per category, and with other runs that have other metrics.

    anomalib's table takes the columns of the first run: another metric in a later one, such as pixel metrics where only
    some data have masks, raises, and all results are lost.
    """

    def run(self, task_id: int | None = None) -> dict[str, Any]:
        """Train and test.

        Args:
            task_id: Device, where runs are distributed.

        Returns:
            Arguments, durations and metrics by name; those of :class:`.CategoryEvaluator` as ``bottle/image_AUROC``,
            ``macro/image_AUROC`` and so on, too, NaN where not evaluable.
        """
        output = super().run(task_id)
        evaluator = self.model.evaluator
        if not isinstance(evaluator, CategoryEvaluator):
            return output
        return {**dict.fromkeys(ANOMALIB_NAMES, float("nan")), **output, **to_scalars(evaluator.results, drop=False)}

    @staticmethod
    def collect(results: list[dict[str, Any]]) -> DataFrame:
        """Put the runs together; NaN where a run lacks a metric of another.

        Args:
            results: Results of the runs.

        Returns:
            A row per run.
        """
        return DataFrame(results)
