# SPDX-License-Identifier: Apache-2.0
"""How many bits the images of a training really use, where their files have room for 16."""

from collections.abc import Mapping, Sequence

from lightning.pytorch.utilities import rank_zero_warn

from anomalib_vqflow.naming import first_names

from .reading import brightest, in_threads

USUAL_BITS = (8, 10, 12, 14, 16)


def check_bit_depth(bit_depth: int | None) -> None:
    """Check what a user says of the bits in image files of 16 bits.

    Args:
        bit_depth: Number of bits, or None.

    Raises:
        ValueError: If it is a number that such files cannot have.
    """
    if bit_depth is not None and bit_depth not in range(USUAL_BITS[0], USUAL_BITS[-1] + 1):
        msg = f"Expected `bit_depth` from 8 to 16, or None to find it out, got {bit_depth!r}."
        raise ValueError(msg)


def common_bit_depth(paths: Sequence[str], categories: Mapping[str, str], given: int | None = None) -> int:
    """Find one range for all images of 16 bits, so that no image's brightness depends on what else it shows.

    Args:
        paths: Images, which are decoded.
        categories: Category of each image, by its path.
        given: Bits that the user or a trained model knows.

    Returns:
        ``given``, or the smallest usual number of bits that holds the brightest value of all images, of which a warning
        tells if it is less than 16.

    Raises:
        ValueError: If an image cannot be decoded, or is brighter than the given bits allow.
    """
    used = {
        path: next(bits for bits in USUAL_BITS if value < 2**bits)
        for path, value in zip(paths, in_threads(brightest, paths), strict=True)
    }
    bit_depth = given or max(used.values())
    if brighter := [path for path, bits in used.items() if bits > bit_depth]:
        msg = f"{len(brighter)} images use more than the {bit_depth} bits of bit_depth: {first_names(brighter)}."
        raise ValueError(msg)
    if given is None and bit_depth < USUAL_BITS[-1]:
        _warn(bit_depth, used, categories)
    return bit_depth


def _warn(bit_depth: int, used: Mapping[str, int], categories: Mapping[str, str]) -> None:
    """Tell a range that is below what the files could hold, as it is no more than a good guess."""
    by_category: dict[str, int] = {}
    for path, bits in used.items():
        by_category[categories[path]] = max(bits, by_category.get(categories[path], 0))
    darker = [f"{name} ({bits})" for name, bits in by_category.items() if bits < bit_depth]
    rank_zero_warn(
        f"{len(used)} image files of 16 bits are read as of {bit_depth} bits, which the brightest of them needs: "
        f"{first_names(list(used))}. If their camera has more or fewer, set `bit_depth`."
        + (f" These categories use fewer bits, and look dark: {first_names(darker)}." if darker else "")
    )
