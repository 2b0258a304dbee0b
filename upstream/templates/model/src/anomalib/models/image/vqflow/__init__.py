# SPDX-License-Identifier: Apache-2.0
"""VQ-Flow: one normalizing flow, conditioned on vector-quantized concepts and patterns, for many categories at once.

A codebook finds the concept of an image, which in practice is its category; codebooks under it hold the normal patterns
of the concept; normalizing flows under both turn features into latents whose likelihood is the score.

Example:
    >>> from anomalib.data import MultiCategory
    >>> from anomalib.engine import Engine
    >>> from anomalib.models import VQFlow
    >>> datamodule = MultiCategory(dataset="MVTecAD", train_batch_size=8)
    >>> model = VQFlow()  # doctest: +SKIP
    >>> engine = Engine(max_epochs=20)
    >>> engine.train(model, datamodule=datamodule)  # doctest: +SKIP
"""

from .lightning_model import VQFlow
from .loss import VQFlowLoss
from .post_processor import SeparatingPostProcessor
from .torch_model import VQFlowModel

__all__ = ["SeparatingPostProcessor", "VQFlow", "VQFlowLoss", "VQFlowModel"]
