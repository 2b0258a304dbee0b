# SPDX-License-Identifier: Apache-2.0
"""Variations that were tried do what they say, and nothing in inference but where they say so."""

import pytest
import torch
from torch.testing import assert_close

from anomalib_vqflow import VQFlow
from anomalib_vqflow.flows.gaussian import ConceptGaussian
from anomalib_vqflow.quantization import PatternQuantizer, Patterns
from benchmarks.accuracy.plan import read_plan
from benchmarks.accuracy.variations import MixedUpPatterns, Recentered, SoftAssignment
from tests.tiny import ARGUMENTS

from .conftest import SMOKE


def make(kind, **arguments):
    torch.manual_seed(0)
    return kind(**{**ARGUMENTS, **arguments}, input_size=(64, 64), visualizer=False)


def images(count=4):
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def warmed_up(model):
    """A model whose codebooks have seen a few batches."""
    for _ in range(3):
        model.train().model(images())
    return model


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_some_cells_take_the_pattern_of_another_cell(share):
    """In training: the code and its number, as often as asked for, and the same codes in all."""
    model = make(MixedUpPatterns, share=share)
    quantizer = next(module for module in model.modules() if isinstance(module, PatternQuantizer))
    (mix_up,) = quantizer._forward_hooks.values()
    codes, indices = torch.arange(2 * 5 * 400.0).view(2, 5, 20, 20), torch.arange(800).view(2, 20, 20)
    before = Patterns(codes, indices, torch.zeros(()), codes)
    after = mix_up(quantizer.train(), (), before)
    moved = (after.indices != indices).float().mean()
    assert moved == pytest.approx(share, abs=0.1)
    assert ((after.indices // 400) == torch.arange(2)[:, None, None]).all()  # of the same image
    expected = codes.flatten(2).gather(2, (after.indices.flatten(1) % 400)[:, None].expand(-1, 5, -1))
    assert torch.equal(after.codes.flatten(2), expected)
    assert mix_up(quantizer.eval(), (), before) is before
    assert warmed_up(model).eval().model(images()).pred_score.isfinite().all()


def test_what_all_cells_share_is_taken_away():
    """Of the maps that flows see, and not of that which finds the concept."""
    model, plain = make(Recentered), make(VQFlow)
    recentered, features = model.model.see(images()), plain.model.see(images())
    for ours, theirs in zip(recentered.details, features.details, strict=True):
        assert_close(ours.mean(dim=(2, 3)), torch.zeros(ours.shape[:2]), atol=1e-5, rtol=0)
        assert_close(ours - ours[..., :1, :1], theirs - theirs[..., :1, :1], atol=1e-5, rtol=1e-5)
    assert torch.equal(recentered.semantic, features.semantic)


def test_a_far_image_is_of_one_prototype_and_one_between_two_of_both():
    """The Gaussian is that of the weighted prototypes, in inference as well, and its gradient reaches the embedding."""
    model = warmed_up(make(SoftAssignment)).eval()
    codebook = model.model.concept.codebook
    codebook.codes.zero_()
    codebook.codes[0, 0], codebook.codes[1, 0] = 1.0, -1.0
    codebook.code_counts.copy_(torch.tensor([1.0, 1.0, 0.0, 0.0]))  # the other two were never used
    model.temperature.fill_(0.1)
    embedding = torch.zeros(3, 16, requires_grad=True)
    with torch.no_grad():
        embedding[0, 0], embedding[1, 0] = 3.0, -3.0
    codebook(embedding)
    assert_close(model._prototype[:, 0], torch.tensor([1.0, -1.0, 0.0]), atol=1e-4, rtol=0)
    model._prototype[2, 0].backward()
    assert embedding.grad[2, 0] > 0

    used = []
    gaussian = next(module for module in model.modules() if isinstance(module, ConceptGaussian))
    gaussian.register_forward_hook(
        lambda _module, _inputs, arguments, _output: used.append(arguments["c"][0]), with_kwargs=True
    )
    model.model(images())
    assert torch.equal(used[0], model._prototype)


def test_the_temperature_follows_the_distances_of_the_training():
    """And stays as it is afterwards."""
    model = make(SoftAssignment)
    before = model.temperature.clone()
    warmed_up(model)
    trained = model.temperature.clone()
    model.eval().model(images())
    assert trained != before
    assert model.temperature == trained


def test_each_trial_of_the_file_is_one_change():
    """Of the training, or of the model: another backbone, another class, or one argument."""
    definitions = {run.method: run.definition for run in read_plan(SMOKE.with_name("trials.yaml"))}
    plain = definitions.pop("vqflow")
    for definition in definitions.values():
        changed = {key for key in definition if definition[key] != plain[key]}
        arguments = definition["init_args"].items() - plain["init_args"].items()
        assert changed
        assert changed == {"trainer"} or (changed <= {"class_path", "init_args"} and len(arguments) <= 1)
