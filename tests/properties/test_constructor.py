# SPDX-License-Identifier: Apache-2.0
import inspect
from typing import get_args

import torch
from hypothesis import given
from hypothesis import strategies as st

from anomalib_vqflow import VQFlow
from anomalib_vqflow.anomaly_map import ScoreMap
from anomalib_vqflow.features import DetailPooling
from tests.tiny import tiny_model

from .oracle import Difference, judge
from .values import ANYTHING

VALID = {
    "backbone": st.sampled_from(("test_convnext2", "vqflow_tiny")),
    "layers": st.sampled_from((None, [1, 2, 3], (-4, -3, -1), ["stages.0", [1], 2])),
    "detail_pooling": st.sampled_from(get_args(DetailPooling)),
    "pre_trained": st.just(value=False),
    "input_size": st.one_of(st.integers(32, 80), st.tuples(st.integers(32, 80), st.integers(32, 80))),
    "tile_size": st.one_of(st.none(), st.just(32)),
    "concept_dim": st.integers(1, 20),
    "num_concepts": st.integers(1, 20),
    "concept_novelty": st.floats(0, 4),
    "position_dim": st.integers(0, 5).map(lambda number: 4 * number),
    "num_patterns": st.integers(1, 20),
    "quantization": st.sampled_from(("residual", "independent")),
    "flow_steps": st.lists(st.integers(1, 2), min_size=3, max_size=3),
    "hidden_dim": st.one_of(st.none(), st.integers(1, 20)),
    "second_kernel_size": st.sampled_from((1, 3, 5)),
    "affine_clamp": st.floats(0.1, 4),
    "whitening_noise": st.floats(0, 1),
    "commitment_weight": st.floats(0, 2),
    "tail_weight": st.floats(0, 1),
    "lr": st.floats(1e-6, 1),
    "warmup_ratio": st.floats(0, 1),
    "lr_schedule": st.sampled_from(("constant", "cosine")),
    "score_map": st.sampled_from(get_args(ScoreMap)),
    "top_k_ratio": st.floats(0.01, 1),
    "map_levels": st.sampled_from((None, [1], (0, 1, 2))),
    "map_log_det_weight": st.sampled_from((0, 0.25, 1.0)),
    "score_levels": st.sampled_from((None, [2], (0, 2))),
    **{name: st.booleans() for name in inspect.signature(VQFlow).parameters if name.startswith("use_")},
    **{name: st.booleans() for name in ("pre_processor", "post_processor", "evaluator", "visualizer")},
}


@st.composite
def arguments(draw):
    """Draw arguments, of which one may be anything, and their names if that is so."""
    given = draw(st.fixed_dictionaries({}, optional=VALID))
    if draw(st.booleans()):
        return given, ()
    name = draw(st.sampled_from(tuple(inspect.signature(VQFlow).parameters)))
    given[name] = draw(ANYTHING)
    return given, (name,)


@given(arguments())
def test_a_model_is_built_or_an_argument_is_named(drawn):
    """Of sound arguments a model is built that predicts; of others, too, or an error names one that is unsound."""
    given, odd = drawn

    def build():
        model = tiny_model(**given)
        return model(torch.rand(1, 3, *model.model.input_size))

    def compare(prediction):
        if not prediction.anomaly_map.isfinite().all():
            yield Difference("the anomaly map is not finite", odd)

    judge("constructor", build, compare, odd)
