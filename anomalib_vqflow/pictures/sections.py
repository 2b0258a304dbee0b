# SPDX-License-Identifier: Apache-2.0
"""The parts of the report, each with its words; a part without data is left out."""

import math
import os

import pandas as pd
from anomalib.data import AnomalibDataModule

from anomalib_vqflow.lightning_model import VQFlow

from .agreement import count_images, measure_agreement
from .cards import draw_cards
from .codes import draw_codes
from .collect import Collected
from .confusion import draw_confusion
from .gallery import concept_cards
from .histograms import draw_scores
from .mistakes import count_mistakes, mistake_cards, worst_false_alarms, worst_misses
from .page import Section

MAP_WORDS = (
    "Maps are as the model normalizes them, on one scale for all images: the brighter, the more anomalous; at the "
    "default sensitivity, the pixel threshold is green-blue, in the middle of the scale."
)


def build_sections(model: VQFlow, datamodule: AnomalibDataModule, collected: Collected) -> list[Section]:
    """Draw all parts of the report.

    Args:
        model: The model, in eval mode.
        datamodule: Its data, set up.
        collected: What one pass over the data gave.

    Returns:
        The parts, in order.
    """
    return [
        _concepts(collected),
        *_confusion(collected),
        *_scores(collected),
        *_mistakes(model, datamodule, collected),
        _codes(model),
    ]


def describe(model: VQFlow, collected: Collected) -> dict[str, str]:
    """Sum up the report in a few values.

    Args:
        model: The model.
        collected: What one pass over the data gave.

    Returns:
        Values by name.
    """
    train, test = collected.train, collected.test
    normal, anomalous = int((test["anomalous"] == 0).sum()), int((test["anomalous"] == 1).sum())
    unknown = len(test) - normal - anomalous
    drawn = f" of {collected.num_train}, evenly drawn" if len(train) < collected.num_train else ""
    facts = {
        "Training images": f"{len(train)}{drawn}",
        "Test images": f"{normal} normal, {anomalous} anomalous" + (f", {unknown} unlabeled" if unknown else ""),
        "Concepts of the training images": f"{train['concept'].nunique()} of {model.model.concept.codebook.num_codes}",
    }
    for name, images in (("training", train), ("test", test)):
        if collected.categories:
            agreement = measure_agreement(count_images(images, collected.categories))
            if not math.isnan(agreement.nmi):
                facts[f"Concepts and categories, {name} images"] = (
                    f"purity {agreement.purity:.3f}, normalized mutual information (NMI) {agreement.nmi:.3f}"
                )
    if not math.isnan(collected.threshold):
        false_alarms, misses = count_mistakes(test)
        facts["At the model's threshold"] = f"{collected.threshold:.4f}: {false_alarms} false alarms, {misses} misses"
    return facts


def remarks(collected: Collected) -> list[str]:
    """Say what the reader would not expect.

    Args:
        collected: What one pass over the data gave.

    Returns:
        A paragraph each.
    """
    notes = []
    if not collected.categories:
        notes.append("This data has no categories, as MultiCategory has them, so what compares with them is left out.")
    strangers = sorted(set(collected.test["concept"]) - set(collected.train["concept"]))
    if strangers:
        number = int(collected.test["concept"].isin(strangers).sum())
        names = ", ".join(map(str, strangers))
        notes.append(f"Test images on concepts that none of these training images fell on: {number} (concept {names}).")
    return notes


def _concepts(collected: Collected) -> Section:
    cards = concept_cards(collected.train, collected.categories)
    picture = draw_cards(cards, 2, "concepts", "Concepts in use, each with its most typical training images")
    text = (
        "Each concept with the training images nearest to its prototype, and its share of the training images. The "
        "model found the concepts without being told what an image shows."
    )
    return Section("concepts", "Concepts", text, [picture], cards)


def _confusion(collected: Collected) -> list[Section]:
    if not collected.categories:
        return []
    pictures = []
    for name, images in (("train", collected.train), ("test", collected.test)):
        table = count_images(images, collected.categories)
        title = "Training images" if name == "train" else "Test images"
        pictures.append(draw_confusion(table, measure_agreement(table), f"confusion_{name}", title))
    text = (
        "Number of images of each category that fell on each concept. The color, and the percentage at the end of a "
        "row, is the share of the concept's images in its most frequent category; their mean over images is the purity."
        " A category may well have several concepts, but a concept should not have several categories."
    )
    return [Section("confusion", "Concepts and categories", text, pictures, [])]


def _scores(collected: Collected) -> list[Section]:
    if collected.test["anomalous"].isna().all():
        return []
    text = (
        "Scores of the test images. Heights are shares of the normal and of the anomalous images of a row, so that few "
        "images of a kind show as well as many. One threshold serves all categories only if their normal images end "
        "left of it and their anomalous images begin right of it."
    )
    return [Section("scores", "Scores", text, [draw_scores(collected)], [])]


def _mistakes(model: VQFlow, datamodule: AnomalibDataModule, collected: Collected) -> list[Section]:
    decides = not math.isnan(collected.threshold)
    root = _common_folder(collected.test["path"])
    false_alarms, misses = count_mistakes(collected.test)
    sections = []
    for name, choose, number, title, text in (
        (
            "false_alarms",
            worst_false_alarms,
            false_alarms,
            "Worst false alarms",
            "Normal images with the highest scores",
        ),
        ("misses", worst_misses, misses, "Worst misses", "Anomalous images with the lowest scores"),
    ):
        chosen = choose(collected.test, only_wrong=decides)
        if chosen.empty:
            continue
        cards = mistake_cards(model, datamodule.test_data, chosen, root)
        picture = draw_cards(cards, 2, name, text)
        which = f"{text}, {len(chosen)} of {number} on the wrong side of the threshold." if decides else f"{text}."
        words = f"{which} {MAP_WORDS}" + (f" Paths are below {root}." if root else "")
        sections.append(Section(name, title if decides else text, words, [picture], cards))
    return sections


def _codes(model: VQFlow) -> Section:
    text = (
        "How evenly training used the codes of each codebook towards its end: the share of vectors that each code "
        "stood for, most used first; dashed where all codes would be used alike. A live code was used lately. The "
        "perplexity is the number of equally used codes that would be as diverse."
    )
    return Section("codes", "Codes", text, [draw_codes(model.model)], [])


def _common_folder(paths: pd.Series) -> str:
    """Find the innermost folder that holds all files; empty if they lie on several drives of Windows."""
    try:
        return os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    except ValueError:
        return ""
