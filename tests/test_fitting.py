# SPDX-License-Identifier: Apache-2.0
from copy import deepcopy

import pytest
import torch
from lightning.pytorch import seed_everything
from sklearn.covariance import oas
from torch.testing import assert_close
from torchvision.transforms.v2 import RandomHorizontalFlip

from anomalib_vqflow import VQFlow, fitting
from anomalib_vqflow.calibration import ConceptCalibration
from anomalib_vqflow.torch_model import VQFlowModel

from .tiny import tiny_data, tiny_engine, tiny_model
from .training import fit, loader


def test_the_whitening_is_fitted_before_the_first_step(tmp_path):
    """What a few training images tell of their maps' covariance becomes the identity, also after loading."""
    model, engine = fit(tmp_path, loader(8, 2), model={"use_whitening": True})

    loaded = VQFlow.load_from_checkpoint(engine.best_model_path)
    images = torch.cat([model.pre_processor.transform(batch.image) for batch in loader(8, 2)])
    for whitening, details in zip(loaded.model.whitenings, model.model.features(images).details, strict=True):
        cells = details.permute(0, 2, 3, 1).flatten(0, 2).detach()
        assert whitening.fitted
        assert whitening([details])[0][0].mean(dim=(0, 2, 3)).abs().max() < 1e-3
        covariance = torch.from_numpy(oas(cells.double().numpy())[0]).float()
        spread = whitening.weight @ covariance @ whitening.weight.T
        assert spread.diagonal().max() < 1.01
        assert (spread - torch.diag(spread.diagonal())).abs().max() < 1e-2


def test_a_resumed_training_keeps_its_whitening(tmp_path):
    """The whitening belongs to the weights: it is fitted once."""
    model, engine = fit(tmp_path, loader(8, 2), model={"use_whitening": True})
    again = tiny_model(use_whitening=True, evaluator=False)
    tiny_engine(tmp_path / "again", max_epochs=2).fit(
        model=again, train_dataloaders=loader(4, 2), ckpt_path=engine.best_model_path
    )

    for ours, theirs in zip(again.model.whitenings, model.model.whitenings, strict=True):
        assert torch.equal(ours.weight, theirs.weight)


@pytest.mark.parametrize("validates", [True, False])
def test_the_scores_are_calibrated_on_the_training_images(root, tmp_path, validates):
    """Also without validation, the checkpoint holds location and scale of the final model's scores of these images."""
    model, engine = tiny_model(evaluator=False), tiny_engine(tmp_path, max_epochs=2, limit_val_batches=int(validates))
    data = tiny_data(root, train_batch_size=8)
    engine.fit(model, datamodule=data)
    calibration = VQFlow.load_from_checkpoint(engine.best_model_path).model.anomaly_map_generator.calibration
    assert calibration.fitted

    images = torch.stack([model.pre_processor.transform(item.image) for item in data.train_data])
    expected = deepcopy(model.model).eval()
    expected.anomaly_map_generator.calibration = ConceptCalibration(calibration.location.numel())
    expected.fit_calibration_([expected.features(images)])
    assert_close(calibration.state_dict(), expected.anomaly_map_generator.calibration.state_dict())
    assert not torch.equal(calibration.location, torch.zeros_like(calibration.location))


@pytest.mark.parametrize(("least", "per_concept", "expected"), [(3, 0, 3), (3, 1, 4), (100, 100, 8)])
def test_many_concepts_are_calibrated_on_more_images(root, tmp_path, monkeypatch, least, per_concept, expected):
    """As many as each concept needs, all there are at most; four concepts, eight images."""
    monkeypatch.setattr(fitting, "NUM_FIT_IMAGES", least)
    monkeypatch.setattr(fitting, "FIT_IMAGES_PER_CONCEPT", per_concept)
    seen, original = [], VQFlowModel.fit_calibration_

    def fit_calibration_(model, batches):
        batches = list(batches)
        seen.extend(len(batch.semantic) for batch in batches)
        return original(model, batches)

    monkeypatch.setattr(VQFlowModel, "fit_calibration_", fit_calibration_)
    data = tiny_data(root)
    tiny_engine(tmp_path, limit_val_batches=0).fit(tiny_model(evaluator=False), datamodule=data)
    assert len(data.train_data) == 8
    assert sum(seen) == expected


def test_calibration_does_not_touch_the_training(root, tmp_path, monkeypatch):
    """It draws no random numbers and changes no weight: without it, a training ends at the same weights."""
    weights = []
    for fits in (True, False):
        if not fits:
            monkeypatch.setattr(VQFlow, "_some_features", lambda *_: iter(()))
            monkeypatch.setattr(VQFlowModel, "fit_calibration_", lambda *_: torch.empty(0))
        seed_everything(0)
        model = tiny_model(evaluator=False)
        augmented = tiny_data(root, train_augmentations=RandomHorizontalFlip())
        tiny_engine(tmp_path, max_epochs=2).fit(model, datamodule=augmented)
        weights.append(dict(model.model.named_parameters()))

    assert_close(weights[0], weights[1], rtol=0, atol=0)


def test_relative_maps_are_not_calibrated(root, tmp_path):
    """The published maps are relative to an image's best pixel, so that shifting them would mean nothing."""
    model = tiny_model(score_map="multiplicative", evaluator=False)
    tiny_engine(tmp_path).fit(model, datamodule=tiny_data(root))

    assert not model.model.anomaly_map_generator.calibration.fitted
