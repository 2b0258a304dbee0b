# SPDX-License-Identifier: Apache-2.0
"""What a model says of an image, and what every kind of model can do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

CONCEPT = "concept"


class ModelError(ValueError):
    """A model cannot be used; the message says why, and what to do."""


class Picture(NamedTuple):
    """An image that was read.

    Attributes:
        pixels: RGB of shape ``(H, W, 3)``, of 8 bits or in [0, 1].
        given: What the model gets of it, of the same kind.
    """

    pixels: np.ndarray
    given: np.ndarray


class Raw(NamedTuple):
    """What a model says before its thresholds and its normalization.

    Attributes:
        score: Higher is more anomalous.
        anomaly_map: The map, of shape ``(h, w)``, on any scale.
        score_map: What the score is the mean of, of shape ``(h, w)``, on any scale; it may be the map.
    """

    score: float
    anomaly_map: np.ndarray
    score_map: np.ndarray


class Prediction(NamedTuple):
    """What a model says of an image.

    Attributes:
        score: Higher is more anomalous; in [0, 1].
        label: Whether it is anomalous; None if the model has no threshold.
        threshold: What the score is held against; None if there is none, or the model does not tell.
        anomaly_map: Scores of shape ``(h, w)``, in [0, 1].
        mask: What is anomalous in the map; None if the model has no threshold for pixels.
        concept: Which of its concepts the model took the image for; None if it doesn't tell.
        raw: Score and map before normalization; None if nobody asked for it.
    """

    score: float
    label: bool | None
    threshold: float | None
    anomaly_map: np.ndarray
    mask: np.ndarray | None
    concept: int | None
    raw: Raw | None = None

    def held_against(self, threshold: float) -> "Prediction":
        """Take another threshold, for the image and for pixels."""
        return self._replace(
            label=self.score > threshold, threshold=threshold, mask=self.anomaly_map > np.float32(threshold)
        )


class Model(Protocol):
    """A model that scores single images.

    Attributes:
        num_requests: How many images it computes at once.
        tells_concept: Whether it tells the concept of an image.
        metadata: What is known of its scores and concepts, as exports say it; None if they don't.
    """

    num_requests: int
    tells_concept: bool
    metadata: dict[str, Any] | None

    def read(self, path: Path) -> Picture:
        """Read an image as in the training of the model, in any thread; raises one of ``UNREADABLE`` if it can't."""

    def start(self, picture: Picture) -> Callable[[], Prediction]:
        """Begin to score an image; the result waits for the prediction, and must be called before too many begin."""
