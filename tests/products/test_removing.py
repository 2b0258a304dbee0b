# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch.testing import assert_close

from anomalib_vqflow.products import add_products, remove_products

from .test_adding import images


def test_what_was_added_can_be_removed(model, root, data):
    """Then every image is predicted as before, to the bit: those of the product as foreign."""
    shown = images(root, "cable", "gear", "fabric")
    before = model(shown)
    add_products(model, data("fabric"))
    assert not torch.equal(model(shown).pred_score, before.pred_score)
    assert remove_products(model, ["fabric"]) == {"fabric": 1.0}
    assert_close(model(shown), before, rtol=0, atol=0)
    assert list(model.product_counts) == ["cable", "gear"]


def test_other_products_stay(model, root, data):
    """Those that were added before and after it, to the bit."""
    add_products(model, data("fabric", "plank"))
    shown = images(root, "cable", "gear", "plank")
    before = model(shown)
    remove_products(model, ["fabric"])
    after, other = model(shown), before.concept != 4
    assert torch.equal(after.pred_score[other], before.pred_score[other])
    assert torch.equal(after.anomaly_map[other], before.anomaly_map[other])
    assert (after.concept != 4).all()


def test_a_trained_product_can_be_removed(model, root):
    """Its concepts are given up, and its images fall to others, by which they are no less anomalous."""
    model.product_counts = {"cable": [0, 0, 0, 0], "gear": [0, 0, 0, 0]}
    concepts = model(images(root, "cable", "gear")).concept
    first = int(concepts[0])
    others = sorted({*range(4)} - {first})
    model.product_counts["cable"][first] = 8
    for concept in others:
        model.product_counts["gear"][concept] = 1
    remove_products(model, ["cable"])
    assert first not in model(images(root, "cable", "gear")).concept.tolist()


def test_shared_concepts_stay(model):
    """Only what no other product has is given up; the share of images is told."""
    model.product_counts = {"cable": [3, 1, 0, 0], "gear": [0, 4, 2, 0]}
    assert remove_products(model, ["cable"]) == {"cable": 0.75}
    assert (model.model.concept.codebook.code_counts[:2] > 0).tolist() == [False, True]


@pytest.mark.parametrize(
    ("counts", "names", "message"),
    [
        ({"cable": [1, 0], "gear": [0, 1]}, ["fabric"], "does not know fabric; it knows cable, gear"),
        ({"cable": [1, 0], "gear": [0, 1]}, ["cable", "gear"], "No product would be left"),
        ({"cable": [1, 0], "gear": [1, 1]}, ["cable"], "cable cannot be removed"),
        (None, ["cable"], "no product by name"),
    ],
)
def test_what_cannot_be_removed(model, counts, names, message):
    """It is told, and nothing is changed."""
    model.product_counts = counts
    codes = model.model.concept.codebook.code_counts.clone()
    with pytest.raises(ValueError, match=message):
        remove_products(model, names)
    assert_close(model.model.concept.codebook.code_counts, codes, rtol=0, atol=0)
    assert model.product_counts == counts
