# SPDX-License-Identifier: Apache-2.0
"""One HTML page that holds everything: no script, no other file, no network."""

import base64
import struct
from html import escape
from typing import NamedTuple

from .cards import Card, Thumbnail, to_data_uri
from .figures import DPI, Picture

STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; font: 1rem/1.5 system-ui, sans-serif; color: #222;
       background: #fff; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; border-top: 1px solid #ccc; padding-top: 1rem; }
h3 { font-size: 1rem; margin: 0 0 .1rem; }
p { margin: .5rem 0; max-width: 46rem; } nav a { display: inline-block; margin-right: 1rem; padding: .3rem 0; }
a { color: #0057a0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; } dt { color: #555; } dd { margin: 0; }
.wide { overflow-x: auto; margin: 1rem 0; } .wide img { display: block; height: auto; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); gap: 1rem; }
.cards.large { grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); }
.card { border: 1px solid #ccc; border-radius: .4rem; padding: .6rem .7rem; }
.card p { margin: 0 0 .4rem; font-size: .85rem; }
.row { display: grid; grid-template-columns: repeat(3, 1fr); gap: .35rem; }
figure { margin: 0; text-align: center; } figure img { max-width: 100%; height: auto; display: block; margin: auto; }
figcaption { font-size: .75rem; color: #555; }
@media (max-width: 32rem) { dl { display: block; } dd { margin-bottom: .3rem; } .wide img { min-width: 36rem; }
  .wide::before { content: "\\2194 scrolls sideways"; font-size: .75rem; color: #555; position: sticky; left: 0; } }
@media print { nav { display: none; } .card { break-inside: avoid; } h2, h3, section > p { break-after: avoid; }
  .wide { overflow: visible; } .wide::before { content: none; }
  .wide img { min-width: 0; max-width: 100%; max-height: 24cm; object-fit: contain; }
  .cards, .cards.large { grid-template-columns: 1fr 1fr; } }
"""


class Section(NamedTuple):
    """A part of the page.

    Attributes:
        anchor: Name to link to.
        title: Heading.
        text: What is to be seen, in plain words.
        pictures: Pictures; on the page only if there are no cards.
        cards: What the pictures show, for screens of any width.
    """

    anchor: str
    title: str
    text: str
    pictures: list[Picture]
    cards: list[Card]


def render_page(title: str, facts: dict[str, str], notes: list[str], sections: list[Section]) -> str:
    """Write the page.

    Args:
        title: Heading.
        facts: Values by name, for the top of the page.
        notes: What the reader has to know, one paragraph each.
        sections: The rest.

    Returns:
        HTML.
    """
    links = "".join(f'<a href="#{section.anchor}">{escape(section.title)}</a>' for section in sections)
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    paragraphs = "".join(f"<p>{escape(note)}</p>" for note in notes)
    body = "".join(_render_section(section) for section in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n<dl>{rows}</dl>\n{paragraphs}\n<nav>{links}</nav>\n{body}</body>\n</html>\n"
    )


def _render_section(section: Section) -> str:
    if section.cards:
        large = any(thumbnail.caption for card in section.cards for thumbnail in card.thumbnails)
        kind = "cards large" if large else "cards"
        content = f'<div class="{kind}">\n{"".join(_render_card(card) for card in section.cards)}</div>\n'
    else:
        content = "".join(_render_picture(picture) for picture in section.pictures)
    head = f"<h2>{escape(section.title)}</h2>\n<p>{escape(section.text)}</p>"
    return f'<section id="{section.anchor}">\n{head}\n{content}</section>\n'


def _render_picture(picture: Picture) -> str:
    width, _ = struct.unpack(">II", picture.png[16:24])  # of PNG's first chunk
    address = "data:image/png;base64," + base64.b64encode(picture.png).decode("ascii")
    style = f"width:min(100%,{width / DPI * 96:.0f}px)"  # as large as on paper, or as wide as the screen
    return f'<div class="wide"><img src="{address}" alt="{escape(picture.description)}" style="{style}"></div>\n'


def _render_card(card: Card) -> str:
    text = f"<p>{escape(card.text)}</p>" if card.text else ""
    figures = "".join(_render_thumbnail(thumbnail, card.title) for thumbnail in card.thumbnails)
    return f'<article class="card"><h3>{escape(card.title)}</h3>{text}<div class="row">{figures}</div></article>\n'


def _render_thumbnail(thumbnail: Thumbnail, title: str) -> str:
    height, width = thumbnail.pixels.shape[:2]
    caption = f"<figcaption>{escape(thumbnail.caption)}</figcaption>" if thumbnail.caption else ""
    words = escape(f"{thumbnail.caption or 'typical image'} of {title}")
    tip = f' title="{escape(thumbnail.path)}"' if thumbnail.path else ""
    source = to_data_uri(thumbnail.pixels)
    return f'<figure><img src="{source}" alt="{words}"{tip} width="{width}" height="{height}">{caption}</figure>'
