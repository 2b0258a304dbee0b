# SPDX-License-Identifier: Apache-2.0
"""The catalog: which products there are and what can be wrong with each."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from numpy.random import Generator

from . import circuit, fabric, faults, label, metal, plank, round_parts, tile
from .scene import Fault, Scene

SurfaceFault = Callable[[Scene, Generator], None]


class Product(NamedTuple):
    """How a category is drawn and what can be wrong with it.

    Args:
        draw: Draws the scene of one piece, with a structural fault or without.
        structure: Names of the structural faults that ``draw`` knows.
        surface: Faults that are laid over a faultless piece.
    """

    draw: Callable[[int, Generator, Fault], Scene]
    structure: tuple[str, ...]
    surface: Mapping[str, SurfaceFault]


_RUST = ((0.42, 0.20, 0.09), (0.34, 0.17, 0.10))
_DARK_RUST = ((0.26, 0.15, 0.07), (0.40, 0.26, 0.12))
_OIL = ((0.20, 0.15, 0.08), (0.12, 0.12, 0.13))
_DYE = ((0.45, 0.12, 0.12), (0.14, 0.20, 0.42), (0.25, 0.18, 0.08))
_DARK_DYE = ((0.40, 0.10, 0.10), (0.22, 0.15, 0.06), (0.08, 0.08, 0.07))
_WHITE = ((0.90, 0.90, 0.86),)

PRODUCTS: Mapping[str, Product] = {
    "cable": Product(
        round_parts.cable,
        ("missing_wire", "swapped_wire", "cut_insulation", "missing_strands"),
        {"contamination": partial(faults.stain, colors=_OIL)},
    ),
    "cap": Product(
        metal.cap,
        ("bent_edge", "missing_print", "wrong_print"),
        {
            "scratch": faults.scratch,
            "dent": partial(faults.dent, depth=0.035),
            "rust": partial(faults.stain, colors=_DARK_RUST),
        },
    ),
    "capsule": Product(
        round_parts.capsule,
        ("squeezed", "missing_print", "wrong_color", "short_shell"),
        {"crack": faults.crack, "specks": faults.specks},
    ),
    "circuit": Product(
        circuit.circuit,
        ("missing_part", "rotated_part", "solder_bridge", "cut_trace"),
        {"scratch": faults.scratch, "residue": partial(faults.stain, colors=(*_WHITE, (0.42, 0.30, 0.12)))},
    ),
    "fabric": Product(
        fabric.fabric,
        ("missing_thread", "thick_thread", "wrong_thread"),
        {
            "hole": faults.hole,
            "stain": partial(faults.stain, colors=_DARK_DYE),
            "fiber": partial(faults.fiber, colors=((0.75, 0.1, 0.12), (0.06, 0.06, 0.06), (0.85, 0.65, 0.1))),
        },
    ),
    "gear": Product(
        metal.gear,
        ("broken_tooth", "bent_tooth", "blocked_hole"),
        {"crack": faults.crack, "rust": partial(faults.stain, colors=_RUST), "scratch": faults.scratch},
    ),
    "label": Product(
        label.label,
        ("missing_text", "smeared_print", "torn_corner", "crease", "misplaced_print"),
        {"stain": partial(faults.stain, colors=_DYE)},
    ),
    "plank": Product(
        plank.plank,
        ("knot",),
        {
            "crack": partial(faults.crack, angle=0.0),
            "hole": faults.hole,
            "scratch": partial(faults.scratch, color=(0.93, 0.84, 0.70)),
            "stain": partial(faults.stain, colors=(*_OIL, (0.62, 0.66, 0.68))),
        },
    ),
    "plate": Product(
        metal.plate,
        ("missing_hole", "misplaced_hole", "bent_corner"),
        {
            "dent": faults.dent,
            "rust": partial(faults.stain, colors=_RUST),
            "scratch": faults.scratch,
            "scuff": faults.scuff,
        },
    ),
    "tile": Product(
        tile.tile,
        ("chipped", "color_fault"),
        {"crack": faults.crack, "glue": partial(faults.stain, colors=((0.80, 0.70, 0.42),)), "fiber": faults.fiber},
    ),
}

CATEGORIES = tuple(PRODUCTS)


def defects(category: str) -> tuple[str, ...]:
    """Return the names of the defects of a category, in alphabetical order.

    Args:
        category: One of :data:`CATEGORIES`.

    Raises:
        ValueError: If there is no such category.

    Example:
        >>> defects("tile")
        ('chipped', 'color_fault', 'crack', 'fiber', 'glue')
    """
    if category not in PRODUCTS:
        msg = f"Unknown category {category!r}; choose from {', '.join(CATEGORIES)}."
        raise ValueError(msg)
    product = PRODUCTS[category]
    return tuple(sorted((*product.structure, *product.surface)))
