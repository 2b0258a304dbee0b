# SPDX-License-Identifier: Apache-2.0
"""Remove products from a trained model: their concepts are given up, so that their images are foreign to it."""

from collections.abc import Sequence

import torch

from anomalib_vqflow.lightning_model import VQFlow


@torch.no_grad()
def remove_products(model: VQFlow, products: Sequence[str]) -> dict[str, float]:
    """Remove products from a model. All images that have other concepts are predicted as before, to the bit.

    A concept that other products have, too, stays.

    Args:
        model: A trained model that knows which products have which concepts. It is changed in place.
        products: Names of the products.

    Returns:
        By product, the share of its training images that were counted whose concept is given up. The others pass for
        images of the products that keep their concept.

    Raises:
        ValueError: If the model does not know a product, if none would be left, or if a product shares all of its
            concepts with others. Then nothing is removed.
    """
    known = model.product_counts or {}
    if unknown := [name for name in products if name not in known]:
        msg = f"The model does not know {', '.join(unknown)}; it knows {', '.join(known) or 'no product by name'}."
        raise ValueError(msg)
    kept = {name: counts for name, counts in known.items() if name not in products}
    if not kept:
        msg = f"No product would be left; the model knows {', '.join(known)}."
        raise ValueError(msg)
    concepts = range(len(next(iter(kept.values()))))
    retired = [k for k in concepts if any(known[name][k] for name in products) and not any(c[k] for c in kept.values())]
    shares = {name: sum(known[name][k] for k in retired) / max(sum(known[name]), 1) for name in products}
    if inseparable := [name for name, share in shares.items() if not share]:
        msg = f"{', '.join(inseparable)} cannot be removed: other products share the concepts. Train without it."
        raise ValueError(msg)
    for concept in retired:
        model.model.concept.retire_(concept)
    model.product_counts = kept
    return shares
