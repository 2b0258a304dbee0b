# SPDX-License-Identifier: Apache-2.0
"""What the features of a backbone tell without any flow: nearest neighbors, with its weights and with random ones.

    python benchmarks/backbone.py vqflow_tiny

For each generated product, the score of a cell of a test image is the distance of its features, the pooled detail maps
side by side, to the nearest of 4,000 cells of normal training images of the same product. Printed are means over the
products, for weights of the package (or timm's) and for random ones.
"""

import argparse
import statistics

import torch
from anomalib.data.utils import read_mask
from lightning.pytorch import seed_everything
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_auroc
from torchvision.transforms.v2 import Transform

from anomalib_vqflow import SyntheticProducts, VQFlow
from anomalib_vqflow.data.multi_category_dataset import MultiCategoryDataset
from anomalib_vqflow.features import FeaturePyramid

NUM_CELLS = 4000
SIZE = 256
TOP_RATIO = 0.003  # share of the pixels averaged for the score of an image


def published_pyramid(backbone: str, *, pre_trained: bool, size: int) -> FeaturePyramid:
    """Build the three detail maps of the published arrangement, for square images."""
    return FeaturePyramid(
        backbone=backbone,
        layers=None,
        num_levels=3,
        detail_pooling="stride_2",
        semantic_level=False,
        prefix_tokens=False,
        pre_trained=pre_trained,
        input_size=(size, size),
    )


@torch.no_grad()
def cells(pyramid: FeaturePyramid, transform: Transform, dataset: MultiCategoryDataset, category: str) -> Tensor:
    """Extract the detail maps of one category, on the grid of the second level, ``(N, h, w, C)``."""
    chosen = [index for index, name in enumerate(dataset.samples["category"]) if name == category]
    joined = []
    for start in range(0, len(chosen), 16):
        images = torch.stack([dataset[index].image for index in chosen[start : start + 16]])
        details = pyramid(transform(images)).details
        grid = details[1].shape[-2:]
        fine = F.adaptive_avg_pool2d(details[0], grid)
        coarse = F.interpolate(details[2], size=grid, mode="bilinear")
        joined.append(torch.cat((fine, details[1], coarse), dim=1).permute(0, 2, 3, 1))
    return torch.cat(joined)


def aurocs(
    pyramid: FeaturePyramid, transform: Transform, datamodule: SyntheticProducts, category: str
) -> tuple[float, float]:
    """Compute image and pixel AUROC of one category."""
    normal, tested = (
        cells(pyramid, transform, data, category) for data in (datamodule.train_data, datamodule.test_data)
    )
    widths = [shape[0] for shape in pyramid.detail_shapes]
    levels = normal.split(widths, dim=-1)
    scales = torch.cat([level.std().expand(width) for level, width in zip(levels, widths, strict=True)])
    bank = (normal / scales).flatten(0, 2)
    bank = bank[torch.randperm(len(bank))[:NUM_CELLS]]
    distances = torch.stack([torch.cdist(image.flatten(0, 1), bank).amin(dim=1) for image in tested / scales])
    grid = tested.shape[1:3]
    maps = F.interpolate(distances.view(-1, 1, *grid), size=(SIZE, SIZE), mode="bilinear")[:, 0]
    samples = datamodule.test_data.samples
    samples = samples[samples["category"] == category]
    labels = torch.tensor(samples["label_index"].tolist())
    masks = [
        torch.as_tensor(read_mask(path)) > 0 if path else torch.zeros(SIZE, SIZE) > 0 for path in samples.mask_path
    ]
    scores = maps.flatten(1).topk(int(TOP_RATIO * SIZE * SIZE), dim=1).values.mean(dim=1)
    # Distances are not probabilities: torchmetrics would squash those above 1.
    pixel = binary_auroc(maps / maps.max(), torch.stack(masks).long())
    return float(binary_auroc(scores / scores.max(), labels)), float(pixel)


def main(arguments: list[str] | None = None) -> None:
    """Print the comparison.

    Args:
        arguments: Command line; None for that of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbone")
    parser.add_argument("--root", default="./datasets/SyntheticProducts")
    parser.add_argument("--data-seed", type=int, default=100, help="seed of the images")
    options = parser.parse_args(arguments)

    datamodule = SyntheticProducts(options.root, image_size=SIZE, seed=options.data_seed)
    datamodule.setup()
    transform = VQFlow.configure_pre_processor((SIZE, SIZE), options.backbone).transform
    for pre_trained in (True, False):
        seed_everything(0)
        pyramid = published_pyramid(options.backbone, pre_trained=pre_trained, size=SIZE)
        pairs = [aurocs(pyramid, transform, datamodule, category) for category in datamodule.categories]
        image, pixel = (statistics.fmean(values) for values in zip(*pairs, strict=True))
        weights = "its weights" if pre_trained else "random weights"
        print(f"{options.backbone}, {weights}: image AUROC {image:.3f}, pixel AUROC {pixel:.3f}")


if __name__ == "__main__":
    main()
