# SPDX-License-Identifier: Apache-2.0
"""The models of the benchmarks are those that the command line names."""

import argparse
import inspect

import numpy as np
import openvino
import pytest
import torch
from torch import nn

from anomalib_vqflow import VQFlow
from tests.scripts import load_script

models = load_script("benchmarks/models.py")


@pytest.fixture
def model(config):
    model = models.build(config, [], None)
    models.randomize_(model)
    return model


def test_pairs_go_before_the_file_and_the_size_before_both(config):
    """Each argument comes from the last that names it: file, pair, size."""
    parser = argparse.ArgumentParser()
    models.add_model_options(parser)
    command = ["concept_dim=8", "input_size=[96, 96]", "--config", str(config), "--input-size", "64", "128"]
    model = models.build(**vars(parser.parse_args(command)))
    assert model.model.concept.codebook.codes.shape == (4, 8)
    assert tuple(model.input_size) == (64, 128)
    assert not model.training


def test_without_a_file_the_rest_are_defaults():
    """The model has the arguments named, and the package's defaults."""
    model = models.build(None, ["backbone=test_convnext2", "hidden_dim=24"], (64, 64))
    default = inspect.signature(VQFlow).parameters["num_patterns"].default
    assert model.hparams["hidden_dim"] == 24
    assert model.hparams["num_patterns"] == default


def test_a_pair_without_a_value_is_refused():
    """A word that is no name=value is an error that shows one."""
    with pytest.raises(ValueError, match="hidden_dim=64"):
        models.build(None, ["hidden_dim"], None)


def test_a_randomized_model_depends_on_code_and_latents(model):
    """No code is zero, and no parameter of the flows, under which they would be the identity."""
    assert all(codebook.codes.any(dim=1).all() for codebook in model.model.pattern_codebooks)
    assert all(parameter.any() for parameter in model.model.flow.parameters())


def test_conditions_are_maps_while_asked_for_and_change_no_score(model):
    """The flows get tensors, and the scores stay the same up to rounding; afterwards all is as before."""
    images, seen = torch.rand(2, 3, 64, 64), []
    hook = model.model.conditions.register_forward_hook(lambda *arguments: seen.append(arguments[-1].details[0]))
    with torch.no_grad():
        looked_up = model.model(images)
        hook.remove()
        with models.dense_conditions(model.model):
            hook = model.model.conditions.register_forward_hook(
                lambda *arguments: seen.append(arguments[-1].details[0])
            )
            plain = model.model(images)
        hook.remove()
    assert [isinstance(condition, torch.Tensor) for condition in seen] == [False, True]
    torch.testing.assert_close(plain.anomaly_map, looked_up.anomaly_map)
    assert not model.model.conditions._forward_hooks


def test_backbone_and_flow_side_are_the_whole_model(model):
    """One after the other, they score images as the model does."""
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        score, anomaly_map = models.FlowSide(model)(models.Backbone(model)(images))
        whole = model.model(images)
    assert torch.equal(score, whole.pred_score)
    assert torch.equal(anomaly_map, whole.anomaly_map)


def test_drawn_features_have_the_shapes_of_the_backbone(model):
    """So that the flow side takes them."""
    drawn, seen = models.draw_features(model, 3), model.model.features(torch.rand(3, 3, 64, 64))
    assert [level.shape for level in (*drawn.details, drawn.semantic)] == [
        level.shape for level in (*seen.details, seen.semantic)
    ]


class Scaled(nn.Module):
    """Scale one map, or several."""

    def forward(self, maps):
        return 2 * maps if isinstance(maps, torch.Tensor) else tuple(2 * level for level in maps)


@pytest.mark.slow
@pytest.mark.parametrize("any_batch", [True, False])
@pytest.mark.parametrize("num_maps", [None, 2])
def test_modules_are_exported_for_one_image_or_any_number(tmp_path, num_maps, any_batch):
    """OpenVINO computes what the module does, and nothing but the model's own files is left."""
    one = torch.rand(1, 3, 4, 4)
    example = one if num_maps is None else tuple(one + index for index in range(num_maps))
    path = models.export_openvino(Scaled().eval(), example, tmp_path / "new" / "model.xml", any_batch=any_batch)
    assert {file.suffix for file in path.parent.iterdir()} == {".xml", ".bin"}
    compiled = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    batch = 3 if any_batch else 1
    inputs = [np.random.default_rng(index).random((batch, 3, 4, 4), dtype=np.float32) for index in range(num_maps or 1)]
    outputs = compiled(inputs)
    for index, value in enumerate(inputs):
        np.testing.assert_allclose(outputs[index], 2 * value, rtol=1e-6)


def test_other_options_override_the_configuration():
    """Names lose their dashes."""
    assert models.configuration_overrides(["--trainer.max_epochs", "5"]) == {"trainer.max_epochs": "5"}
