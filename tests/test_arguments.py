# SPDX-License-Identifier: Apache-2.0
import inspect

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from anomalib_vqflow import VQFlow
from anomalib_vqflow.arguments import RULES, check_arguments

from .tiny import ARGUMENTS, tiny_model

WRONG = [
    None,
    "",
    "x",
    -1,
    0,
    1.5,
    float("nan"),
    float("inf"),
    True,
    [],
    [0],
    ["x"],
    {},
    object,
    10**13,
    2**63,
    10**400,
]


def test_every_argument_has_a_rule():
    """In the order of the constructor; sizes are read by a function of their own."""
    sizes = {"input_size", "tile_size"}
    assert [*RULES] == [name for name in inspect.signature(VQFlow).parameters if name not in sizes]


def test_defaults_keep_the_rules():
    check_arguments({name: parameter.default for name, parameter in inspect.signature(VQFlow).parameters.items()})


@pytest.mark.parametrize("name", inspect.signature(VQFlow).parameters)
def test_an_argument_works_or_is_refused_by_its_name(name):
    """Whatever it is, no other error comes of it, and what is taken trains a step and predicts."""
    texts = []
    for value in WRONG:
        try:
            model = tiny_model(**{name: value})
        except (ValueError, FileNotFoundError) as error:
            texts.append(str(error))
            continue
        images = torch.rand(2, 3, 64, 64)
        output = model.train().model(images)
        assert model.loss(output.latents, output.log_dets, output.commitment).total.isfinite()
        assert model.eval().model(images).pred_score.isfinite().all()
    assert texts
    assert all(name in text for text in texts), texts


@pytest.mark.parametrize(
    "arguments",
    [
        {"input_size": 64.0},
        {"input_size": (64, 64.0)},
        {"input_size": np.array([64, 64])},
        {"flow_steps": OmegaConf.create([1, 1, 1]), "layers": OmegaConf.create([1, 2, 3])},
        {"num_concepts": np.int64(4), "lr": np.float32(1e-4), "commitment_weight": 1},
    ],
)
def test_equal_values_of_other_types_are_the_same(arguments):
    """Numbers and lists of other libraries, and whole numbers that are floats."""
    model = tiny_model(**arguments)

    for name in arguments:
        assert model.hparams[name] == pytest.approx(tiny_model(layers=[1, 2, 3]).hparams[name])
    assert model.input_size == (64, 64)
    assert ARGUMENTS["num_concepts"] == model.hparams["num_concepts"]
