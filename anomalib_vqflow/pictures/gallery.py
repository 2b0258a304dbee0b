# SPDX-License-Identifier: Apache-2.0
"""The concepts in use, each with its most typical images."""

import pandas as pd

from .cards import Card, read_thumbnail
from .figures import plural

NUM_TYPICAL = 6
NUM_NAMED = 3


def concept_cards(train: pd.DataFrame, categories: list[str]) -> list[Card]:
    """Describe each concept that training images fell on, by the images nearest to its prototype.

    Args:
        train: Training images; see :class:`.Collected`.
        categories: Names of the categories; empty if unknown.

    Returns:
        Cards, the most frequent concept first.
    """
    sizes = train["concept"].value_counts()
    order = sorted(sizes.index, key=lambda concept: (-sizes[concept], concept))
    return [_card(concept, train[train["concept"] == concept], len(train), bool(categories)) for concept in order]


def _card(concept: int, images: pd.DataFrame, total: int, categories_known: bool) -> Card:
    title = f"Concept {concept}: {plural(len(images), 'image')} ({100 * len(images) / total:.1f} %)"
    typical = images.sort_values(["distance", "path"]).head(NUM_TYPICAL)
    thumbnails = [read_thumbnail(path) for path in typical["path"]]
    return Card(title, _purity(images) if categories_known else "", thumbnails)


def _purity(images: pd.DataFrame) -> str:
    """Name the categories of a concept, the most frequent first, equal ones by name, and the share of the first."""
    shares = images["category"].value_counts(normalize=True).sort_index().sort_values(ascending=False, kind="stable")
    leading, *others = shares.index
    text = f"Purity {shares.iloc[0]:.3f}: {leading}"
    if others:
        text += f", also {', '.join(others[: NUM_NAMED - 1])}"
    more = len(others) - (NUM_NAMED - 1)
    return f"{text} and {more} more" if more > 0 else text
