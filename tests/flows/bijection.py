# SPDX-License-Identifier: Apache-2.0
"""The harness that everything invertible has to pass."""

from collections.abc import Sequence

import torch
from FrEIA.modules import InvertibleModule
from torch import Tensor, nn
from torch.testing import assert_close


def randomize_(module: nn.Module, scale: float = 0.3) -> None:
    """Move every parameter away from its initialization, because the identity passes everything."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))


def image_log_det(log_det: Tensor | Sequence[Tensor], z: Sequence[Tensor]) -> Tensor:
    """Add up what the cells of ``z`` contribute to ``log|det J|``; shape ``(B,)``."""
    levels = [log_det] if isinstance(log_det, Tensor) else log_det
    return sum(level.expand_as(z_i[:, 0]).sum(dim=(1, 2)) for level, z_i in zip(levels, z, strict=True))


def assert_bijection(
    module: InvertibleModule, x: Sequence[Tensor], c: Sequence[Tensor] = (), atol: float = 1e-8
) -> None:
    """Check that ``module`` inverts and reports its own ``log|det J|``. Use float64 and tiny tensors."""
    z, cell_log_det = module(list(x), list(c))
    x_again, cell_log_det_rev = module(list(z), list(c), rev=True)
    log_det, log_det_rev = image_log_det(cell_log_det, z), image_log_det(cell_log_det_rev, z)

    assert [level.shape for level in z] == [level.shape for level in x]
    for expected, actual in zip(x, x_again, strict=True):
        assert_close(actual, expected, atol=atol, rtol=0)
    assert_close(log_det_rev, -log_det, atol=atol, rtol=0)
    for image in range(x[0].shape[0]):
        one_x, one_c = [t[image : image + 1] for t in x], [t[image : image + 1] for t in c]
        expected = jacobian_log_det(lambda parts, given=one_c: module(parts, given)[0], one_x)
        assert_close(log_det[image], expected, atol=1e-6, rtol=0)
    for rev, given, result in ((False, x, z), (True, z, x_again)):
        without, _ = module(list(given), list(c), rev=rev, jac=False)
        for expected, actual in zip(result, without, strict=True):
            assert torch.equal(actual, expected), "the output must not depend on jac"


def jacobian_log_det(function, x: Sequence[Tensor]) -> Tensor:
    """Compute ``log|det J|`` of a map from maps to maps by autograd, for a batch of one."""
    shapes, sizes = [t.shape for t in x], [t.numel() for t in x]

    def flat(values: Tensor) -> Tensor:
        parts = [part.reshape(shape) for part, shape in zip(values.split(sizes), shapes, strict=True)]
        return torch.cat([t.flatten() for t in function(parts)])

    jacobian = torch.autograd.functional.jacobian(flat, torch.cat([t.flatten() for t in x]))
    return torch.linalg.slogdet(jacobian).logabsdet
