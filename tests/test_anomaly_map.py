# SPDX-License-Identifier: Apache-2.0
"""Tests of the score maps."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from anomalib_vqflow.anomaly_map import (
    COARSER_WEIGHT,
    FREEDOM,
    LOG_DET_WEIGHT,
    AnomalyMapGenerator,
    energies,
    from_unit,
    to_unit,
)
from anomalib_vqflow.score_maps import log_energies

SIZE = (24, 16)
CONCEPT = torch.tensor([0, 2, 0])
RELATIVE = ("multiplicative", "additive")


LEVELS = {"map_levels": None, "score_levels": None}  # two, so both are of all
MAP_WEIGHT = 1.0  # of the log-determinant, for pixels


def latents_and_log_dets(batch=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    shapes = ((4, 6, 4), (6, 3, 2))
    latents = [torch.randn(batch, *shape, generator=rng) for shape in shapes]
    return latents, [torch.randn(batch, *shape[1:], generator=rng) for shape in shapes]


def make_generator(**options):
    return AnomalyMapGenerator(
        num_levels=2,
        num_concepts=3,
        **{"score_map": "likelihood", "top_k_ratio": 0.03, **LEVELS, "map_log_det_weight": MAP_WEIGHT, **options},
    )


def fitted(**options):
    generator = make_generator(**options)
    for seed in range(1, 30):
        generator.observe_(*latents_and_log_dets(8, seed))
    return generator


def test_energies_are_negative_log_likelihoods():
    """Per dimension, up to a constant: of the normal distribution for images, of Student's for pixels."""
    (z, *_), (log_det, *_) = latents_and_log_dets()
    for_images, for_pixels = energies([z], [log_det], 0.7)[0].unbind(dim=1)

    for energy, weight, density in (
        (for_images, LOG_DET_WEIGHT, torch.distributions.Normal(0.0, 1.0)),
        (for_pixels, 0.7, torch.distributions.StudentT(FREEDOM)),
    ):
        log_p = (density.log_prob(z) - density.log_prob(torch.zeros(()))).mean(dim=1)
        assert_close(energy, -log_p - weight * log_det / 4)


def test_the_statistics_are_those_of_the_cells_seen():
    """Over the first hundred batches they are plain means over batches."""
    generator = fitted()
    seen = [energies(*latents_and_log_dets(8, seed), MAP_WEIGHT) for seed in range(1, 30)]

    for level in range(2):
        cells = torch.stack([batch[level].transpose(0, 1).flatten(1) for batch in seen])  # (29, 2, B · h · w)
        assert_close(generator.level_mean[level], cells.mean(dim=(0, 2)))
        assert_close(generator.level_variance[level], cells.var(dim=2, correction=0).mean(dim=0))


def test_the_statistics_follow_a_training_and_forget():
    """After many batches of another scale, the first ones hardly count."""
    generator = fitted()
    latents, log_dets = latents_and_log_dets(8)
    for _ in range(1000):
        generator.observe_([3 * z for z in latents], log_dets)

    expected = torch.stack(
        [level.mean(dim=(0, 2, 3)) for level in energies([3 * z for z in latents], log_dets, MAP_WEIGHT)]
    )
    assert_close(generator.level_mean, expected, rtol=1e-3, atol=0)


def test_a_broken_batch_leaves_the_statistics_alone():
    """NaN in a batch must not poison running means that every later score depends on."""
    generator, (latents, log_dets) = fitted(), latents_and_log_dets()
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    latents[0][0, 0, 0, 0] = torch.nan
    generator.observe_(latents, log_dets)

    assert all(torch.equal(before[name], value) for name, value in generator.state_dict().items())


def standardized(generator, latents, log_dets, column):
    levels = [level[:, [column]] for level in energies(latents, log_dets, MAP_WEIGHT)]
    moments = zip(levels, generator.level_mean[:, column], generator.level_variance[:, column], strict=True)
    return [(level - mean) / variance.sqrt() for level, mean, variance in moments]


