# SPDX-License-Identifier: Apache-2.0
"""benchmarks/public_datasets.py comes from the folders of a data set to its tables, in as many goes as it takes."""

import re

import pandas as pd
import pytest
import yaml
from anomalib.engine import Engine

from anomalib_vqflow import VQFlow
from tests.scripts import load_script
from tests.test_configs import PUBLISHED_ARGUMENTS, VISA
from tests.tiny import ARGUMENTS

from .public_stand_ins import CHOSEN, write_stand_in

public_datasets = load_script("benchmarks/public_datasets.py")
NOT_EVALUABLE = "\N{EN DASH}"
TITLES = ["Image-Level AUC", "Pixel-Level AUC", "Image F1 Score", "Pixel F1 Score"]
METRICS = ["image_AUROC", "pixel_AUROC", "image_F1Score", "pixel_F1Score"]


class PowerCutError(Exception):
    """What interrupts a run."""


@pytest.fixture
def model(tmp_path):
    """A configuration of a tiny model."""
    arguments = {**ARGUMENTS, "flow_steps": [1, 1, 1], "input_size": [64, 64]}
    loading = {"train_batch_size": 4, "eval_batch_size": 4, "num_workers": 0}
    config = {
        "model": {"class_path": "anomalib_vqflow.VQFlow", "init_args": arguments},
        "data": {"class_path": "anomalib_vqflow.MultiCategory", "init_args": {"root": "products", **loading}},
        "trainer": {"max_epochs": 1, "accelerator": "cuda", "logger": False},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
def run(model, tmp_path, capsys):
    """A function that runs the script on some categories, and returns what it prints."""

    def start(dataset, roots, categories, *options):
        names = ["--root", *map(str, roots), "--categories", *categories]
        places = ["--model", str(model), "--results", str(tmp_path / "results"), "--trainer.accelerator", "cpu"]
        public_datasets.main([dataset, *names, *places, *options])
        return capsys.readouterr().out

    return start


def read_tables(printed):
    """Find the rows of the tables below each heading, without the heads: cells by the first one."""
    tables = {}
    for part in printed[printed.index("Image / pixel AUROC") :].split("\n### "):
        title, *lines = part.strip().splitlines()
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
        tables[title] = {"head": rows[0], **{name: cells for name, *cells in rows[2:]}}
    return tables


def results_in(folder):
    (path,) = folder.rglob("category_metrics.csv")
    return pd.read_csv(path, dtype={"category": str}, index_col="category")


@pytest.mark.slow
@pytest.mark.parametrize("layout", CHOSEN)
def test_every_dataset_ends_in_its_tables(layout, run, tmp_path, monkeypatch):
    """From the layout that the head of its configuration describes to both tables; again, the tables only."""
    root = tmp_path / "images"
    categories = write_stand_in(root, layout)
    dataset = layout.removesuffix("_pytorch")
    printed = run(dataset, [root], categories)
    results = results_in(tmp_path / "results" / dataset / "tiny" / "seed42")
    assert (results.loc[list(categories), ["normal", "anomalous"]] > 0).all(axis=None)
    paper, *anomalib = read_tables(printed).values()
    names = list(paper)[1:3]
    assert set(names) == set(categories)
    percents = [f"{100 * results.loc['macro', metric]:.1f}" for metric in METRICS[:2]]
    assert list(paper.values())[3] == [" / ".join(percents), NOT_EVALUABLE]
    for table, metric in zip(anomalib, METRICS, strict=True):
        values = results.loc[["macro", *names], metric]
        assert table["head"][2:] == [name.replace("_", " ").title() for name in names]
        assert table["VQFlow, tiny"] == [f"{value:.3f}" for value in values]

    monkeypatch.setattr(Engine, "fit", lambda *_, **__: pytest.fail("trains again"))
    again = run(dataset, [root], categories)
    assert read_tables(again) == read_tables(printed)


@pytest.mark.slow
def test_two_datasets_have_a_mean_each_and_one_together(run, tmp_path):
    """The joint model is one training, in the paper's form one table, and in anomalib's one section per data set."""
    roots = [tmp_path / layout for layout in ("mvtec_ad", "visa_pytorch")]
    names = [name for root in roots for name in write_stand_in(root, root.name)]
    printed = run("mvtec_ad_visa", roots, names)
    results = results_in(tmp_path / "results")
    paper = next(iter(read_tables(printed).values()))
    assert list(paper)[1:] == ["bottle", "screw", "mean of MVTecAD", "candle", "pcb1", "mean of Visa", "mean"]
    assert paper["mean"][0].split(" / ")[0] == f"{100 * results.loc['macro', 'image_AUROC']:.1f}"
    assert [line for line in printed.splitlines() if line.startswith("## ")] == ["## MVTecAD", "## Visa"]
    assert [line for line in printed.splitlines() if line.startswith("### ")] == [f"### {name}" for name in TITLES * 2]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["training_step", "test_step"])
