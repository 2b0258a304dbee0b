# SPDX-License-Identifier: Apache-2.0
"""Paired bootstrap over test images: how sure is a difference between two methods?

Images are drawn with replacement, as many as there are, within each category and there within the normal and the
anomalous ones; every resample takes the same images for both methods, and for all seeds of each. So it tells how much a
difference depends on which images were tested. How much it depends on the seed of a training is for the deviation over
seeds to tell.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from .recording import pixel_histograms

Array = NDArray[Any]
CHUNK = 200  # resamples at a time, for memory
METRICS = (
    "image_AUROC",
    "image_AP",
    "image_F1Max",
    "pixel_AUROC",
    "pixel_AP",
    "pixel_F1Max",
    "pixel_AUPRO",
)
IDENTITY = ("categories", "names", "anomalous")
AUPRO_LIMIT = 0.3
CONFIDENCE = 0.95


class Difference(NamedTuple):
    """How much the first method is better than the second.

    Attributes:
        first: Metric of the first method, mean over its seeds.
        second: The same of the second.
        low: Lower end of the interval that holds 95 % of the resampled differences.
        high: Its upper end.
        share: Share of the resamples in which the first method is better; equal ones count half.
    """

    first: float
    second: float
    low: float
    high: float
    share: float


def paired_bootstrap(
    first: Sequence[Mapping[str, Array]],
    second: Sequence[Mapping[str, Array]],
    resamples: int = 2000,
    seed: int = 0,
    categories: Sequence[str] | None = None,
) -> dict[tuple[str, str], Difference]:
    """Compare two methods on the same test images.

    Args:
        first: Scores of the first method for each seed, as :func:`.to_arrays` gives them.
        second: The same of the second method.
        resamples: Number of resamples.
        seed: Seed of the resamples.
        categories: Categories whose images count; None for all.

    Returns:
        Differences by ``("macro", metric)`` and ``("pooled", metric)``; without the metrics that are not evaluable.

    Raises:
        ValueError: If the methods were not tested on the same images, or a category is unknown.
    """
    _check_same_images([*first, *second])
    chosen = _choose(first[0]["categories"], categories)
    images = {name: first[0][name][chosen] for name in IDENTITY}
    generator = np.random.default_rng(seed)
    labels = np.stack([images["categories"], images["anomalous"].astype(str)])
    _, strata = np.unique(labels, axis=1, return_inverse=True)
    methods = [[_histograms(arrays, chosen) for arrays in method] for method in (first, second)]
    whole = np.ones((1, len(strata)))
    points = [_mean(method, images, whole) for method in methods]
    chunks = [min(CHUNK, resamples - begun) for begun in range(0, resamples, CHUNK)]
    differences: list[dict[tuple[str, str], Array]] = []
    for size in chunks:
        weights = resample(strata.ravel(), size, generator)
        found = [_mean(method, images, weights) for method in methods]
        differences.append({name: found[0][name] - found[1][name] for name in found[0]})
    return {
        name: _summarize(points, name, np.concatenate([chunk[name] for chunk in differences]))
        for name in points[0]
        if not np.isnan(points[0][name] - points[1][name]).any()
    }


def resample(strata: Array, size: int, generator: np.random.Generator) -> Array:
    """Draw images with replacement within their strata.

    Args:
        strata: Stratum of each image, shape ``(N,)``.
        size: Number of resamples R.
        generator: Source of randomness.

    Returns:
        How often each image was drawn, shape ``(R, N)``.
    """
    weights = np.zeros((size, len(strata)))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        weights[:, members] = generator.multinomial(len(members), np.full(len(members), 1 / len(members)), size)
    return weights


def curves(negatives: Array, positives: Array) -> dict[str, Array]:
    """Compute AUROC, AP and F1max of many pairs of histograms at once.

    Args:
        negatives: Histograms of normal scores, ascending, shape ``(R, G)``.
        positives: Those of anomalous scores.

    Returns:
        ``AUROC``, ``AP`` and ``F1Max``, shape ``(R,)``, as those of the evaluator; NaN without either.
    """
    false, true = (np.cumsum(part[:, ::-1], axis=1) for part in (negatives, positives))
    all_false, all_true = false[:, -1:], true[:, -1:]
    steps = np.diff(true, axis=1, prepend=0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        beaten = all_false - false + negatives[:, ::-1] / 2  # normal scores below those of a bin; ties count half
        precision = np.nan_to_num(true / (true + false))
        result = {
            "AUROC": (steps * beaten).sum(axis=1, keepdims=True) / (all_false * all_true),
            "AP": (steps * precision).sum(axis=1, keepdims=True) / all_true,
            "F1Max": (2 * true / (true + false + all_true)).max(axis=1, keepdims=True),
        }
    known = (all_false > 0) & (all_true > 0)
    return {name: np.where(known, value, np.nan)[:, 0] for name, value in result.items()}


def aupro(negatives: Array, region_overlaps: Array) -> Array:
    """Compute AUPRO up to a false positive rate of 0.3 of many pairs of histograms at once.

    Args:
        negatives: Histograms of normal pixels, ascending, shape ``(R, G)``.
        region_overlaps: Those of anomalous pixels, each weighted with 1 / area of its defect.

    Returns:
        AUPRO, shape ``(R,)``; NaN without either.
    """
    rates, overlaps = (
        np.concatenate([np.zeros((len(part), 1)), np.cumsum(part[:, ::-1], axis=1)], axis=1)
        for part in (negatives, region_overlaps)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        rates, overlaps = rates / rates[:, -1:], overlaps / overlaps[:, -1:]
        widths = np.diff(rates, axis=1)
        share = np.clip((AUPRO_LIMIT - rates[:, :-1]) / widths, 0, 1)  # of each trapezoid, left of the limit
    share = np.nan_to_num(share)
    rise = np.diff(overlaps, axis=1)
    areas = widths * share * (overlaps[:, :-1] + rise * share / 2)
    return areas.sum(axis=1) / AUPRO_LIMIT  # NaN comes from 0 / 0 above


Matrices = tuple[csr_array, ...]


class _Histograms(NamedTuple):
    """Scores of a run as histograms, an image in each row: of normal and anomalous ones, and of the kinds of pixels."""

    images: Matrices
    own_pixels: Matrices | None  # in groups of each category by itself
    pooled_pixels: Matrices | None


def _choose(names: Array, categories: Sequence[str] | None) -> Array:
    """Number the images of the categories."""
    if categories is None:
        return np.arange(len(names))
    if unknown := set(categories) - set(names):
        msg = f"Expected categories among {sorted(set(names))}, got {sorted(unknown)}."
        raise ValueError(msg)
    return np.flatnonzero(np.isin(names, categories))


def _histograms(arrays: Mapping[str, Array], chosen: Array) -> _Histograms:
    anomalous = arrays["anomalous"][chosen].astype(float)
    _, bins = np.unique(np.nan_to_num(arrays["scores"][chosen], nan=-np.inf), return_inverse=True)
    images = tuple(csr_array((labels, (np.arange(len(bins)), bins))) for labels in (1 - anomalous, anomalous))
    if not arrays["has_pixels"][chosen].any():
        return _Histograms(images, None, None)
    own, pooled = (tuple(part[chosen] for part in pixel_histograms(arrays, scope)) for scope in ("own", "pooled"))
    return _Histograms(images, own, pooled)


def _mean(method: list[_Histograms], images: Mapping[str, Array], weights: Array) -> dict[tuple[str, str], Array]:
    """Mean over the seeds of each metric, macro and pooled, for each resample."""
    seeds = [_metrics(one, images, weights) for one in method]
    return {name: np.mean([seed[name] for seed in seeds], axis=0) for name in seeds[0]}


def _metrics(one: _Histograms, images: Mapping[str, Array], weights: Array) -> dict[tuple[str, str], Array]:
    members = [images["categories"] == name for name in np.unique(images["categories"])]
    rows = [_image_metrics(one, weights, rows) | _pixel_metrics(one.own_pixels, weights, rows) for rows in members]
    everything = np.ones(len(images["names"]), dtype=bool)
    pooled = _image_metrics(one, weights, everything)
    pooled |= _pixel_metrics(one.pooled_pixels, weights, _with_masks(one, images["anomalous"], members))
    macro = {}
    for metric in METRICS:
        values = np.stack([row[metric] for row in rows])  # (categories, R)
        known = ~np.isnan(values).all(axis=1)
        macro[metric] = values[known].mean(axis=0) if known.any() else np.full(len(weights), np.nan)
    means = {"macro": macro, "pooled": pooled}
    return {(mean, metric): values for mean, row in means.items() for metric, values in row.items()}


def _with_masks(one: _Histograms, anomalous: Array, members: Sequence[Array]) -> Array:
    """Choose the images of categories whose pixels count: some are marked, or no image is anomalous."""
    chosen = np.zeros(len(anomalous), dtype=bool)
    if one.pooled_pixels is not None:
        marked = one.pooled_pixels[1].sum(axis=1) > 0
        for rows in members:
            chosen |= rows & bool(marked[rows].any() or not anomalous[rows].any())
    return chosen


def _image_metrics(one: _Histograms, weights: Array, rows: Array) -> dict[str, Array]:
    negatives, positives = (_added_up(part, weights, rows) for part in one.images)
    return {f"image_{name}": value for name, value in curves(negatives, positives).items()}


def _pixel_metrics(pixels: Matrices | None, weights: Array, rows: Array) -> dict[str, Array]:
    if pixels is None:
        return {name: np.full(len(weights), np.nan) for name in METRICS if name.startswith("pixel")}
    negatives, positives, overlaps = (_added_up(part, weights, rows) for part in pixels)
    values = {f"pixel_{name}": value for name, value in curves(negatives, positives).items()}
    return {**values, "pixel_AUPRO": aupro(negatives, overlaps)}


def _added_up(histograms: csr_array, weights: Array, chosen: Array) -> Array:
    """Add up the histograms of the images, as often as they were drawn: shape ``(R, G)``."""
    return np.asarray((histograms[np.flatnonzero(chosen)].T @ weights[:, chosen].T).T)


def _summarize(points: Sequence[Mapping[tuple[str, str], Array]], name: tuple[str, str], drawn: Array) -> Difference:
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    share = np.mean(np.where(np.abs(drawn) < 1e-9, 0.5, drawn > 0))  # rounding is no difference
    return Difference(float(points[0][name][0]), float(points[1][name][0]), float(low), float(high), float(share))


def _check_same_images(runs: Sequence[Mapping[str, Array]]) -> None:
    for other in runs[1:]:
        for name in IDENTITY:
            if not np.array_equal(runs[0][name], other[name]):
                msg = f"Expected the same test images in all runs, but their {name} differ. Compare runs on equal data."
                raise ValueError(msg)
