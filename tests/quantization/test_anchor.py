# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from anomalib_vqflow.quantization import make_anchor
from anomalib_vqflow.quantization.position import axis_encoding

from .concepts import make_concept


def position_map(dim, height, width, dtype=torch.float32) -> torch.Tensor:
    return make_anchor(make_concept(torch.zeros(1, 3, dtype=dtype)), dim, (height, width)).map[0, :dim]


def test_map_is_position_and_prototype():
    """⟨PE, ŷ⟩ holds column, row and prototype of every cell, in this order."""
    prototype = torch.randn(3, 6)
    anchor = make_anchor(make_concept(prototype), 8, (4, 5))
    columns, rows = (axis_encoding(8, size, torch.float32, torch.device("cpu")) for size in (5, 4))

    assert anchor.grid == (4, 5)
    for image, row, column in ((0, 0, 0), (2, 3, 4), (1, 2, 3)):
        expected = torch.cat((columns[:, column], rows[:, row], prototype[image]))
        assert torch.equal(anchor.map[image, :, row, column], expected)


def test_rows_and_columns_are_encoded_alike():
    """Transposing the grid exchanges the halves of the position."""
    columns, rows = position_map(16, 5, 7).split(8)

    assert torch.equal(position_map(16, 7, 5), torch.cat((rows.mT, columns.mT)))


def test_no_two_cells_share_an_encoding():
    """Cells of the largest published grid, 48 x 48, are told apart."""
    cells = position_map(64, 48, 48, torch.float64).flatten(1).T
    distance = torch.cdist(cells, cells).fill_diagonal_(torch.inf)

    assert distance.min() > 0.5


def test_without_position_only_the_prototype_is_left():
    """Width 0 leaves the position out."""
    prototype = torch.randn(2, 6)

    assert torch.equal(make_anchor(make_concept(prototype), 0, (1, 1)).map[..., 0, 0], prototype)


def test_gradient_reaches_the_prototype():
    """Every cell counts once."""
    prototype = torch.randn(2, 6, requires_grad=True)
    make_anchor(make_concept(prototype), 8, (4, 5)).map.sum().backward()

    assert torch.equal(prototype.grad, torch.full((2, 6), 20.0))


def test_wrong_width_is_refused():
    """The message names the argument."""
    with pytest.raises(ValueError, match="position_dim"):
        make_anchor(make_concept(torch.zeros(1, 3)), 6, (2, 2))


@pytest.mark.parametrize("position_dim", [0, 8])
def test_subtracting_is_subtracting_the_map(position_dim):
    """To the bit, because a channel holds position or prototype."""
    anchor = make_anchor(make_concept(torch.randn(2, 3)), position_dim, (4, 5))
    cells = torch.randn(2, position_dim + 3, 4, 5)
    assert torch.equal(anchor.subtract_from(cells), cells - anchor.map)
