# SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace

import pytest
import torch
from anomalib.data import ImageBatch
from torchvision.tv_tensors import Mask

from anomalib_vqflow import VQFlow
from anomalib_vqflow.conformal import concept_thresholds, conformal_limit
from anomalib_vqflow.outputs import Prediction
from anomalib_vqflow.post_processor import SeparatingPostProcessor

from .tiny import tiny_data, tiny_engine, tiny_model

MODEL = SimpleNamespace(hparams={"num_concepts": 3})


def predictions(count=300, anomalous=0, seed=0):
    """Draw a batch of scores and maps, of three concepts on scales of their own; the last ones are anomalous."""
    generator = torch.Generator().manual_seed(seed)
    concept = torch.randint(3, (count,), generator=generator)
    label = torch.arange(count) >= count - anomalous
    score = torch.rand(count, generator=generator) + 10 * concept + 30 * label
    maps = torch.rand(count, 1, 8, 8, generator=generator) * (concept + 1).view(-1, 1, 1, 1)
    batch = ImageBatch(image=torch.zeros(count, 3, 8, 8), pred_score=score, anomaly_map=maps, gt_label=label)
    batch.concept = concept
    return batch


def fitted(batch, **arguments):
    processor = SeparatingPostProcessor(**arguments)
    processor.on_validation_batch_end(None, MODEL, batch)
    processor.on_validation_epoch_end(None, MODEL)
    return processor


def test_no_label_without_a_threshold():
    """Before validation, scores stay raw and labels unknown, batch by batch and in inference; after it, known."""
    maps = torch.linspace(0, 0.9, 2 * 64).view(2, 1, 8, 8)

    def batch():
        return ImageBatch(
            image=torch.zeros(2, 3, 8, 8),
            pred_score=torch.tensor([0.2, 0.9]),
            anomaly_map=maps.clone(),
            gt_label=torch.tensor([False, True]),
            gt_mask=Mask(maps.squeeze(1) > 0.6),
        )

    processor = SeparatingPostProcessor()
    predicted = batch()
    processor.post_process_batch(predicted)
    inferred = processor(batch())
    for found in (predicted, inferred):
        assert found.pred_label is None
        assert found.pred_mask is None
        assert torch.equal(found.pred_score.float(), torch.tensor([0.2, 0.9]))
    processor = fitted(batch())
    assert processor(batch()).pred_label.tolist() == [False, True]
    assert torch.equal(processor(batch()).pred_mask.view_as(maps), maps > 0.6)
    processor.reset_()
    assert processor(batch()).pred_label is None


@pytest.mark.parametrize("rate", [0.2, 0.05])
def test_a_rate_is_kept_by_normal_images_alone(rate):
    """Anomalous images have no influence, and the share above the thresholds is that of split conformal prediction."""
    mixed = predictions(400, anomalous=100)

    processor = fitted(mixed, false_alarm_rate=rate, per_concept=False)

    held_out = mixed.pred_score[:300]
    assert processor.image_threshold.item() == conformal_limit(held_out, rate).threshold
    peaks = mixed.anomaly_map[:300].flatten(1).amax(1)
    assert processor.pixel_threshold.item() == conformal_limit(peaks, rate).threshold


def test_concepts_have_their_own_thresholds():
    """Labels and masks are those of each concept's threshold, batch by batch and in inference, and 0.5 is between."""
    processor = fitted(predictions(seed=1), false_alarm_rate=0.1, pixel_false_alarm_rate=0.05)
    batch = predictions(100, seed=2)
    held_out, concepts = processor.normal_scores, processor.normal_scores[:, 2].long()
    limits = torch.from_numpy(concept_thresholds(held_out[:, 0].numpy(), concepts.numpy(), 3, 0.1))[batch.concept]
    peak_limits = torch.from_numpy(concept_thresholds(held_out[:, 1].numpy(), concepts.numpy(), 3, 0.05))[
        batch.concept
    ].view(-1, 1, 1)
    labels, masks = batch.pred_score > limits, batch.anomaly_map > peak_limits

    inferred = processor(Prediction(batch.pred_score, None, batch.anomaly_map[:, None], None, batch.concept))
    processor.post_process_batch(batch)

    for found in (inferred, batch):
        assert torch.equal(found.pred_label, labels)
        assert torch.equal(found.pred_mask.view_as(masks), masks)
        assert torch.equal(found.pred_score > 0.5, labels)
    assert 0 < labels.float().mean() < 0.2


