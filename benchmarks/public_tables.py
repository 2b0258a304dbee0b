# SPDX-License-Identifier: Apache-2.0
"""Results in the form of the paper, and in that of anomalib's model READMEs."""

from collections.abc import Mapping, Sequence

from measuring import NOT_EVALUABLE, print_header, print_row
from pandas import DataFrame

PUBLISHED = {("MVTecAD", 15): "99.5 / 98.3"}
"""What the paper's abstract states, by data set and number of categories that the model was trained on."""

SECTIONS = {
    "Image-Level AUC": "image_AUROC",
    "Pixel-Level AUC": "pixel_AUROC",
    "Image F1 Score": "image_F1Score",
    "Pixel F1 Score": "pixel_F1Score",
}


def print_tables(results: DataFrame, datasets: Mapping[str, str], model: str, seed: int) -> None:
    """Print both forms.

    Args:
        results: Results as :class:`~anomalib_vqflow.CategoryEvaluator` has them.
        datasets: Data set of each category.
        model: Name of the model.
        seed: Seed of its training.
    """
    categories: dict[str, list[str]] = {}
    for category, dataset in datasets.items():
        categories.setdefault(dataset, []).append(category)
    print("\nImage / pixel AUROC in percent, one model for all categories:\n")
    print_header("category", model, "published")
    for dataset, members in categories.items():
        for category in members:
            print_row(category, percentages(results, [category]), NOT_EVALUABLE)
        published = PUBLISHED.get((dataset, len(datasets)), NOT_EVALUABLE)
        print_row(f"mean of {dataset}", percentages(results, members), published)
    if len(categories) > 1:
        print_row("mean", percentages(results, list(datasets)), NOT_EVALUABLE)
    print("\nPublished is what the paper's abstract states; its code keeps the epoch that is best on the test images.")
    for dataset, members in categories.items():
        print(f"\n## {dataset}\n\nOne model for {len(datasets)} categories. All results gathered with seed `{seed}`.")
        for title, metric in SECTIONS.items():
            values = results.loc[members, metric]
            print(f"\n### {title}\n")
            print_header("", "Avg", *(name.replace("_", " ").title() for name in members))
            print_row(model, *(number(value, "{:.3f}") for value in [values.mean(), *values]))


def percentages(results: DataFrame, categories: Sequence[str]) -> str:
    """Write the means of image and pixel AUROC over categories, such as ``99.5 / 98.3``."""
    means = results.loc[list(categories), ["image_AUROC", "pixel_AUROC"]].mean()
    return " / ".join(number(100 * mean, "{:.1f}") for mean in means)


def number(value: float, form: str) -> str:
    """Write a number, or a dash for NaN."""
    return NOT_EVALUABLE if value != value else form.format(value)
