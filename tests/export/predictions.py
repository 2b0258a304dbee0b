# SPDX-License-Identifier: Apache-2.0
"""Images, and what models that predict the same may differ by."""

import numpy as np
import torch
from torchvision.transforms.v2 import Resize

FP32 = {"INFERENCE_PRECISION_HINT": "f32"}  # OpenVINO computes in bfloat16 by default on CPUs that can
TOLERANCE = 1e-4  # of the range of the map


def some_images(batch, size):
    """Draw images of shape ``(B, 3, *size)`` in [0, 1]: noise as in training, with ever less structure."""
    generator = torch.Generator().manual_seed(batch * 1000 + size[0])
    noise = (60 + 40 * torch.rand(batch, 3, *size, generator=generator)) / 255
    coarse = Resize(size)(torch.rand(batch, 3, 4, 4, generator=generator))
    return torch.lerp(noise, coarse, torch.linspace(0.6, 0.2, batch)[:, None, None, None])


def check_equal(actual, expected):
    """Compare predictions; a label may only differ where its score is on the threshold."""
    names = ("anomaly_map", "pred_score", "pred_label")
    as_array = {name: torch.as_tensor(getattr(actual, name)).detach().numpy() for name in names}
    anomaly_map = expected.anomaly_map.numpy()
    tolerance = TOLERANCE * np.ptp(anomaly_map)
    assert tolerance > 0
    np.testing.assert_allclose(as_array["anomaly_map"].reshape(anomaly_map.shape), anomaly_map, atol=tolerance, rtol=0)
    np.testing.assert_allclose(as_array["pred_score"].reshape(-1), expected.pred_score, atol=tolerance, rtol=0)
    clear = np.abs(expected.pred_score.numpy() - 0.5) > tolerance
    assert clear.any()
    np.testing.assert_array_equal(as_array["pred_label"].reshape(-1)[clear], expected.pred_label.numpy()[clear])