def test_an_interrupted_run_goes_on_and_ends_alike(place, run, tmp_path, monkeypatch):
    """In the second epoch or in the test: the same command says where it resumes, and its tables are the same."""
    write_stand_in(tmp_path / "images", "mvtec_ad")
    options = ("mvtec_ad", [tmp_path / "images"], ["bottle", "screw"], "--trainer.max_epochs", "3")
    whole = run(*options, "--results", str(tmp_path / "whole"))
    step, calls = getattr(VQFlow, place), []

    def fail(self, *arguments, **others):
        calls.append(self)
        if len(calls) == (4 if place == "training_step" else 1):  # of two in each of three epochs
            raise PowerCutError
        return step(self, *arguments, **others)

    with monkeypatch.context() as patch:
        patch.setattr(VQFlow, place, fail)
        with pytest.raises(PowerCutError):
            run(*options)
    printed = run(*options)
    assert "Resuming from" in printed
    assert "Resuming from" not in whole
    assert read_tables(printed) == read_tables(whole)


@pytest.mark.parametrize("name", [name for name in public_datasets.configurations() if "/" not in name])
@pytest.mark.parametrize("dataset", public_datasets.DATASETS)
def test_any_model_goes_with_any_data(name, dataset):
    """Model and trainer are those of the one file, the data those of the other, but for how they are loaded."""
    model = public_datasets.configurations()[name]
    settings = yaml.safe_load(model.read_text())
    config = public_datasets.read_config(model, public_datasets.DATASETS[dataset])
    assert config["model"]["init_args"] == {"visualizer": False, **settings["model"]["init_args"]}
    assert config["trainer"] == {key: value for key, value in settings["trainer"].items() if key != "accelerator"}
    loading = settings["data"]["init_args"]
    data = public_datasets.build_data(config["data"])
    assert data.train_batch_size == loading["train_batch_size"]
    assert data.num_workers == loading["num_workers"]
    first_line = public_datasets.DATASETS[dataset].read_text().splitlines()[0]
    assert f" {len(data.categories)} categories" in first_line


@pytest.mark.slow
@pytest.mark.parametrize("name", ["light_cpu", "mvtec_ad"])
@pytest.mark.parametrize("dataset", public_datasets.DATASETS)
def test_anomalib_takes_the_data_after_any_configuration(name, dataset):
    """What the configuration before says of its own data set is replaced, and the rest kept."""
    model, data = public_datasets.configurations()[name], public_datasets.DATASETS[dataset]
    narrow = {"model.backbone": "test_convnext2", "model.pre_trained": False, "model.hidden_dim": 8}
    _, _, datamodule = Engine.from_config(model, data=data, **narrow)  # "--config ... --data ..."
    expected = public_datasets.build_data(public_datasets.read_config(model, data)["data"])
    assert datamodule.categories == expected.categories
    assert datamodule.train_batch_size == expected.train_batch_size


