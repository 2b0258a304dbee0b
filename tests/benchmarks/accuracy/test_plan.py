# SPDX-License-Identifier: Apache-2.0
"""A file asks for runs, each of which is known by all that its result depends on."""

import inspect
import re

import pytest
import yaml

from anomalib_vqflow import VQFlow
from benchmarks.accuracy.building import import_class, instantiate
from benchmarks.accuracy.plan import DATA_KEYS, KEYS, METHOD_KEYS, read_plan
from tests.scripts import ROOT

from .conftest import SMOKE

PLAN = {
    "seeds": [0, 1],
    "trainer": {"accelerator": "cpu"},
    "backbones": {"resnet18": False, "resnet34": "weights.safetensors"},
    "data": {"a": {"class_path": "A", "init_args": {"root": "a"}}, "b": {"class_path": "A", "seed_images": True}},
    "methods": {
        "one": {"class_path": "M", "backbones": {"resnet18": None, "resnet34": {"layers": [1]}}},
        "two": {
            "class_path": "M",
            "backbones": {"resnet18": None},
            "backbone_arguments": ["teacher", "student"],
            "seeds": [7],
            "trainer": {"max_epochs": 3},
        },
    },
}


def write(folder, **changes):
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({**PLAN, **changes}))
    return path


def test_every_combination_is_a_run(tmp_path):
    """Two seeds of one method on two backbones, one of the other on one, on two data sets; the first seed first."""
    runs = read_plan(write(tmp_path))
    assert len(runs) == 2 * (2 * 2 + 1)
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    assert len({run.key for run in runs}) == len(runs)
    (one,) = (run for run in runs if str(run) == "one / resnet34 / a / seed 1")
    assert one.definition["init_args"] == {"backbone": "resnet34", "layers": [1]}
    assert one.definition["weights"] == "weights.safetensors"
    two = next(run for run in runs if run.method == "two")
    assert two.definition["init_args"] == {"teacher": "resnet18", "student": "resnet18"}
    assert two.definition["trainer"] == {"accelerator": "cpu", "max_epochs": 3}


def test_data_take_the_seed_where_they_are_told_to(tmp_path):
    """The datamodule of one entry gets it, that of the other does not."""
    for run in read_plan(write(tmp_path)):
        expected = {"root": "a"} if run.data == "a" else {"seed": run.seed}
        assert run.definition["data"]["init_args"] == expected


def test_the_key_is_of_the_definition(tmp_path):
    """Another name leaves it as it is; another argument anywhere changes it."""
    keys = {run.key for run in read_plan(write(tmp_path))}
    renamed = {"first": PLAN["methods"]["one"], "second": PLAN["methods"]["two"]}
    assert {run.key for run in read_plan(write(tmp_path, methods=renamed))} == keys
    other_weights = {"resnet18": True, "resnet34": True}
    for change in ({"trainer": {"accelerator": "gpu"}}, {"input_size": 64}, {"backbones": other_weights}):
        assert not keys & {run.key for run in read_plan(write(tmp_path, **change))}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {}}, "keys"),
        ({"methods": {"one": {"class_path": "M"}}}, r"methods.one .* keys"),
        ({"data": {"a": {"class_path": "A", "root": "a"}}}, r"data.a .* keys"),
        ({"methods": {"one": {"class_path": "M", "backbones": {"vgg": None}}}}, "vgg"),
        ({"data": {"a": {"class_path": "A"}, "b": {"class_path": "A"}}}, "the same run twice"),
    ],
)
def test_mistakes_are_named(tmp_path, changes, message):
    """What is unknown, missing, or there twice."""
    with pytest.raises(ValueError, match=message):
        read_plan(write(tmp_path, **changes))


def test_the_file_in_the_documentation_is_read(tmp_path):
    """It shows every key."""
    (block,) = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / "accuracy.md").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "plan.yaml").write_text(block)
    assert [run.seed for run in read_plan(tmp_path / "plan.yaml")] == [0, 0, 1, 2]
    assert all(f"{key}:" in block for key in KEYS | METHOD_KEYS | DATA_KEYS)


@pytest.mark.parametrize("name", ["smoke", "dev15"])
def test_the_files_of_the_repository_are_read(name):
    """Each has VQ-Flow, its published recipe, and PatchCore with one bank and with one per category."""
    methods = {run.method for run in read_plan(SMOKE.with_name(f"{name}.yaml"))}
    assert {"vqflow", "vqflow_published", "patchcore_one_bank", "patchcore_bank_per_category"} <= methods


@pytest.mark.parametrize("name", sorted(path.stem for path in SMOKE.parent.glob("*.yaml")))
def test_every_file_of_the_repository_has_models_that_can_be_built(name):
    """Those of ours, but for backbone and size, with their trainer; anomalib's have tests of their own."""
    methods = {run.method: run.definition for run in read_plan(SMOKE.with_stem(name))}
    ours = [method for method in methods.values() if issubclass(import_class(method["class_path"]), VQFlow)]
    assert ours
    for method in ours:
        arguments = instantiate(method["init_args"]) | {"backbone": "test_convnext2", "input_size": 64}
        import_class(method["class_path"])(**arguments, pre_trained=False)
        assert instantiate(method["trainer"])["max_epochs"] > 0


def test_each_part_of_the_ablation_changes_one_thing():
    """Every model can be built, and differs from the default in one argument, which has another value there."""
    runs = [run for run in read_plan(SMOKE.with_name("ablation.yaml")) if run.seed == 0]
    default, *others = ({**run.definition["init_args"], "backbone": "test_convnext2"} for run in runs)
    defaults = {name: parameter.default for name, parameter in inspect.signature(VQFlow).parameters.items()} | default
    changes = []
    for arguments in others:
        VQFlow(**arguments, pre_trained=False, input_size=64)
        changes += [{name: value for name, value in arguments.items() if value != defaults[name]}]
    assert len(changes) > 10
    assert all(len(changed) == 1 for changed in changes)
    assert len({str(changed) for changed in changes}) == len(changes)
