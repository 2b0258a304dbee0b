# SPDX-License-Identifier: Apache-2.0
"""Every configuration file is what it says, and trains."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from anomalib.engine import Engine
from anomalib.models import AnomalibModule
from lightning.pytorch import seed_everything

from anomalib_vqflow import VQFlow
from anomalib_vqflow.backbones import weights_license

from .data.folders import make_category
from .reference import SHARED

ROOT = Path(__file__).parents[1]
CONFIGS = {path.stem: path for path in sorted((ROOT / "configs").glob("*.yaml"))}
PUBLISHED = {"mvtec_ad": 15, "visa": 12}  # categories
PAPER_AND_RELEASE = {
    "backbone": "convnextv2_base",
    "layers": None,
    "detail_pooling": "stride_2",
    "semantic_level": False,
    "prefix_tokens": False,
    "pre_trained": True,
    "input_size": [384, 384],
    "tile_size": None,
    "concept_dim": 512,
    "num_concepts": 32,
    "concept_novelty": 0.0,
    "position_dim": 64,
    "num_patterns": 512,
    "quantization": "residual",
    "use_patterns": True,
    "flow_steps": [2, 5, 8],
    "hidden_dim": None,
    "second_kernel_size": 3,
    "affine_clamp": 1.9,
    "use_concept_gaussian": True,
    "use_fusion": True,
    "use_whitening": False,
    "commitment_weight": 1.0,
    "tail_weight": 0.0,
    "lr": 1e-4,
    "warmup_ratio": 10 / 60,
    "lr_schedule": "constant",
    "top_k_ratio": 0.03,
    "map_levels": [0, 1, 2],
    "score_levels": [0, 1, 2],
}
# The paper and the release have two maps without log-determinant; see the files.
PUBLISHED_ARGUMENTS = {**PAPER_AND_RELEASE, "score_map": "likelihood", "map_log_det_weight": 1.0}
NARROW = {
    "model.backbone": "test_convnext2",
    "model.concept_dim": 16,
    "model.position_dim": 8,
    "model.num_patterns": 8,
    "model.hidden_dim": 16,
}
FAST = {
    "model.pre_trained": "false",
    "model.input_size": "[64,64]",
    "data.num_workers": 0,
    "data.train_batch_size": 4,
    "trainer.accelerator": "cpu",
    "trainer.max_epochs": 1,
    "trainer.logger": "false",
    "trainer.enable_progress_bar": "false",
}
WHOLE_PATCHES = {"dinov2": {"model.input_size": "[56,56]"}}  # of 14 pixels
GPU_FEATURES = {  # shapes of the levels, and the name of the license in the head
    "dinov2": ([(384, 28, 28)] * 3, "Apache-2.0"),
    "dinov3_convnext": ([(192, 48, 48), (384, 24, 24), (768, 12, 12)], "DINOv3 License"),
}
VISA = "candle capsules cashew chewinggum fryum macaroni1 macaroni2 pcb1 pcb2 pcb3 pcb4 pipe_fryum"
MVTEC_AD = (
    "bottle cable capsule carpet grid hazelnut leather metal_nut pill screw tile toothbrush transistor wood zipper"
)


def read(name):
    return yaml.safe_load(CONFIGS[name].read_text())


def small_data(name, folder):
    """Write the data that a configuration asks for, small, and return what to override."""
    if name == "quick_start":
        counts = {"image_size": 64, "num_train": 4, "num_test_good": 2, "num_test_defective": 7}
        return {"data.root": folder, **{f"data.{argument}": value for argument, value in counts.items()}}
    names = {"mvtec_ad": MVTEC_AD, "visa": VISA}.get(name, "bolt nut")
    for category in names.split():
        make_category(folder / "visa_pytorch" if name == "visa" else folder, category)
    return {"data.root": folder}


def arguments(name):
    return read(name)["model"]["init_args"]


def plain(value):
    return list(value) if isinstance(value, tuple) else value


def test_there_is_a_configuration_for_every_use():
    """There is one for the published results, for own data, for the quick start, and for a CPU."""
    assert {"mvtec_ad", "visa", "folder", "quick_start", "light_cpu"} <= set(CONFIGS)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations_are_the_paper_and_the_release(name):
    """They say everything that decides what the model is and how it learns, whatever the defaults are."""
    assert arguments(name) == PUBLISHED_ARGUMENTS
    components = {"pre_processor", "post_processor", "evaluator", "visualizer"}
    without_effect = {"whitening_noise"}  # there is no whitening
    assert arguments(name).keys() == inspect.signature(VQFlow).parameters.keys() - components - without_effect


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_training(name):
    """The published training has 60 epochs in batches of 16, a warm-up of 10, and gradients clipped at norm 2."""
    config = read(name)
    assert config["trainer"]["max_epochs"] == 60
    assert config["trainer"]["gradient_clip_val"] == 2
    assert config["data"]["init_args"]["train_batch_size"] == 16
    assert round(60 * arguments(name)["warmup_ratio"]) == 10


@pytest.mark.slow
def test_the_published_model_has_the_published_size():
    """The flow side of the release has 309 million trainable parameters, and its backbone 87.7 million."""
    model = VQFlow(**{**arguments("mvtec_ad"), "pre_trained": False}).model
    frozen = sum(parameter.numel() for parameter in model.features.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert frozen == pytest.approx(87.7e6, rel=1e-3)
    assert trained == pytest.approx(309e6, rel=2e-3)


@pytest.mark.parametrize("name", GPU_FEATURES)
def test_configurations_of_todays_features_build(name):
    """At their own size, with random weights; the head names the license of the weights and says what is estimated."""
    shapes, license_name = GPU_FEATURES[name]
    model = VQFlow(**{**arguments(name), "pre_trained": False}).model
    assert model.features.detail_shapes == shapes
    assert model.features.token_channels == (5 * 384 if name == "dinov2" else 0)

    head = " ".join(CONFIGS[name].read_text().partition("model:")[0].replace("#", " ").split())
    assert license_name.lower().replace(" ", "-") == weights_license(arguments(name)["backbone"])
    assert license_name in head
    assert "An estimate, never measured." in head
    assert "accuracy was not measured" in head


@pytest.mark.slow
@pytest.mark.parametrize("name", GPU_FEATURES)
def test_the_heads_count_as_the_benchmark_does(name):
    """GMAC of the backbone and of the rest, which ``benchmarks/cost.py --plain`` prints."""
    arguments = [sys.executable, ROOT / "benchmarks" / "cost.py", "--plain", "--config", CONFIGS[name]]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True, timeout=600)
    rows = [[cell.strip() for cell in line.split("|")] for line in done.stdout.splitlines() if line.startswith("| ")]
    macs = {row[1]: float(row[3]) for row in rows[1:]}  # the first is the head
    numbers = f"{macs['backbone']:.1f}", f"{macs['all'] - macs['backbone']:.1f}"
    head = CONFIGS[name].read_text().partition("model:")[0]
    flops = 2 * (float(numbers[0]) + 3 * float(numbers[1]))
    assert f"2 x ({numbers[0]} + 3 x {numbers[1]})" in head
    assert f"{flops:.0f}e9 x 3629 x 60 = {flops * 3629 * 60 / 1e7:.1f}e16" in head


@pytest.mark.parametrize("name", sorted(CONFIGS.keys() - PUBLISHED))
def test_other_configurations_repeat_no_default(name):
    """What VQFlow recommends stands in VQFlow only."""
    defaults = inspect.signature(VQFlow).parameters
    repeated = [key for key, value in arguments(name).items() if plain(defaults[key].default) == value]
    assert not repeated


@pytest.mark.parametrize("name", CONFIGS)
def test_no_setting_must_be_kept_in_step_with_another(name):
    """Any number of epochs ends with a complete model, so no configuration has a schedule of validation."""
    assert not {"check_val_every_n_epoch", "val_check_interval"} & read(name)["trainer"].keys()


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations_tell_how_to_run_them(name):
    """The head of each file has a command with the file's own name, from the package or, if it needs it, a checkout."""
    head = CONFIGS[name].read_text().partition("model:")[0]
    assert f"$(vqflow-config {name})" in head or f"configs/{name}.yaml" in head


