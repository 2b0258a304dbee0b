# SPDX-License-Identifier: Apache-2.0
"""anomalib's models where they need help: to stay in memory, to score an image by itself, to tell high scores apart."""

from typing import Any

import torch
from anomalib.data import Batch
from anomalib.models import Cflow, Patchcore, Uflow
from anomalib.models.components import KCenterGreedy
from anomalib.models.image.cflow.anomaly_map import AnomalyMapGenerator
from anomalib.models.image.fastflow.anomaly_map import AnomalyMapGenerator as LikelihoodMaps
from torch import Tensor


class BoundedPatchcore(Patchcore):
    """PatchCore with a bank of a given size, chosen greedily among a given number of random patches of each image.

    anomalib's bank is a share of all patches, among all of which it chooses; on a few thousand images that takes hours
    and gigabytes.

    Args:
        num_patches: Size of the bank.
        patches_per_image: Random patches of each training image that the bank is chosen from; None for all of them.
        arguments: Those of anomalib's PatchCore.
    """

    def __init__(self, num_patches: int, patches_per_image: int | None = None, **arguments: Any) -> None:  # noqa: ANN401
        super().__init__(**arguments)
        self.num_patches = num_patches
        self.patches_per_image = patches_per_image

    def training_step(self, batch: Batch, *args: object, **kwargs: object) -> Tensor:
        """Keep some of the patches of each image."""
        loss = super().training_step(batch, *args, **kwargs)
        if self.patches_per_image is not None:
            store = self.model.embedding_store
            images = store[-1].reshape(len(batch.image), -1, store[-1].shape[-1])
            order = torch.rand(images.shape[:2], device=images.device).argsort(dim=1)[:, : self.patches_per_image]
            store[-1] = images.take_along_dim(order[..., None], dim=1).flatten(0, 1)
        return loss

    def fit(self) -> None:
        """Choose the bank."""
        candidates = torch.vstack(self.model.embedding_store)
        self.model.embedding_store.clear()
        ratio = min(1.0, (self.num_patches + 0.5) / len(candidates))  # a half, because anomalib rounds down
        self.model.memory_bank = FrugalGreedy(candidates, ratio).sample_coreset()


class FrugalGreedy(KCenterGreedy):
    """anomalib's greedy choice without its copy of all patches for each that is chosen.

    Those copies, with the small tensors that are kept between them, leave holes in the memory that the next copy does
    not fit into: 4,096 of 15,104 patches took 20 GB and more (anomalib 2.7.0, glibc).
    """

    def update_distances(self, cluster_center: int | Tensor | None) -> None:
        """Note how far all patches are from the last one that was chosen, if it is the nearest."""
        if cluster_center is None:
            return
        center = self.features[cluster_center].reshape(1, -1)
        distances = torch.cdist(self.features, center, compute_mode="donot_use_mm_for_euclid_dist")
        self.min_distances = distances if self.min_distances is None else torch.minimum(self.min_distances, distances)


class UnsaturatedUflow(Uflow):
    """U-Flow whose highest scores differ.

    anomalib's map is 1 less the mean likelihood of the scales, and in float32 exactly 1 for all that is very unlikely.
    FastFlow's is the same without the 1.
    """

    def __init__(self, **arguments: Any) -> None:  # noqa: ANN401
        super().__init__(**arguments)
        self.model.anomaly_map_generator = LikelihoodMaps(self.model.input_size)


class AbsoluteCflow(Cflow):
    """CFLOW whose scores do not depend on the batch that an image is in.

    anomalib's relates likelihoods to the best cell of the batch, so that scores of images in different batches do not
    compare; CFLOW's authors relate them to the best of all test images. Here it is the best of the training images.
    """

    def __init__(self, **arguments: Any) -> None:  # noqa: ANN401
        super().__init__(**arguments)
        self.model.anomaly_map_generator = AbsoluteMaps(self.model.pool_layers)

    @torch.no_grad()
    def on_train_end(self) -> None:
        """Find the best cells of the training images."""
        super().on_train_end()
        maps, was_training = self.model.anomaly_map_generator, self.training
        self.eval()
        maps.maxima = None
        maps.observing = True
        for batch in self.trainer.train_dataloader:
            moved = self.transfer_batch_to_device(batch, self.device, 0)
            image = moved.image if self.pre_processor is None else self.pre_processor(moved.image)
            self.model(image)
        maps.observing = False
        self.train(was_training)


class AbsoluteMaps(AnomalyMapGenerator):
    """Maps relative to given maxima of the log-likelihood, one for each layer; while observing, they follow the batch.

    Args:
        pool_layers: Names of the layers.
    """

    def __init__(self, pool_layers: list[int | str]) -> None:
        super().__init__(pool_layers)
        self.maxima: Tensor | None = None  # (layers,)
        self.observing = False

    def compute_anomaly_map(
        self, distribution: list[Tensor], height: list[int], width: list[int], image_size: tuple[int, int] | None
    ) -> Tensor:
        """Sum what the likelihoods of the layers lack of the best.

        Args:
            distribution: Log-likelihoods of all cells of the batch, per layer, shape ``(B * h * w,)``.
            height: Height of the map of each layer.
            width: Its width.
            image_size: Height and width of the result; None for those of the layer.

        Returns:
            Maps, shape ``(B, H, W)``.
        """
        if self.observing:
            found = torch.stack([layer.max() for layer in distribution])
            self.maxima = found if self.maxima is None else torch.maximum(self.maxima, found)
        maxima = self.maxima
        if maxima is None:
            msg = "The best likelihoods are those of training images; train the model first."
            raise RuntimeError(msg)
        total = torch.zeros(())
        for index, layer in enumerate(distribution):
            cells = torch.exp(layer.detach() - maxima[index]).reshape(-1, 1, height[index], width[index])
            if image_size is not None:
                cells = torch.nn.functional.interpolate(cells, size=image_size, mode="bilinear", align_corners=True)
            total = total.to(cells) - cells[:, 0]
        return total
