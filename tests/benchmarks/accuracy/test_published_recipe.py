# SPDX-License-Identifier: Apache-2.0
"""The published recipe has the faults and the schedule that it is known for."""

import pytest
import torch
from anomalib.data import ImageBatch

from anomalib_vqflow.flows.gaussian import ConceptGaussian
from anomalib_vqflow.quantization import Codebook
from anomalib_vqflow.score_maps import MAPS
from anomalib_vqflow.top_mean import top_mean
from benchmarks.accuracy.published_recipe import NormalCodebook, PublishedRecipe
from tests.tiny import ARGUMENTS


@pytest.fixture
def model():
    torch.manual_seed(0)
    return PublishedRecipe(**{**ARGUMENTS, "lr": 1.0, "use_whitening": True}, input_size=(64, 64), visualizer=False)


def test_its_switches_win(model):
    """Whatever the run asks for."""
    assert model.lr == 1e-4
    assert model.lr_schedule == "constant"
    assert not model.model.whitenings


def test_all_codebooks_begin_at_random(model):
    """Codes of N(0, 1) with empty counts, in the concepts and at every level."""
    books = [module for module in model.modules() if isinstance(module, Codebook)]
    assert len(books) == 1 + 4
    assert all(type(book) is NormalCodebook and not book.code_counts.any() for book in books)
    codes = torch.cat([book.codes.flatten() for book in books])
    assert codes.std() == pytest.approx(1, abs=0.1)


def test_a_step_loses_the_codes_that_no_vector_chose():
    """They move out of reach for good, so that all vectors share the code that most chose."""
    torch.manual_seed(0)
    book = NormalCodebook(Codebook(num_codes=32, code_dim=16, novelty=0.0)).train()
    x = 0.1 * torch.randn(64, 16) + 1
    used = torch.zeros(32, dtype=torch.bool)
    used[book.nearest(x)] = True
    book(x)
    assert (book.codes[~used].norm(dim=1) > 1e4).all()
    assert (book.codes[used].norm(dim=1) < 1e3).all()
    for _ in range(20):
        book(x)
    assert set(book.nearest(x).tolist()) <= set(used.nonzero().flatten().tolist())


def test_the_gaussian_has_no_log_determinant(model):
    """Whatever its scale."""
    images = torch.rand(2, 3, 64, 64)
    before = model.train().model(images).log_dets
    gaussians = [module for module in model.modules() if isinstance(module, ConceptGaussian)]
    assert len(gaussians) == 3
    for gaussian in gaussians:
        gaussian.log_std.bias.data.fill_(2.0)
        assert not gaussian((torch.rand(1, gaussian.mean.out_features, 2, 2),), (torch.rand(1, 16),))[1].any()
    assert all(log_det.isfinite().all() for log_det in before)


def test_one_map_detects_and_another_localizes(model):
    """Both are relative to the best pixel of their own image."""
    images = torch.rand(3, 3, 64, 64)
    model.eval()
    with torch.no_grad():
        batch = model.validation_step(ImageBatch(image=images))
        latents, *_ = model.model.encode(model.model.features(images))
    log_p = [-0.5 * z.square().mean(dim=1, keepdim=True) for z in latents]
    torch.testing.assert_close(batch.anomaly_map, MAPS["additive"](log_p, (64, 64))[:, 0])
    torch.testing.assert_close(batch.pred_score, top_mean(MAPS["multiplicative"](log_p, (64, 64)), 0.03))
    assert not batch.anomaly_map.amin(dim=(1, 2)).any()
