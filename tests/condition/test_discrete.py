# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from .conditions import BATCH, CONCEPT_DIM, GRIDS, KINDS, NUM_CODES, make_condition


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("lasting", [False, True])
def test_map_cell_by_cell(grid, kind, lasting):
    """A cell holds its code, its position, its prototype, and the prototype once more, as far as the kind has them."""
    condition, _ = make_condition(grid, **kind, lasting=lasting)
    dense = condition.dense()
    columns, rows, concept = condition.anchor.columns, condition.anchor.rows, condition.concept
    half = columns.shape[0]

    assert dense.shape == condition.shape
    for image, row, column in ((0, 0, 0), (BATCH - 1, grid[0] - 1, grid[1] - 1), (1, grid[0] // 2, grid[1] // 2)):
        prototype = concept.prototypes[concept.rows[image]]
        cell = torch.zeros(2 * half + CONCEPT_DIM, dtype=dense.dtype)
        if condition.patterns is not None:
            cell = cell + condition.patterns.codebook[condition.patterns.indices[image, row, column]]
        if condition.anchored:
            cell = cell + torch.cat((columns[:, column], rows[:, row], prototype))
        cell = torch.cat((cell, prototype)) if condition.joined else cell
        assert torch.equal(dense[image, :, row, column], cell)


def test_gradient_passes_straight_through_the_pattern():
    """ĥ' = ⟨PE, ŷ⟩ + Q(h' − ⟨PE, ŷ⟩): its gradient reaches h' unchanged, and cancels in the prototype."""
    condition, (prototypes, query) = make_condition((2, 3), trains=True)
    upstream = torch.randn_like(condition.pattern)
    to_query, to_prototypes = torch.autograd.grad(condition.pattern, (query, prototypes), upstream)

    assert torch.equal(condition.dense()[:, : condition.pattern_dim], condition.pattern)
    assert torch.equal(to_query, upstream)
    assert to_prototypes.abs().max() < 1e-12


@pytest.mark.parametrize(("kind", "expected"), [({}, 12), ({"anchored": False}, 10), ({"patterns": False}, 3)])
def test_rows_per_cell(kind, expected):
    """Nine for the neighborhood's codes, one for the prototype, two for the position."""
    condition, _ = make_condition((5, 4), **kind)

    assert condition.table_rows.shape == (BATCH * 5 * 4, expected)


def test_outside_is_the_code_after_the_last():
    """Taps that leave the map are zero, whatever the cell."""
    condition, _ = make_condition((1, 1))
    codes = condition.table_rows[:, :9] // 9

    assert (codes[:, 4] == condition.patterns.indices.flatten()).all()
    assert (codes[:, [0, 1, 2, 3, 5, 6, 7, 8]] == NUM_CODES).all()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_cells_of_a_row_are_the_inverse_of_rows_of_a_cell(kind):
    """Row by row, the cells that add it up, as often as they do."""
    condition, _ = make_condition((3, 2), **kind)
    cells, starts = condition.row_cells
    ends = [*starts.tolist()[1:], len(cells)]

    assert len(starts) == sum(condition.table_sizes)
    for row, (start, end) in enumerate(zip(starts.tolist(), ends, strict=True)):
        expected = (condition.table_rows == row).nonzero()[:, 0]
        assert torch.equal(cells[start:end], expected)
