# SPDX-License-Identifier: Apache-2.0
"""Cards: a heading, a few words and a row of small pictures, on the page and as a picture."""

import base64
import io
from typing import NamedTuple

import numpy as np
from anomalib.data.utils import read_image
from numpy.typing import NDArray
from PIL import Image

from .figures import FAINT, INK, Picture, label, new_figure, to_picture

Pixels = NDArray[np.uint8]  # (H, W, 3)

SIDE = 192
"""Longest side of a small picture in pixels."""

WIDTH, GAP, TITLE_HEIGHT, CAPTION_HEIGHT = 7.2, 0.08, 0.42, 0.17  # inches


class Thumbnail(NamedTuple):
    """A small picture.

    Attributes:
        pixels: RGB of shape ``(H, W, 3)``.
        caption: A word or two; may be empty.
        path: The file it was made from, for readers of the page.
    """

    pixels: Pixels
    caption: str
    path: str


class Card(NamedTuple):
    """What belongs together.

    Attributes:
        title: Heading.
        text: A few words.
        thumbnails: Small pictures.
    """

    title: str
    text: str
    thumbnails: list[Thumbnail]


def thumbnail_size(size: tuple[int, int]) -> tuple[int, int]:
    """Shrink or enlarge a size so that its longest side is that of a small picture.

    Args:
        size: Width and height in pixels.

    Returns:
        Width and height, at least 1.

    Example:
        >>> thumbnail_size((1000, 500))
        (192, 96)
    """
    scale = SIDE / max(size)
    return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)


def read_thumbnail(path: str, caption: str = "") -> Thumbnail:
    """Read an image file.

    Args:
        path: Its path.
        caption: A word or two.

    Returns:
        Its small picture, undistorted.
    """
    image = Image.fromarray((255 * np.asarray(read_image(path))).round().astype(np.uint8))
    return Thumbnail(np.asarray(image.resize(thumbnail_size(image.size), Image.Resampling.LANCZOS)), caption, path)


def to_data_uri(pixels: Pixels) -> str:
    """Pack a small picture into an address that holds it.

    Args:
        pixels: RGB of shape ``(H, W, 3)``.

    Returns:
        A ``data:`` URI with a JPEG.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def draw_cards(cards: list[Card], columns: int, name: str, description: str) -> Picture:
    """Draw cards below each other, or side by side.

    Args:
        cards: The cards.
        columns: Cards in a row.
        name: Name of the file.
        description: What they show.

    Returns:
        The picture.
    """
    slots = max(len(card.thumbnails) for card in cards)
    card_width = (WIDTH - (columns - 1) * 4 * GAP) / columns
    side = (card_width - (slots - 1) * GAP) / slots
    captions = CAPTION_HEIGHT if any(thumbnail.caption for card in cards for thumbnail in card.thumbnails) else 0.0
    card_height = TITLE_HEIGHT + side + captions + 2 * GAP
    height = card_height * -(-len(cards) // columns)
    figure = new_figure(WIDTH, height)
    axis = figure.add_axes((0, 0, 1, 1))  # in inches, downwards
    axis.set(xlim=(0, WIDTH), ylim=(height, 0))
    axis.axis("off")
    for index, card in enumerate(cards):
        left, top = (index % columns) * (card_width + 4 * GAP), (index // columns) * card_height
        letters = int(card_width * 14)
        axis.text(left, top + 0.16, label(card.title, letters), fontsize=9, weight="bold", color=INK)
        axis.text(left, top + 0.33, label(card.text, int(letters * 1.25)), fontsize=7.5, color=INK)
        for slot, thumbnail in enumerate(card.thumbnails):
            x, y = left + slot * (side + GAP), top + TITLE_HEIGHT
            rows, cells = thumbnail.pixels.shape[:2]
            wide, tall = side * cells / max(rows, cells), side * rows / max(rows, cells)
            x0, y0 = x + (side - wide) / 2, y + (side - tall) / 2
            axis.imshow(thumbnail.pixels, extent=(x0, x0 + wide, y0 + tall, y0), aspect="auto", interpolation="none")
            axis.text(x + side / 2, y + side + 0.13, thumbnail.caption, fontsize=7, color=FAINT, ha="center")
    axis.set(xlim=(0, WIDTH), ylim=(height, 0))
    return to_picture(figure, name, description)
