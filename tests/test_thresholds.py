# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import F1AdaptiveThreshold
from torchvision.tv_tensors import Mask

from anomalib_vqflow import VQFlow
from anomalib_vqflow.thresholds import MARGIN, SeparatingPostProcessor, SeparatingThreshold

from .tiny import tiny_data, tiny_engine, tiny_model


def threshold_of(scores, labels):
    metric = SeparatingThreshold(fields=["pred_score", "gt_label"])
    for score, label in zip(scores.split(3), labels.split(3), strict=True):
        metric.update(ImageBatch(image=torch.zeros(len(score), 3, 8, 8), pred_score=score, gt_label=label))
    return metric.compute()


def best_f1(scores, labels):
    f1 = []
    for threshold in scores:
        found = scores >= threshold
        f1.append(2 * (found & labels).sum() / (found.sum() + labels.sum()))
    return torch.stack(f1).max()


@pytest.mark.parametrize("seed", range(20))
def test_the_threshold_lies_between_scores_and_reaches_the_best_f1(seed):
    """Calling anomalous what is above it has the best F1 score of all thresholds, and no score is near it."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(12) % 3 == 0
    scores = (torch.randint(100, (12,), generator=generator) + 30 * labels) / 130

    threshold = threshold_of(scores, labels)

    found = scores > threshold
    f1 = 2 * (found & labels).sum() / (found.sum() + labels.sum())
    assert f1 == best_f1(scores, labels)
    assert (scores - threshold).abs().min() >= min(0.5 / 130, MARGIN * (scores.max() - scores.min())) * 0.99


def test_anomalib_s_threshold_loses_an_image():
    """What this is for: the image at which the best F1 score was found is not found."""
    scores, labels = torch.tensor([0.1, 0.2, 0.8, 0.9]), torch.tensor([False, False, True, True])
    metric = F1AdaptiveThreshold(fields=["pred_score", "gt_label"])
    metric.update(ImageBatch(image=torch.zeros(4, 3, 8, 8), pred_score=scores, gt_label=labels))

    assert not (metric.compute() < scores)[2]


@pytest.mark.parametrize("anomalous", [False, True])
def test_scores_of_one_kind_are_all_on_their_side(anomalous):
    """With normal images only, the threshold is above all of them; with anomalous ones only, below."""
    scores = torch.tensor([0.3, 0.5, 0.4])

    threshold = threshold_of(scores, torch.full((3,), anomalous))

    assert ((scores > threshold) == anomalous).all()


def test_no_label_without_a_threshold():
    """Before validation, scores stay raw and labels unknown, batch by batch and in inference; after it, known."""
    processor = SeparatingPostProcessor()
    maps = torch.linspace(0, 0.9, 2 * 64).view(2, 1, 8, 8)

    def batch():
        return ImageBatch(
            image=torch.zeros(2, 3, 8, 8),
            pred_score=torch.tensor([0.2, 0.9]),
            anomaly_map=maps.clone(),
            gt_label=torch.tensor([False, True]),
            gt_mask=Mask(maps.squeeze(1) > 0.6),
        )

    predicted = batch()
    processor.post_process_batch(predicted)
    inferred = processor(batch())
    for found in (predicted, inferred):
        assert found.pred_label is None
        assert found.pred_mask is None
        assert torch.equal(found.pred_score.float(), torch.tensor([0.2, 0.9]))
    processor.on_validation_batch_end(None, None, batch())
    processor.on_validation_epoch_end(None, None)
    assert processor(batch()).pred_label.tolist() == [False, True]
    assert torch.equal(processor(batch()).pred_mask.view_as(maps), maps > 0.6)
    processor.reset_()
    assert processor(batch()).pred_label is None


def test_pixels_without_a_threshold_of_their_own():
    """Without masks, pixels share the images' threshold, unless that is switched off: then they have no mask."""
    batch = ImageBatch(
        image=torch.zeros(2, 3, 8, 8),
        pred_score=torch.tensor([0.2, 0.9]),
        anomaly_map=torch.rand(2, 1, 8, 8),
        gt_label=torch.tensor([False, True]),
    )
    for matching in (True, False):
        processor = SeparatingPostProcessor(enable_threshold_matching=matching)
        processor.on_validation_batch_end(None, None, batch)
        processor.on_validation_epoch_end(None, None)
        found = processor(batch)
        assert found.pred_label is not None
        assert (found.pred_mask is not None) == matching


@pytest.mark.parametrize("data", [{"val_split_mode": "none"}, {"val_split_mode": "from_train"}])
def test_trainings_without_anomalies_in_validation(root, tmp_path, data, capsys, recwarn):
    """Without validation there are no labels, and dashes in the table; with normal images, none of them is bad."""
    model, engine = tiny_model(), tiny_engine(tmp_path)
    datamodule = tiny_data(root, **data)
    engine.train(model, datamodule=datamodule)

    known = data["val_split_mode"] == "from_train"
    loaded = VQFlow.load_from_checkpoint(engine.best_model_path)
    labels = [loaded(datamodule.test_data[i].image[None]).pred_label for i in range(len(datamodule.test_data))]
    assert all((label is not None) == known for label in labels)
    assert model.evaluator.results["image_F1Score"].notna().any() == known
    assert known or any("No threshold was set" in str(warning.message) for warning in recwarn)
    if known:
        normal = datamodule.val_data
        assert not any(loaded(normal[i].image[None]).pred_label for i in range(len(normal)))
    else:
        assert "\N{EN DASH}" in capsys.readouterr().out