def upsampled_mean(levels, weights=(1, 1)):
    upsampled = [F.interpolate(level, SIZE, mode="bilinear", align_corners=False) for level in levels]
    return sum(weight * level for weight, level in zip(weights, upsampled, strict=True)) / sum(weights)


def test_images_are_scored_by_the_mean_of_standardized_levels():
    """Each level counts alike, whatever the scale of its energy."""
    generator, (latents, log_dets) = fitted(), latents_and_log_dets()
    standard = standardized(generator, latents, log_dets, column=0)
    raw = upsampled_mean(standard)

    scores = generator(latents, log_dets, CONCEPT, SIZE)
    assert_close(scores.raw_score_map, raw)
    top = raw.flatten(1).topk(int(0.03 * SIZE[0] * SIZE[1]), dim=1).values.mean(dim=1)
    assert_close(scores.pred_score, to_unit(top))


def test_pixels_are_read_by_the_mean_of_logarithms():
    """A pixel is as high as the geometric mean of what its levels say, so both must say it; less near the border.

    The finer one counts more.
    """
    generator, (latents, log_dets) = fitted(), latents_and_log_dets()
    standard = standardized(generator, latents, log_dets, column=1)
    raw = upsampled_mean(log_energies(standard), (1, COARSER_WEIGHT))

    scores = generator(latents, log_dets, CONCEPT, SIZE)
    assert_close(scores.raw_map, raw)
    assert_close(scores.anomaly_map, to_unit(raw))


def test_the_weight_of_the_log_determinant_is_that_of_pixels():
    """Image scores do not depend on it, and the map with weight 0 not on the log-determinants."""
    latents, log_dets = latents_and_log_dets()
    full, none = (fitted(map_log_det_weight=weight)(latents, log_dets, CONCEPT, SIZE) for weight in (1.0, 0.0))
    assert torch.equal(full.pred_score, none.pred_score)
    assert not torch.equal(full.anomaly_map, none.anomaly_map)
    without = fitted(map_log_det_weight=0.0)(latents, [0 * level for level in log_dets], CONCEPT, SIZE)
    assert_close(without.anomaly_map, none.anomaly_map)


@pytest.mark.parametrize("score_map", ["likelihood", "multiplicative", "additive"])
@pytest.mark.parametrize(("map_levels", "score_levels"), [([0], [1]), ([1], [0, 1])])
def test_map_and_score_are_of_the_levels_asked_for(score_map, map_levels, score_levels):
    """What happens on another level does not matter to them."""
    generator, (latents, log_dets) = fitted(score_map=score_map), latents_and_log_dets()
    generator.map_levels, generator.score_levels = map_levels, score_levels
    plain = generator(latents, log_dets, CONCEPT, SIZE)
    for level in range(2):
        changed = [2 * z if index == level else z for index, z in enumerate(latents)]
        found = generator(changed, log_dets, CONCEPT, SIZE)
        assert torch.equal(found.anomaly_map, plain.anomaly_map) == (level not in map_levels)
        assert torch.equal(found.pred_score, plain.pred_score) == (level not in score_levels)


@pytest.mark.parametrize("levels", [[], [2], [-1], [0, 5]])
@pytest.mark.parametrize("name", ["map_levels", "score_levels"])
def test_levels_that_do_not_exist_are_refused(name, levels):
    """By the name of the argument, with what there is."""
    with pytest.raises(ValueError, match=rf"{name} must name some of the 2 levels, 0 \(the finest\) to 1, got"):
        make_generator(**{name: levels})


def test_energies_far_below_normal_stay_finite():
    """Where softplus is zero in float32."""
    generator, (latents, log_dets) = make_generator(), latents_and_log_dets()
    scores = generator([0 * z for z in latents], [1e5 + log_det for log_det in log_dets], CONCEPT, SIZE)
    assert scores.raw_map.isfinite().all()
    assert scores.anomaly_map.isfinite().all()


