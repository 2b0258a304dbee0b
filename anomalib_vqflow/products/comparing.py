# SPDX-License-Identifier: Apache-2.0
"""How a model predicts images of known products otherwise than an earlier one did."""

from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset

from anomalib_vqflow.data import MultiCategory
from anomalib_vqflow.lightning_model import VQFlow
from anomalib_vqflow.sources import loader_of, read_batches


class Change(NamedTuple):
    """What changed for the images of a product."""

    product: str
    num_images: int
    now_anomalous: int  # images that were normal for the earlier model
    now_normal: int  # and the other way round
    mean: float  # change of the score, in [-1, 1]
    largest: float  # absolute change of the score


@torch.no_grad()
def compare_models(before: VQFlow, after: VQFlow, datamodule: MultiCategory) -> list[Change]:
    """Predict the training and test images of the products that an earlier model knows by two models.

    Args:
        before: The earlier model, in eval mode.
        after: The later model, in eval mode.
        datamodule: Images of products. It is set up, with images of one size (:func:`.sources.set_up`).

    Returns:
        What changed, by product. Images without a label of either model count as unchanged ones.

    Raises:
        ValueError: If the models take images of different sizes, or there is no product that the earlier one knows.
    """
    if before.input_size != after.input_size:
        msg = f"The models take images of different sizes, {before.input_size} and {after.input_size}."
        raise ValueError(msg)
    known = before.product_counts or {}
    products = [name for name in datamodule.categories if name in known]
    if not products:
        msg = f"The earlier model knows none of these products by name: {', '.join(datamodule.categories)}."
        raise ValueError(msg)
    return [_change(name, before, after, datamodule) for name in products]


def _change(name: str, before: VQFlow, after: VQFlow, datamodule: MultiCategory) -> Change:
    told = [(_told(before, images), _told(after, images)) for images in _images(name, datamodule)]
    (scores, labels), (new_scores, new_labels) = (
        tuple(map(torch.cat, zip(*of_model, strict=True))) for of_model in zip(*told, strict=True)
    )
    shift = new_scores - scores
    return Change(
        name,
        len(scores),
        now_anomalous=int((new_labels > labels).sum()),
        now_normal=int((new_labels < labels).sum()),
        mean=float(shift.mean()),
        largest=float(shift.abs().max()),
    )


def _told(model: VQFlow, images: Tensor) -> tuple[Tensor, Tensor]:
    """Tell scores and labels of a batch, shape ``(B,)``; NaN for labels without a threshold."""
    prediction = model(images.to(model.device))
    scores = prediction.pred_score
    labels = torch.full_like(scores, torch.nan) if prediction.pred_label is None else prediction.pred_label
    return scores.float().cpu(), labels.float().cpu()


def _images(name: str, datamodule: MultiCategory) -> Iterator[Tensor]:
    """Yield batches of the training and test images of a product."""
    images: Dataset = ConcatDataset([datamodule.train_data.by_category[name], datamodule.test_data.by_category[name]])
    for batch in read_batches(loader_of(images, datamodule), f"images of {name}"):
        yield cast("Tensor", batch.image)
