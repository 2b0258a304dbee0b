# SPDX-License-Identifier: Apache-2.0
"""A state of another length can be loaded."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from anomalib_vqflow.buffers import resize_buffers_


class Grown(nn.Module):
    def __init__(self, length: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.rand(length, 2))
        self.register_buffer("fixed", torch.rand(3))

    rows: Tensor

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        resize_buffers_(self, ("rows",), state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


@pytest.mark.parametrize("lengths", [(0, 4), (4, 0), (2, 4)])
def test_the_module_takes_the_length_of_the_state(lengths):
    """Within others, whichever is longer."""
    module, other = (nn.Sequential(Grown(1), Grown(length)) for length in lengths)
    module.load_state_dict(other.state_dict())
    assert_close(module.state_dict(), other.state_dict(), rtol=0, atol=0)
    assert isinstance(module[1].get_buffer("rows"), Tensor)


def test_a_missing_buffer_is_still_missed():
    """And keeps its values where that is allowed."""
    module = Grown(2)
    before = module.rows.clone()
    state = {"fixed": module.fixed}
    with pytest.raises(RuntimeError, match="rows"):
        module.load_state_dict(state)
    module.load_state_dict(state, strict=False)
    assert torch.equal(module.rows, before)