def test_the_absolute_map_does_not_depend_on_the_other_images_or_pixels():
    """An image that is wrong everywhere scores higher than one that is wrong in one place."""
    generator, (latents, log_dets) = fitted(), latents_and_log_dets()
    everywhere, here = [5 * z for z in latents], [z.clone() for z in latents]
    here[0][:, :, 2, 2] *= 5

    normal = generator(latents, log_dets, CONCEPT, SIZE).pred_score
    assert (generator(here, log_dets, CONCEPT, SIZE).pred_score > normal).all()
    assert (
        generator(everywhere, log_dets, CONCEPT, SIZE).pred_score > generator(here, log_dets, CONCEPT, SIZE).pred_score
    ).all()
    alone = generator([z[:1] for z in everywhere], [level[:1] for level in log_dets], CONCEPT[:1], SIZE)
    assert_close(alone.pred_score, generator(everywhere, log_dets, CONCEPT, SIZE).pred_score[:1])


@pytest.mark.parametrize("score_map", RELATIVE)
def test_relative_maps_are_blind_to_what_is_wrong_everywhere(score_map):
    """The published maps are relative to the image's best pixel: a constant added to log p changes nothing."""
    generator, (latents, log_dets) = make_generator(score_map=score_map), latents_and_log_dets()
    # One more channel with the same value in all cells adds a constant to every cell's sum of squares.
    louder = [torch.cat((z, torch.full_like(z[:, :1], value)), dim=1) for z, value in zip(latents, (3, 3), strict=True)]
    quieter = [torch.cat((z, torch.zeros_like(z[:, :1])), dim=1) for z in latents]

    assert_close(
        generator(louder, log_dets, CONCEPT, SIZE).anomaly_map, generator(quieter, log_dets, CONCEPT, SIZE).anomaly_map
    )
    assert not generator.needs_log_det


@pytest.mark.parametrize("score_map", ["likelihood", *RELATIVE])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e3, 1e8])
def test_scores_lie_in_the_unit_interval(score_map, scale):
    """Outside it, torchmetrics would apply a sigmoid per batch."""
    generator, (latents, log_dets) = make_generator(score_map=score_map), latents_and_log_dets()
    scores = generator([scale * z for z in latents], log_dets, CONCEPT, SIZE)

    for values in (scores.anomaly_map, scores.pred_score):
        assert values.isfinite().all()
        assert values.min() >= 0
        assert values.max() <= 1


def test_unit_scores_keep_order_far_out():
    """Energies that differ by a percent stay apart in float32, from deep inside the normal to a million deviations."""
    raw = torch.cat((-torch.logspace(1, -2, 200), torch.logspace(-2, 6, 900)))
    unit = to_unit(raw)

    assert (unit.diff() > 0).all()
    assert unit[0] > 0
    assert unit[-1] < 0.95


@pytest.mark.parametrize("score_map", ["likelihood", *RELATIVE])
def test_nan_is_anomalous(score_map):
    """A pixel without likelihood must not pass for normal under any threshold."""
    generator, (latents, log_dets) = make_generator(score_map=score_map), latents_and_log_dets()
    latents[0][1] = torch.nan
    scores = generator(latents, log_dets, CONCEPT, SIZE)

    assert scores.pred_score[1] == 1
    assert (scores.anomaly_map[1] == 1).all()
    assert (scores.pred_score[[0, 2]] < 1).all()


@pytest.mark.parametrize(("name", "value"), [("score_map", "sum"), ("top_k_ratio", 0.0), ("top_k_ratio", 1.1)])
def test_wrong_arguments_are_refused(name, value):
    """The message says what was expected and what came."""
    with pytest.raises(ValueError, match=f"{name} must .* got {value!r}"):
        make_generator(**{name: value})


def test_told_scores_can_be_read_back():
    """Over the range that scores of images have."""
    raw = torch.tensor([-8.0, -1.0, 0.0, 0.5, 3.0, 40.0, 5e3], dtype=torch.double)
    assert_close(from_unit(to_unit(raw)), raw)
