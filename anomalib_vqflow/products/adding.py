# SPDX-License-Identifier: Apache-2.0
"""Add products to a trained model without training: each gets a concept, a Gaussian, and a calibration of its own."""

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Subset

from anomalib_vqflow.anomaly_map import from_unit
from anomalib_vqflow.data import MultiCategory
from anomalib_vqflow.features import Features
from anomalib_vqflow.flows import Moments
from anomalib_vqflow.lightning_model import VQFlow
from anomalib_vqflow.post_processor import SeparatingPostProcessor
from anomalib_vqflow.sources import evenly_drawn, loader_of

MAX_IMAGES = 1024
"""Of more training images of a product, an evenly drawn share of this size is used."""
NUM_FOLDS = 5
"""Shares of the images, each of which is scored by a Gaussian that was fitted to the others."""


class Addition(NamedTuple):
    """What became of a product that was added."""

    product: str
    concept: int  # its number
    num_images: int  # training images
    found: float  # share of them that find the concept
    alarms: float  # share of them that would be called anomalous if they were new; NaN if there is no threshold


@torch.no_grad()
def add_products(model: VQFlow, datamodule: MultiCategory) -> list[Addition]:
    """Add the products of a datamodule that a model does not know, by their training images.

    Nothing that was trained is changed. A new product gets a prototype, the mean embedding of its images; the region
    that they lie in (:class:`.ConceptRegions`); the Gaussian of the latents that the trained flow gives them under this
    prototype (:class:`.AddedConcepts`); and the calibration of its scores, which brings images that were held out of
    that Gaussian in turn to where the normal validation images of the training are, so that thresholds stay what they
    are. An image is predicted as before, to the bit, unless it fits better into the new region than into that of its
    own concept; :func:`count_taken` tells how many do.

    Args:
        model: A trained model, in eval mode. It is changed in place.
        datamodule: Training images of new products, and of others, which are left out. It is set up, with images of one
            size (:func:`.sources.set_up`).

    Returns:
        What became of each new product.

    Raises:
        ValueError: If the model cuts images into tiles, which need many concepts for each product; if it does not know
            where the images of its concepts lie; if it knows all products; or if a new one has fewer than two images
            that can be told from those of known ones, or fewer than half. Products before that one are added.
    """
    if model.model.tiles is not None:
        msg = "Products cannot be added to a model with tile_size, as their tiles need many concepts. Train with them."
        raise ValueError(msg)
    if not model.model.concept.regions.fitted:
        msg = (
            "The model does not know where the images of its products lie: it was made by an earlier version, or its "
            "score_map is not 'likelihood'. Train with all products."
        )
        raise ValueError(msg)
    known = model.product_counts or {}
    new = [name for name in datamodule.categories if name not in known]
    if not new:
        msg = f"The model knows all of these products: {', '.join(datamodule.categories)}."
        raise ValueError(msg)
    return [_add_product(model, datamodule, name) for name in new]


@torch.no_grad()
def count_taken(model: VQFlow, datamodule: MultiCategory, num_before: int) -> dict[str, tuple[int, int]]:
    """Count the training images of known products that choose a concept which was added.

    Args:
        model: A model with added products.
        datamodule: Images of known products, and of others, which are left out.
        num_before: Number of concepts before.

    Returns:
        By product, how many do, and of how many. These images are predicted otherwise than before.
    """
    known = [name for name, counts in (model.product_counts or {}).items() if any(counts[:num_before])]
    taken = {}
    for name in [name for name in datamodule.categories if name in known]:
        embeddings = _ProductImages(model, datamodule, name).embeddings()
        concepts = model.model.concept.assign(embeddings)
        taken[name] = int((concepts >= num_before).sum()), len(concepts)
    return taken


