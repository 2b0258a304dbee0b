# SPDX-License-Identifier: Apache-2.0
"""What cached feature maps depend on, as keys; and the refusal of what is not the same at every reading."""

import hashlib
import json
from importlib import import_module
from pathlib import Path

from anomalib.data import AnomalibDataModule
from anomalib.data.datasets import AnomalibDataset
from anomalib.pre_processing import PreProcessor
from anomalib.pre_processing.utils.spec import transform_to_spec
from safetensors.torch import save
from torchvision.transforms.v2 import Transform

from anomalib_vqflow.data.multi_category_dataset import MultiCategoryDataset
from anomalib_vqflow.lightning_model import VQFlow

LIBRARIES = ("anomalib", "anomalib_vqflow", "cv2", "PIL", "timm", "torch", "torchvision")  # read, resize, compute


def context_key(model: VQFlow, precision: str, dtype: str) -> str:
    """Identify all that maps, kept in a dtype, depend on besides the image file and how its dataset reads it.

    The model must have its weights and be on its device.
    """
    weights = hashlib.sha256(repr(model.model.features).encode())
    for name, tensor in model.model.features.state_dict().items():
        weights.update(save({name: tensor.cpu().contiguous()}))
    choices = [model.hparams["backbone"], model.hparams["layers"], model.hparams["tile_size"], precision, dtype]
    transform = _plain(getattr(model.pre_processor, "transform", None))
    computed_by = [model.device.type, *(import_module(name).__version__ for name in LIBRARIES)]
    return hashlib.sha256(json.dumps([weights.hexdigest(), choices, transform, computed_by]).encode()).hexdigest()


def image_key(dataset: AnomalibDataset, index: int) -> str:
    """Identify an image by the content of its file and by how its dataset reads it.

    Size and time of the file would be quicker, but they can stay the same when it is replaced.

    Raises:
        FileNotFoundError: If the file is missing.
    """
    row = dataset.samples.iloc[index]
    of_category = dataset.by_category[row["category"]] if isinstance(dataset, MultiCategoryDataset) else dataset
    path, kind = Path(row["image_path"]), type(of_category)
    reader = ["upright", dataset.bit_depth] if isinstance(dataset, MultiCategoryDataset) else []
    reading = [kind.__module__, kind.__qualname__, _plain(of_category.augmentations), path.suffix.lower(), reader]
    return hashlib.sha256(path.read_bytes() + json.dumps(reading).encode()).hexdigest()


def check(datamodule: AnomalibDataModule, model: VQFlow) -> None:
    """Refuse training data that has no files, or may not be the same at every reading.

    Raises:
        TypeError: If the training data is no anomalib dataset with one file for each image.
        ValueError: If there may be something random in how images are read, or the backbone is trained.
    """
    data, processor = getattr(datamodule, "train_data", None), model.pre_processor
    if not isinstance(data, AnomalibDataset) or "image_path" not in data.samples or len(data.samples) != len(data):
        msg = f"FeatureCache needs one image file per item, which {type(datamodule).__name__} has not; leave it out."
        raise TypeError(msg)
    known = not processor or getattr(type(processor), "on_train_batch_start", None) is PreProcessor.on_train_batch_start
    if not known or datamodule.external_collate_fn is not None:
        what = "external_collate_fn" if known else type(processor).__name__
        msg = f"FeatureCache cannot tell what {what} does to images; leave it or FeatureCache out."
        raise ValueError(msg)
    datasets = data.by_category.values() if isinstance(data, MultiCategoryDataset) else [data]
    for transform in (getattr(processor, "transform", None), *(of_category.augmentations for of_category in datasets)):
        _plain(transform)
    if any(parameter.requires_grad for parameter in model.model.features.parameters()):
        msg = "FeatureCache needs a frozen backbone, but parameters of this one require gradients; leave it out."
        raise ValueError(msg)


def _plain(transform: Transform | None) -> object:
    """Describe a transform that is known to be the same at every call."""
    try:
        return transform_to_spec(transform)
    except ValueError as error:
        msg = (
            "FeatureCache needs images that are the same in every epoch, so it takes only transforms that anomalib "
            f"stores in checkpoints, such as Resize. Remove the augmentation, or FeatureCache: {error}."
        )
        raise ValueError(msg) from error
