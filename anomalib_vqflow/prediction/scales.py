# SPDX-License-Identifier: Apache-2.0
"""How raw scores and maps become those that a model tells, under its own thresholds or those of a false-alarm rate."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomalib_vqflow.conformal import concept_thresholds, conformal_limit, images_needed
from anomalib_vqflow.held_out import HeldOut, read_held_out
from anomalib_vqflow.ignored import ScoreRule

from .predictions import ModelError, Prediction

ABSOLUTE = "likelihood"
"""The map that is averaged before it is mapped to [0, 1]."""

MIDDLE = 0.5
"""Told value of a threshold that no sensitivity has moved."""

NO_HELD_OUT = (
    "{model} knows no scores of held-out normal images, which {option} needs: train with validation images, and export "
    "with this version."
)


class Scale(NamedTuple):
    """From raw values to told ones.

    Attributes:
        thresholds: Raw threshold of each concept, or of all, shape ``(K,)`` or ``(1,)``; None if there is none.
        limits: Ends of the range that becomes one of length 1, with the threshold in the middle; None to leave values.
        told: Told value above which images or pixels are anomalous; None if there is none.
    """

    thresholds: NDArray[np.float32] | None
    limits: tuple[float, float] | None
    told: float | None

    def tell(self, raw: np.ndarray | float, concept: int | None) -> np.ndarray:
        """Normalize as the post-processor does.

        Args:
            raw: Values of any shape.
            concept: Concept of the image.

        Returns:
            Values of the same shape; in [0, 1] if there is a threshold.
        """
        values = np.asarray(raw, dtype=np.float32)
        if self.thresholds is None or self.limits is None:
            return values
        threshold = self.thresholds[0 if len(self.thresholds) == 1 or concept is None else concept]
        low, high = map(np.float32, self.limits)
        if high == low:
            return (np.sign(values - threshold) + 1) / 2
        return np.clip((values - threshold) / (high - low) + np.float32(MIDDLE), 0, 1)


class Scales(NamedTuple):
    """Those of image scores and of maps, and how the former come of the latter."""

    image: Scale
    pixel: Scale
    rule: ScoreRule

    def judge(self, prediction: Prediction) -> Prediction:
        """Tell score, label, map and mask anew.

        Args:
            prediction: One with raw values.

        Returns:
            The same with the others set by them.
        """
        if prediction.raw is None:
            msg = "Expected a prediction with raw values."
            raise ValueError(msg)
        score = self.image.tell(prediction.raw.score, prediction.concept).item()
        anomaly_map = self.pixel.tell(self.rule.to_unit(prediction.raw.anomaly_map), prediction.concept)
        return prediction._replace(
            score=score,
            label=None if self.image.told is None else score > self.image.told,
            threshold=self.image.told,
            anomaly_map=anomaly_map,
            mask=None if self.pixel.told is None else anomaly_map > np.float32(self.pixel.told),
        )

    def held_against(self, told: float) -> "Scales":
        """Take another told threshold, for images and for pixels."""
        return self._replace(image=self.image._replace(told=told), pixel=self.pixel._replace(told=told))


def products_of(metadata: Mapping[str, Any] | None) -> dict[int, str]:
    """Read the usual product of each concept.

    Args:
        metadata: What the model says of itself.

    Returns:
        Products by concept; of none if they are not known.
    """
    concepts = (metadata or {}).get("concepts") or []
    return {concept["index"]: concept["product"] for concept in concepts if concept["product"] is not None}


def scales_of(metadata: Mapping[str, Any]) -> Scales:
    """Read the scales of a model.

    Args:
        metadata: What the model says of itself.

    Returns:
        Its scales; without thresholds if there are none.
    """
    described = metadata.get("thresholds") or {}
    score = metadata.get("score") or {"map": None, "top_k_ratio": 1.0}  # exports that do not say it tell no raw values
    rule = ScoreRule(score["top_k_ratio"], score["map"] == ABSOLUTE)
    return Scales(_scale_of(described.get("image") or {}), _scale_of(described.get("pixel") or {}), rule)


def _scale_of(described: Mapping[str, Any]) -> Scale:
    limits, thresholds = described.get("normalization"), described.get("raw_per_concept") or [described.get("raw")]
    return Scale(
        None if None in thresholds else np.array(thresholds, dtype=np.float32),
        None if limits is None else (limits[0], limits[1]),
        described.get("told"),
    )


def held_out_of(metadata: Mapping[str, Any] | None, model: object, option: str) -> dict[int, HeldOut]:
    """Read the scores of held-out normal images.

    Args:
        metadata: What a model says of itself.
        model: Its name.
        option: What needs the scores.

    Returns:
        The scores by concept.

    Raises:
        ModelError: If it knows none.
    """
    raw = ((metadata or {}).get("normal_scores") or {}).get("raw")
    if not raw:
        raise ModelError(NO_HELD_OUT.format(model=model, option=option))
    return read_held_out(raw)


def read_reference(path: Path, own: Mapping[str, Any] | None, model: object) -> dict[int, HeldOut]:
    """Read the scores of held-out normal images from a ``metadata.json``.

    Args:
        path: The file.
        own: What the model says of itself.
        model: Its name.

    Returns:
        The scores by concept.

    Raises:
        ModelError: If the file knows no scores, or is of another model.
        OSError: If it cannot be read.
    """
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"{path} is no JSON; give the metadata.json of the model's export."
        raise ModelError(msg) from error
    found = held_out_of(metadata if isinstance(metadata, dict) else None, path, "--reference")
    if metadata["normal_scores"]["raw"] != ((own or {}).get("normal_scores") or {}).get("raw"):
        msg = f"{path} tells other scores of normal images than {model}; give the metadata.json of this model's export."
        raise ModelError(msg)
    return found


def scales_of_rates(
    metadata: Mapping[str, Any], held_out: Mapping[int, HeldOut], image_rate: float, pixel_rate: float
) -> tuple[Scales, str]:
    """Set thresholds by false-alarm rates, as the post-processor's ``set_false_alarm_rate`` does.

    Args:
        metadata: What the model says of itself.
        held_out: Scores of held-out normal images by concept.
        image_rate: Share of normal images that may be called anomalous, in (0, 1).
        pixel_rate: Share of normal images in which a pixel may be.

    Returns:
        The scales, and a sentence that says what they promise.

    Raises:
        ModelError: If the model does not normalize its scores.
    """
    own = scales_of(metadata)
    if own.image.limits is None or own.pixel.limits is None:
        msg = "A false-alarm rate needs a model that normalizes its scores (enable_normalization)."
        raise ModelError(msg)
    num_thresholds, scales, promises = metadata["normal_scores"]["num_thresholds"], [], []
    concepts = np.repeat([*held_out], [group.num_images for group in held_out.values()])
    for kind, name, rate in (("image", "score", image_rate), ("pixel", "map_peak", pixel_rate)):
        scores = np.concatenate([group.whole(name) for group in held_out.values()])
        limit = conformal_limit(scores, rate)
        thresholds = concept_thresholds(scores, concepts, num_thresholds, rate) if num_thresholds else [limit.threshold]
        scales.append(getattr(own, kind)._replace(thresholds=np.asarray(thresholds, dtype=np.float32), told=MIDDLE))
        promises.append(_promise(kind, limit.rate, rate))
    promise = f"Thresholds are set by {len(scores)} held-out normal images. {' '.join(promises)}"
    return own._replace(image=scales[0], pixel=scales[1]), promise


def _promise(kind: str, kept: float, rate: float) -> str:
    called = "called anomalous" if kind == "image" else "marked somewhere"
    promise = f"At most {kept:.2%} of new normal images are {called}"
    if kept <= rate + 1e-9:
        return f"{promise}."
    return f"{promise}, not {rate:.2%}, for which {images_needed(rate)} images are needed."