def _add_product(model: VQFlow, datamodule: MultiCategory, name: str) -> Addition:
    calibration = model.model.anomaly_map_generator.calibration
    images, concept = _ProductImages(model, datamodule, name), model.model.concept.codebook.num_codes
    embeddings = images.embeddings()
    quantizer = deepcopy(model.model.concept)
    quantizer.append_(embeddings)
    found = quantizer.assign(embeddings) == concept
    if found.sum() < max(2, len(found) / 2):  # then at least two folds have some
        msg = (
            f"Of {len(found)} images of {name}, {int(found.sum())} can be told from those of the products that the "
            "model knows; at least 2, and half of them, must. Add images, or train with all products."
        )
        raise ValueError(msg)
    model.model.concept = quantizer
    model.model.added.append_()
    held_out = _fit_gaussian_(model, images, concept)
    like = torch.zeros(0)
    if isinstance(model.post_processor, SeparatingPostProcessor):
        like = from_unit(model.post_processor.normal_scores[:, 0])
        model.post_processor.append_concept_()
    calibration.append_(held_out, like[like.isfinite()])
    model.hparams["num_concepts"] = concept + 1
    counts = {known: [*of_known, 0] for known, of_known in (model.product_counts or {}).items()}
    model.product_counts = {**counts, name: [*[0] * concept, int(found.sum())]}
    calibrated = calibration(held_out, torch.full_like(held_out, concept, dtype=torch.long))
    return Addition(name, concept, len(found), float(found.float().mean()), _share_of_alarms(model, calibrated))


def _fit_gaussian_(model: VQFlow, images: "_ProductImages", concept: int) -> Tensor:
    """Fit the Gaussian of a new concept, and score each image by one that was fitted to the other folds, ``(N,)``."""
    added, generator = model.model.added, model.model.anomaly_map_generator
    folds = [_moments(model, images.features(fold), concept) for fold in range(NUM_FOLDS)]
    scores = [torch.zeros(0, device=model.device)]
    for fold in range(NUM_FOLDS):
        others = _sum(folds[:fold] + folds[fold + 1 :])
        if others[0].count and folds[fold][0].count:
            added.fit_(others)
            for features in images.features(fold):
                output = model.model.encode(features)
                found = generator.uncalibrated_scores(output.latents, output.log_dets, model.model.seen_size)
                scores.append(found[output.concept_indices == concept])
    added.fit_(_sum(folds))
    return torch.cat(scores)


def _moments(model: VQFlow, batches: Iterator[Features], concept: int) -> list[Moments]:
    """Compute the moments of the latents of images that have a concept, per level."""
    moments = [Moments(shape[0]) for shape in model.model.features.detail_shapes]
    for features in batches:
        output = model.model.encode(features)
        for of_level, z in zip(moments, output.latents, strict=True):
            of_level.add_(z[output.concept_indices == concept].permute(0, 2, 3, 1).flatten(0, 2))
    return moments


def _sum(folds: Sequence[Sequence[Moments]]) -> list[Moments]:
    """Add up the moments of each level over folds."""
    total = [Moments(len(level.total)) for level in folds[0]]
    for fold in folds:
        for of_level, level in zip(total, fold, strict=True):
            of_level.add_moments_(level)
    return total


def _share_of_alarms(model: VQFlow, calibrated: Tensor) -> float:
    """Tell which share of calibrated scores is above the threshold of images; NaN if there is none of either."""
    threshold = getattr(model.post_processor, "image_threshold", None)
    if threshold is None or threshold.isnan() or not len(calibrated):
        return math.nan
    return float((model.model.anomaly_map_generator.tell(calibrated) > threshold).float().mean())


class _ProductImages:
    """The training images of a product, as the backbone sees them, in folds."""

    def __init__(self, model: VQFlow, datamodule: MultiCategory, name: str) -> None:
        self.model, self.datamodule, self.name = model, datamodule, name
        self.images = evenly_drawn(datamodule.train_data.by_category[name], MAX_IMAGES)

    def features(self, fold: int | None = None) -> Iterator[Features]:
        """Yield what the backbone sees in one fold of the images, or in all of them."""
        images = self.images
        if fold is not None:
            images = Subset(images, range(fold, len(images), NUM_FOLDS))
        for batch in loader_of(images, self.datamodule):
            yield self.model.model.see(self.model.prepare(batch.image))

    def embeddings(self) -> Tensor:
        """Embed all images, shape ``(N, D)``; those with broken pixels are left out."""
        embed = self.model.model.concept.embed
        found = torch.cat([embed(features.semantic, features.tokens) for features in self.features()])
        found = found[found.isfinite().all(dim=1)]
        if not len(found):
            msg = f"The product {self.name} has no training image of finite pixels."
            raise ValueError(msg)
        return found