def test_without_anomalies_a_rate_of_one_percent_is_kept():
    """Where no F1 score exists, normal images set the threshold; without masks, that of pixels."""
    without, some = fitted(predictions()), fitted(predictions(400, anomalous=100))

    assert without.image_threshold.item() == conformal_limit(predictions().pred_score, 0.01).threshold
    assert torch.equal(some.image_offsets, torch.zeros(0))
    assert 21 < some.image_threshold < 31
    assert len(some.pixel_offsets) == 3


def test_too_few_images_are_told():
    """Whoever asks for more than the images can promise gets to know what they promise and how many are needed."""
    with pytest.warns(UserWarning, match=r"image threshold .* by 9 .* 10\.0% .* not 1\.0%, for which 99 are"):
        fitted(predictions(9))


def test_the_rate_can_be_changed_after_the_training():
    """Another rate gives what a training with it would have given, also in a model that was loaded."""
    trained = fitted(predictions(), false_alarm_rate=0.2)
    loaded = SeparatingPostProcessor()
    loaded.load_state_dict(trained.state_dict())
    loaded.load_checkpoint_config(trained.checkpoint_config())

    loaded.set_false_alarm_rate(0.05, pixel=0.1)

    other = fitted(predictions(), false_alarm_rate=0.05, pixel_false_alarm_rate=0.1)
    assert loaded.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert loaded.checkpoint_config() == other.checkpoint_config()


def test_a_rate_needs_normal_images():
    """Without normal validation images there is nothing to set a threshold by, whenever one asks."""
    with pytest.raises(ValueError, match="no scores of normal validation images"):
        SeparatingPostProcessor().set_false_alarm_rate(0.1)


@pytest.mark.parametrize("name", ["false_alarm_rate", "pixel_false_alarm_rate"])
@pytest.mark.parametrize("rate", [0, 1, -0.1, 2, "0.1", float("nan")])
def test_rates_that_are_none_are_refused(name, rate):
    """A share is above 0 and below 1."""
    with pytest.raises(ValueError, match=f"`{name}` above 0 and below 1"):
        SeparatingPostProcessor(**{name: rate})


@pytest.mark.parametrize("mode", ["none", "from_train"])
def test_trainings_without_anomalies_in_validation(root, tmp_path, mode, recwarn):
    """Normal images set the threshold: held-out ones or, with a warning, those of the training; none is bad."""
    model, engine = tiny_model(), tiny_engine(tmp_path)
    datamodule = tiny_data(root, val_split_mode=mode)
    engine.train(model, datamodule=datamodule)

    loaded = VQFlow.load_from_checkpoint(engine.best_model_path)
    normal = datamodule.train_data if mode == "none" else datamodule.val_data
    assert not any(loaded(normal[i].image[None]).pred_label for i in range(len(normal)))
    assert model.evaluator.results["image_F1Score"].notna().any()
    warned = any("expect more false alarms" in str(warning.message) for warning in recwarn)
    assert warned == (mode == "none")


def test_a_training_with_a_rate(root, tmp_path):
    """A post-processor with a rate is trained, saved and loaded with its thresholds, and exported with them."""
    model = tiny_model(post_processor=SeparatingPostProcessor(false_alarm_rate=0.3))
    engine = tiny_engine(tmp_path)
    datamodule = tiny_data(root)
    engine.train(model, datamodule=datamodule)

    loaded = VQFlow.load_from_checkpoint(engine.best_model_path)

    assert loaded.post_processor.false_alarm_rate == 0.3
    assert len(loaded.post_processor.image_offsets) == 4
    images = torch.stack([datamodule.test_data[i].image for i in range(len(datamodule.test_data))])
    for value, other in zip(model.eval()(images), loaded(images), strict=True):
        assert torch.equal(value, other)


@pytest.mark.parametrize("offsets", [[], [0.5, -0.5]])
def test_an_added_concept_has_the_common_threshold(offsets):
    """Also where others have thresholds of their own."""
    post = SeparatingPostProcessor()
    post.num_concepts, post.image_offsets, post.pixel_offsets = 2, torch.tensor(offsets), torch.tensor(offsets)
    post.append_concept_()
    assert post.num_concepts == 3
    for found in (post.image_offsets, post.pixel_offsets):
        assert found.tolist() == ([*offsets, 0.0] if offsets else [])
