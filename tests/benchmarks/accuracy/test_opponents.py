# SPDX-License-Identifier: Apache-2.0
"""anomalib's models as dev15.yaml names them: built, trained for a step, and scoring each image by itself."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.accuracy.building import build_data, build_model, load_weights_
from benchmarks.accuracy.opponents import BoundedPatchcore, FrugalGreedy
from benchmarks.accuracy.plan import read_plan
from benchmarks.accuracy.running import execute
from benchmarks.accuracy.store import Store
from tests.scripts import ROOT
from tests.tiny import tiny_engine

from .conftest import SMOKE, smoke_runs

TRANSFORMERS = {"dinomaly", "inp_former", "rad"}
SIZE = 64
PLANNED = {run.method: run for run in read_plan(SMOKE.with_name("dev15.yaml")) if run.seed == 0}
TRAINED = sorted(PLANNED.keys() - TRANSFORMERS)


def small(method):
    """A method of the file on small images, with random weights, for a step."""
    data = smoke_runs()["vqflow"].definition["data"]
    definition = {**PLANNED[method].definition, "weights": False, "input_size": SIZE, "data": data}
    definition["init_args"] = {**definition["init_args"]}
    for name, value in {"num_patches": 64, "fiber_batch_size": 16}.items():
        if name in definition["init_args"]:
            definition["init_args"][name] = value
    definition["trainer"] = {"accelerator": "cpu", "max_epochs": 1, "limit_train_batches": 2}
    return PLANNED[method]._replace(definition=definition)


@pytest.mark.slow
@pytest.mark.parametrize("method", TRAINED)
def test_each_is_trained_and_has_a_row(method, tmp_path, monkeypatch):
    """With finite metrics of images and of pixels."""
    monkeypatch.chdir(tmp_path)
    row = execute(small(method), Store(tmp_path / "results"), "")
    assert all(0 <= row["metrics"]["macro"][name] <= 1 for name in ("image_AUROC", "pixel_AUROC", "pixel_AUPRO"))


@pytest.mark.slow
@pytest.mark.parametrize("method", TRAINED)
def test_a_score_does_not_depend_on_the_batch(method, tmp_path, monkeypatch):
    """Else scores of images in different batches would not compare."""
    monkeypatch.chdir(tmp_path)
    definition = {**small(method).definition, "per_category": False}
    (data,) = build_data(definition)
    model = build_model(definition, evaluator=False)
    engine = tiny_engine(tmp_path, limit_val_batches=0, limit_train_batches=2)
    engine.fit(model, datamodule=data)
    model.eval()
    batch = next(iter(data.test_dataloader()))
    images = batch.image if model.pre_processor is None else model.pre_processor(batch.image)
    with torch.no_grad():
        together = model.model(images)
        alone = [model.model(image[None]) for image in images]
    scores = torch.cat([one.pred_score.flatten() for one in alone])
    torch.testing.assert_close(together.pred_score.flatten(), scores, rtol=1e-3, atol=1e-4)
    maps = torch.cat([one.anomaly_map.reshape(1, SIZE, SIZE) for one in alone])
    torch.testing.assert_close(together.anomaly_map.reshape(maps.shape), maps, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", sorted(set(TRAINED) - {"uninet"}))
def test_the_weights_at_hand_fit(method, monkeypatch):
    """Those of ../shared, for every model that is not skipped."""
    monkeypatch.chdir(ROOT)
    if not Path(PLANNED[method].definition["weights"]).is_file():
        pytest.skip("needs ../shared/weights")
    build_model(PLANNED[method].definition, evaluator=False)


def test_there_are_fifteen_categories(monkeypatch):
    """Of two folders, one after the other."""
    monkeypatch.chdir(ROOT)
    if not Path("../shared/more_data").is_dir():
        pytest.skip("needs ../shared/more_data")
    assert len(build_data(PLANNED["vqflow"].definition)[0].categories) == 15
    assert len(build_data(PLANNED["patchcore_bank_per_category"].definition)) == 15


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(TRANSFORMERS))
def test_transformers_are_built(method):
    """At the size of images that is their own."""
    definition = {**PLANNED[method].definition, "weights": False}
    assert build_model(definition, evaluator=False).pre_processor is not None


def test_a_bank_has_its_size(tmp_path, monkeypatch):
    """Chosen among so many patches of each image; all of them if there are fewer."""
    monkeypatch.chdir(tmp_path)
    run = smoke_runs()["patchcore_one_bank"]
    for num_patches, patches_per_image, expected in ((64, 16, 64), (10_000, 3, 3 * 16), (50, None, 50)):
        arguments = {"num_patches": num_patches, "patches_per_image": patches_per_image}
        definition = {**run.definition, "init_args": {**run.definition["init_args"], **arguments}}
        (data,) = build_data(definition)
        model = build_model(definition, evaluator=False)
        assert isinstance(model, BoundedPatchcore)
        tiny_engine(tmp_path, limit_val_batches=0).fit(model, datamodule=data)
        assert len(model.model.memory_bank) == expected


def test_the_greedy_choice_is_anomalibs():
    """The same patches."""
    patches = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    chosen = []
    for kind in (FrugalGreedy, *FrugalGreedy.__bases__):
        torch.manual_seed(0)
        greedy = kind(patches, 0.1)
        greedy.model.fit = lambda _: None
        greedy.model.transform = lambda x: x
        chosen.append(greedy.select_coreset_idxs())
    assert chosen[0] == chosen[1]
    assert len(set(chosen[0])) == 20


def test_very_unlikely_images_differ():
    """Where anomalib's map is 1 for all of them; else it is the same up to a constant."""
    definition = small("uflow").definition
    model = build_model(definition, evaluator=False).model.anomaly_map_generator
    theirs = build_model({**definition, "class_path": "anomalib.models.Uflow"}, evaluator=False)
    theirs = theirs.model.anomaly_map_generator
    usual, unlikely = [torch.rand(1, 4, 8, 8)], [torch.full((2, 4, 8, 8), 7.0)]
    unlikely[0][1] = 8.0
    torch.testing.assert_close(model(usual), theirs(usual) - 1)
    first, second = model(unlikely)
    assert (second > first).all()
    assert (theirs(unlikely) == 1).all()