@pytest.mark.parametrize(("name", "arguments"), [("recommended", {}), ("published", PUBLISHED_ARGUMENTS)])
def test_names_of_models(name, arguments, tmp_path, monkeypatch, capsys):
    """The recommended model is the one of the defaults, the published one has the published values."""
    seen = {}

    def finished_results(config, _):
        seen.update(config["model"]["init_args"])
        return pd.DataFrame(0.5, index=VISA.split(), columns=METRICS)

    monkeypatch.setattr(public_datasets, "finished_results", finished_results)
    public_datasets.main(["visa", "--model", name, "--results", str(tmp_path)])
    assert seen == {**arguments, "visualizer": False}
    assert f"VQFlow, {name}" in capsys.readouterr().out


@pytest.mark.parametrize("dataset", sorted(set(public_datasets.DATASETS) - {"mvtec_ad_visa"}))
def test_missing_data_are_described_and_not_downloaded(dataset, run, tmp_path, monkeypatch, capsys):
    """The message has a missing path, the source and the layout; nothing is written."""
    monkeypatch.setattr("urllib.request.urlretrieve", lambda *_, **__: pytest.fail("downloads"))
    categories = CHOSEN[dataset]
    with pytest.raises(SystemExit) as stop:
        run(dataset, [tmp_path / "images"], categories)
    assert stop.value.code == 1
    message = capsys.readouterr().err
    assert str(tmp_path / "images") in message
    assert "http" in message
    assert f"{categories[0]}/" in message
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_a_category_that_is_missing_is_named(run, tmp_path, capsys):
    """One of two is there."""
    root = tmp_path / "images"
    write_stand_in(root, "mvtec_ad")
    with pytest.raises(SystemExit):
        run("mvtec_ad", [root], ["bottle", "wood"])
    message = capsys.readouterr().err
    assert f"2 of 4 files and folders of MVTecAD are missing, and none is downloaded: {root}/wood/train" in message
    assert f"{root}/bottle" not in message


def test_copies_of_visa_that_are_incomplete_are_refused(run, tmp_path, capsys):
    """anomalib would take them for complete."""
    root = tmp_path / "images"
    write_stand_in(root, "visa")
    data = public_datasets.MultiCategory(dataset="Visa", root=root, categories=["candle", "pcb1"])
    data.prepare_data()
    public_datasets.check_files(data)
    missing = next((root / "visa_pytorch" / "candle" / "test" / "good").iterdir())
    missing.unlink()
    with pytest.raises(SystemExit):
        run("visa", [root], ["candle", "pcb1"])
    message = capsys.readouterr().err
    assert str(missing) in message
    assert "delete visa_pytorch" in message


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ("visa", ["--root", "one", "two"], r"a --root for each of \['Visa'\], got \['one', 'two'\]"),
        ("mvtec_ad_visa", ["--root", "one"], r"a --root for each of \['MVTecAD', 'Visa'\], got \['one'\]"),
        ("visa", ["--categories", "bottle"], r"Unknown categories \['bottle'\]; choose from \['candle'"),
        ("visa", ["--model", "absent.yaml"], "vqflow-config lists, or the path of one, got 'absent.yaml'"),
        ("visa", ["--model", "data/visa"], "a configuration with a model"),
        ("visa", ["--lr", "3"], "such as --model.lr, .* got --lr"),
    ],
)
def test_options_that_do_not_fit_are_refused(dataset, options, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        public_datasets.main([dataset, "--results", str(tmp_path), *options])
    assert stop.value.code == 1
    assert re.search(message, capsys.readouterr().err)


def test_a_folder_of_another_run_is_refused(run, tmp_path, capsys):
    """Results of other options are never shown as those of this command."""
    folder = tmp_path / "results" / "mvtec_ad" / "tiny" / "seed42"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"trainer": {"max_epochs": 5}}))
    (folder / "category_metrics.csv").write_text("category,image_AUROC\nbottle,1.0\n")
    with pytest.raises(SystemExit):
        run("mvtec_ad", [tmp_path], ["bottle"])
    assert "has another model and data and trainer" in capsys.readouterr().err
