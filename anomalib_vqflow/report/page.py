# SPDX-License-Identifier: Apache-2.0
"""From a trained model and its data to the files of the report: one self-contained HTML page, and its plots as PNG."""

import base64
import io
import math
from pathlib import Path

from anomalib.data import AnomalibDataModule
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image

from anomalib_vqflow.lightning_model import VQFlow
from anomalib_vqflow.sources import set_up
from anomalib_vqflow.whole_file import whole_file

from .cards import Card, concept_cards, mistake_cards, worst_mistakes
from .collect import Collected, collect
from .measures import measure_agreement
from .plots import plot_cards, plot_codes, plot_confusion, plot_rates, plot_scores

PLOTS = ("concepts", "confusion_train", "confusion_test", "scores", "rates", "false_alarms", "misses", "codes")


def write_page(
    model: VQFlow, datamodule: AnomalibDataModule, folder: Path, source: str = "", max_train_images: int = 2000
) -> Path:
    """Write plots of what a model has learned, and one page with all of them.

    Args:
        model: A trained model.
        datamodule: Its data; downloaded and set up if needed.
        folder: Where to write; made if missing. Plots of an earlier report there are replaced.
        source: Where the model comes from, for the page.
        max_train_images: Of more training images, an evenly drawn share of this size is used.

    Returns:
        Path of the page.

    Raises:
        SourceError: If there are no training or test images, or some that can't be used.
        OSError: If the folder can't be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.eval()
    set_up(datamodule, model)
    collected = collect(model, datamodule, max_train_images)
    cards = make_cards(model, datamodule, collected)
    plots = make_plots(model, collected, cards)
    files = {name: folder / f"{name}.png" for name in PLOTS}
    for name, file in files.items():
        file.unlink(missing_ok=True)
        if name in plots:  # equal plots give equal bytes, as matplotlib does not sign them
            with whole_file(file) as png:
                plots[name].savefig(png, format="png", bbox_inches="tight", metadata={"Software": None})
    images = {name: files[name].read_bytes() for name in plots}
    page = folder / "index.html"
    with whole_file(page) as html:
        html.write(render_page(source, collected, cards, images).encode())
    return page


def make_cards(model: VQFlow, datamodule: AnomalibDataModule, collected: Collected) -> dict[str, list[Card]]:
    """Show typical images of each concept, and the worst mistakes or, without a threshold, what is nearest to one."""
    cards = {"concepts": concept_cards(collected.train)}
    for name, anomalous in (("false_alarms", False), ("misses", True)):
        only_wrong = not math.isnan(collected.threshold)
        chosen = worst_mistakes(collected.test, anomalous=anomalous, only_wrong=only_wrong)
        cards[name] = mistake_cards(model, datamodule.test_data, chosen)
    return {name: some for name, some in cards.items() if some}


def make_plots(model: VQFlow, collected: Collected, cards: dict[str, list[Card]]) -> dict[str, Figure]:
    """Make those of :data:`PLOTS` that the data allow."""
    train, test, categories = collected.train, collected.test, collected.categories
    plots = {name: plot_cards(some) for name, some in cards.items()}
    if categories:
        plots["confusion_train"] = plot_confusion(train, categories, "Training images")
        plots["confusion_test"] = plot_confusion(test, categories, "Test images")
    if test["anomalous"].notna().any():
        plots["scores"] = plot_scores(test, categories, collected.threshold)
    if len(collected.held_out) and (test["anomalous"] == 0).any():
        plots["rates"] = plot_rates(collected.held_out, test)
    plots["codes"] = plot_codes(model.model)
    return plots


def render_page(source: str, collected: Collected, cards: dict[str, list[Card]], plots: dict[str, bytes]) -> str:
    """Fill the template ``page.html``; what comes out needs no script, no other file and no network.

    Args:
        source: Where the model comes from; may be empty.
        collected: Tables of the images.
        cards: Cards by the name of their plot.
        plots: Content of PNG files by name.
    """
    train, test = collected.train, collected.test
    agreements = {"training": measure_agreement(train), "test": measure_agreement(test)}
    loader = PackageLoader("anomalib_vqflow.report", package_path="")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["data_uri"] = data_uri
    return environment.get_template("page.html").render(
        collected._asdict(),
        source=source,
        cards=cards,
        plots=plots,
        decides=not math.isnan(collected.threshold),
        num_false_alarms=((test["anomalous"] == 0) & test["alarm"]).sum(),
        num_misses=((test["anomalous"] == 1) & ~test["alarm"]).sum(),
        agreements={name: agreement for name, agreement in agreements.items() if not math.isnan(agreement.nmi)},
        new_concepts=sorted(set(test["concept"]) - set(train["concept"])),
    )


def data_uri(image: Image.Image | bytes) -> str:
    """Pack an image as JPEG, or the content of a PNG file as it is, into an address that holds it."""
    if isinstance(image, bytes):
        return "data:image/png;base64," + base64.b64encode(image).decode("ascii")
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
