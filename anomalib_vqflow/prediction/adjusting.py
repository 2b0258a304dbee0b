# SPDX-License-Identifier: Apache-2.0
"""What is done to predictions before they are written: other thresholds, and regions that do not count."""

from typing import NamedTuple

import numpy as np

from anomalib_vqflow.ignored import IgnoredRegions

from .predictions import Prediction
from .scales import Scales
from .search import Source


class Adjustment(NamedTuple):
    """Tells predictions anew from their raw values.

    Attributes:
        scales: How scores and maps are told.
        regions: Regions that do not count; None if all do.
    """

    scales: Scales
    regions: IgnoredRegions | None

    def adjust(self, source: Source, size: tuple[int, int], prediction: Prediction) -> Prediction:
        """Adjust the prediction of an image.

        Args:
            source: The image.
            size: Its height and width.
            prediction: A prediction with raw values.

        Returns:
            The prediction, with its raw values, after adjustment.

        Raises:
            ValueError: If the mask of its regions has other proportions, or there are no raw values.
        """
        raw = prediction.raw
        if self.regions is None or raw is None:
            return self.scales.judge(prediction)
        ignored = self.regions.mask_of(source.path, size, (raw.anomaly_map.shape[0], raw.anomaly_map.shape[1]))
        if ignored is None:
            return self.scales.judge(prediction)
        raw = raw._replace(score=self.regions.score(raw.score_map, ignored))
        found = self.scales.judge(prediction._replace(raw=raw))
        return found._replace(
            anomaly_map=np.where(ignored, np.float32(0), found.anomaly_map),
            mask=None if found.mask is None else found.mask & ~ignored,
        )