def test_weights_reach_the_backbone(tmp_path):
    """Those of a file, under timm's names; a file that lacks some is refused."""
    model = build_model(small("fastflow").definition, evaluator=False)
    body = model.model.feature_extractor
    state = {key: torch.rand_like(value.float()) for key, value in body.state_dict().items()}
    save_file(state, tmp_path / "whole.safetensors")
    load_weights_(model, tmp_path / "whole.safetensors")
    assert torch.equal(body.state_dict()["layer2.0.conv1.weight"], state["layer2.0.conv1.weight"])
    del state["layer2.0.conv1.weight"]
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match=r"lacks 1 weights .*layer2\.0\.conv1\.weight"):
        load_weights_(model, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match="no backbone"):
        load_weights_(torch.nn.Linear(1, 1), tmp_path / "whole.safetensors")


def test_layers_that_a_backbone_lacks_are_refused():
    """anomalib would leave them out."""
    definition = small("reverse_distillation").definition
    arguments = {**definition["init_args"], "layers": ["layer1", "layer2", "layer9"]}
    with pytest.raises(ValueError, match="layer9"):
        build_model({**definition, "init_args": arguments}, evaluator=False)


def test_images_are_normalized_as_the_backbone_was_trained():
    """ImageNet's mean and deviation only where they are the backbone's."""
    expected = {"patchcore_one_bank": [0.485, 0.456, 0.406], "fastflow": [0.485, 0.456, 0.406]}
    for method, mean in expected.items():
        assert (
            build_model(small(method).definition, evaluator=False).pre_processor.transform.transforms[-1].mean == mean
        )
    smoke = smoke_runs()["patchcore_one_bank"].definition
    assert build_model(smoke, evaluator=False).pre_processor.transform.transforms[-1].mean == [0.5, 0.5, 0.5]