def test_quick_start_needs_no_network(tmp_path, monkeypatch):
    """The quick start builds as it is, with pretrained weights from the package and ten products."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    _, model, datamodule = Engine.from_config(CONFIGS["quick_start"], default_root_dir=tmp_path)
    assert model.hparams.pre_trained is True
    assert len(datamodule.categories) == 10


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason=f"needs the images in {SHARED / 'data'}")
def test_shared_data_builds(tmp_path, monkeypatch):
    """The configuration of the results on real images finds its categories and its weights beside the checkout."""
    monkeypatch.chdir(ROOT)
    _, model, datamodule = Engine.from_config(CONFIGS["shared_data"], default_root_dir=tmp_path)
    datamodule.setup()
    assert isinstance(model, AnomalibModule)
    assert len(datamodule.categories) == 8


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_configurations_train_and_report_every_category(name, tmp_path):
    """Every configuration trains, on small images and without downloads, and is tested on all its categories."""
    seed_everything(0)
    overrides = FAST | small_data(name, tmp_path / "products") | (NARROW if name in PUBLISHED else {})
    overrides |= WHOLE_PATCHES.get(name, {})
    engine, model, datamodule = Engine.from_config(CONFIGS[name], default_root_dir=tmp_path / "results", **overrides)
    engine.train(model, datamodule=datamodule)
    results = pd.read_csv(Path(engine.trainer.default_root_dir) / "category_metrics.csv")
    assert list(results["category"]) == [*datamodule.categories, "macro", "pooled"]
    assert len(datamodule.categories) == {**PUBLISHED, "quick_start": 10}.get(name, 2)


@pytest.mark.slow
def test_the_command_line_takes_a_configuration_and_changes(tmp_path):
    """The command in the head of a file works, and arguments after the file win."""
    overrides = FAST | small_data("light_cpu", tmp_path / "products")
    subprocess.run(
        [Path(sys.executable).with_name("anomalib"), "train", "--config", CONFIGS["light_cpu"]]
        + [f"--{argument}={value}" for argument, value in overrides.items()],
        check=True,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=600,
    )
    folder = tmp_path / "results" / "VQFlow" / "products" / "v0"
    assert (folder / "category_metrics.csv").exists()
    assert (folder / "weights" / "lightning" / "model.ckpt").exists()
