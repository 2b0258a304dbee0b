# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch.testing import assert_close

from anomalib_vqflow.quantization import ConceptQuantizer
from tests.gradients import parameters_without_gradient


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def images(batch):
    return 3 * torch.randn(batch, 12, 1, 1) + torch.randn(batch, 12, 3, 5)


def make_concept_quantizer(**options) -> ConceptQuantizer:
    return ConceptQuantizer(**{"channels": 12, "concept_dim": 6, "num_concepts": 4, "novelty": 0.0, **options})


def trained_concept(**options) -> ConceptQuantizer:
    concept = make_concept_quantizer(**options)
    for _ in range(40):  # batch statistics of eval need some batches
        concept(images(16))
    return concept.eval()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (3, 5)])
def test_shapes(height, width):
    """One prototype and one index per image, on any grid."""
    concept = make_concept_quantizer()
    prototype, indices, commitment, *_ = concept(torch.randn(5, 12, height, width))

    assert prototype.shape == (5, 6)
    assert indices.shape == (5,)
    assert indices.min() >= 0
    assert indices.max() < 4
    assert commitment.shape == ()


def test_only_the_mean_of_the_map_counts():
    """Global average pooling makes the concept blind to where things are, and to the size of the map."""
    concept = trained_concept()
    semantic = images(100)
    mean = semantic.mean(dim=(2, 3), keepdim=True)

    assert len(concept(semantic).indices.unique()) > 1
    assert torch.equal(concept(semantic).indices, concept(mean.expand(100, 12, 2, 9)).indices)
    assert torch.equal(concept(semantic).indices, concept(semantic.flip(2, 3)).indices)


def test_prototype_is_the_nearest_code_of_the_embedding():
    """ŷ is a row of the codebook, the one closest to y."""
    concept = trained_concept()
    semantic = images(100)
    embedding = concept.mlp(semantic.mean(dim=(2, 3)))
    nearest = torch.cdist(embedding, concept.codebook.codes).argmin(dim=1)

    assert torch.equal(concept(semantic).prototype, concept.codebook.codes[nearest])


def test_batch_of_two_equals_two_batches_of_one():
    """In eval, images do not see each other."""
    concept = trained_concept()
    semantic = images(2)
    together = concept(semantic)
    alone = [concept(image[None]) for image in semantic]

    assert_close(together.prototype, torch.cat([one.prototype for one in alone]))
    assert torch.equal(together.indices, torch.cat([one.indices for one in alone]))


def test_every_parameter_gets_a_gradient():
    """The straight-through estimator carries the loss through the codebook into the whole encoder."""
    concept = make_concept_quantizer()
    (concept(torch.randn(16, 12, 3, 3)).prototype * torch.randn(16, 6)).sum().backward()

    assert parameters_without_gradient(concept) == []


def test_commitment_alone_trains_the_encoder():
    """The commitment pulls the embedding towards its code."""
    concept = trained_concept().train()
    concept(torch.randn(16, 12, 3, 3)).commitment.backward()

    assert parameters_without_gradient(concept) == []


@pytest.mark.parametrize("novelty", [0.0, 0.3])
def test_novelty_reaches_the_codebook(novelty):
    """The argument is the codebook's."""
    assert make_concept_quantizer(novelty=novelty).codebook.novelty == novelty


def test_products_get_concepts_of_their_own():
    """Separable products fall on one concept each and stay there while the encoder learns."""
    products, labels = 5 * torch.randn(6, 12), torch.arange(6).repeat(4)
    concept = ConceptQuantizer(channels=12, concept_dim=16, num_concepts=16, novelty=0.5)
    optimizer = torch.optim.Adam(concept.parameters(), lr=1e-4)
    for _ in range(60):
        semantic = products[labels, :, None, None] + 0.5 * torch.randn(24, 12, 3, 3)
        prototype, indices, commitment, *_ = concept(semantic)
        optimizer.zero_grad()
        (commitment + 1e-3 * prototype.square().mean()).backward()
        optimizer.step()

    pairs = {(int(label), int(index)) for label, index in zip(labels, indices, strict=True)}
    assert len({index for _, index in pairs}) == len(pairs) == 6


@pytest.mark.parametrize("training", [True, False])
def test_rows_find_each_images_prototype(training):
    """In inference among the codebook's, which last; in training among the images' own, which carry the gradient."""
    quantizer = trained_concept().train(training)
    concept = quantizer(images(5))

    assert torch.equal(concept.prototypes[concept.rows], concept.prototype)
    assert concept.lasting is not training
    assert (concept.prototypes is quantizer.codebook.codes) is not training
    assert concept.prototypes.requires_grad is training
