# SPDX-License-Identifier: Apache-2.0
"""One model for all categories of a public data set: trained, tested, and put into the tables of paper and anomalib.

    python benchmarks/public_datasets.py mvtec_ad --root datasets/MVTecAD

The data sets are the files in ``configs/data``, whose heads tell the folders that they need; nothing is downloaded.
``--model`` takes the configuration of a model: ``recommended``, which is ``VQFlow()``, ``published``, any name that
``vqflow-config`` lists, or the path of a file. Used of it are its model, its trainer, and of its data the batch sizes,
the workers and the balance of categories; it runs on the accelerator that there is. Options that are not listed go to
the configuration, as ``--trainer.max_epochs 5``.

All that a run writes is in ``results/public_datasets/<data set>/<model>/seed<seed>``. The same command again goes on
after the last epoch that was saved; when all is done, it only prints the tables.
"""

import argparse
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from anomalib.engine import Engine
from lightning.pytorch import seed_everything
from models import configuration_overrides
from public_files import DATASETS, check_files
from public_tables import print_tables

from anomalib_vqflow import MultiCategory
from anomalib_vqflow.configuration import configurations

MODELS = {"recommended": "light_cpu", "published": "mvtec_ad"}
"""Configurations by what they are here; those files say more than the model."""

LOADING = ("train_batch_size", "eval_batch_size", "num_workers", "balanced_sampling")
"""What a model's configuration says of its data that belongs to the training, not to the data set."""


def main(arguments: list[str] | None = None) -> None:
    """Train and test what is not trained and tested yet, and print the tables.

    Args:
        arguments: Command line; None for that of the process.

    Raises:
        SystemExit: With a sentence if the data or the configuration is not there, or an option does not fit.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=DATASETS)
    parser.add_argument("--root", nargs="+", help="its folder; of several data sets, one each; default: ./datasets/...")
    parser.add_argument("--categories", nargs="+", help="some of its categories; default: all")
    parser.add_argument("--model", default="recommended", help="or published, a name of vqflow-config, or a path")
    parser.add_argument("--seed", type=int, default=42, help="of weights and of the order of images")
    parser.add_argument("--results", type=Path, default=Path("results") / "public_datasets", help="folder of all runs")
    options, rest = parser.parse_known_args(arguments)
    try:
        model = configurations().get(MODELS.get(options.model, options.model), Path(options.model))
        name = Path(options.model).stem
        folder = options.results / options.dataset / name / f"seed{options.seed}"
        config = read_config(model, DATASETS[options.dataset])
        set_data(config["data"], options.root, options.categories)
        override(config, configuration_overrides(rest))
        config["default_root_dir"] = str(folder.absolute())
        results = finished_results(config, folder)
    except ValueError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    if results is None:
        results = train(config, folder, options.seed)
    datasets = {category: part.name for category, part in build_data(config["data"]).by_category.items()}
    print_tables(results, datasets, f"{config['model']['class_path'].split('.')[-1]}, {name}", options.seed)


def read_config(model: Path, data: Path) -> dict[str, Any]:
    """Put the configurations of a model and of a data set together.

    Args:
        model: Configuration file with a model, and perhaps a trainer and data.
        data: Configuration file of a datamodule.

    Returns:
        A configuration with ``model``, ``data`` and ``trainer``.

    Raises:
        ValueError: If the first one is not there or has no model.
    """
    if not model.is_file():
        msg = f"Expected a configuration that vqflow-config lists, or the path of one, got {str(model)!r}."
        raise ValueError(msg)
    settings = yaml.safe_load(model.read_text(encoding="utf-8"))
    if not isinstance(settings, dict) or "class_path" not in settings.get("model", {}):
        msg = f"Expected a configuration with a model, as configs/light_cpu.yaml, got {model}."
        raise ValueError(msg)
    arguments = {"visualizer": False, **settings["model"].get("init_args", {})}  # no picture of every test image
    trainer = {name: value for name, value in settings.get("trainer", {}).items() if name != "accelerator"}
    loading = settings.get("data", {}).get("init_args", {})
    datamodule = yaml.safe_load(data.read_text(encoding="utf-8"))
    datamodule["init_args"].update({name: loading[name] for name in LOADING if name in loading})
    return {"model": {**settings["model"], "init_args": arguments}, "data": datamodule, "trainer": trainer}


def set_data(config: dict[str, Any], roots: Sequence[str] | None, categories: Sequence[str] | None) -> None:
    """Say where the data sets of a datamodule are, and which of their categories are used.

    Args:
        config: Configuration of the datamodule, changed in place.
        roots: Folder of each data set; None for those that it names.
        categories: Names; None for all.

    Raises:
        ValueError: If there are more or fewer folders than data sets, or a category is unknown.
    """
    parts = [part["init_args"] for part in config["init_args"].get("datamodules", [config])]
    roots = [part["root"] for part in parts] if roots is None else roots
    if len(roots) != len(parts):
        msg = f"Expected a --root for each of {[part['dataset'] for part in parts]}, got {list(roots)}."
        raise ValueError(msg)
    known = [MultiCategory(dataset=part["dataset"]).categories for part in parts]
    if unknown := sorted(set(categories or ()).difference(*known)):
        msg = f"Unknown categories {unknown}; choose from {list(chain(*known))}."
        raise ValueError(msg)
    for part, root, names in zip(parts, roots, known, strict=True):
        part["root"] = str(Path(root).absolute())
        if categories is not None:
            part["categories"] = [name for name in names if name in categories]
    if "datamodules" in config["init_args"]:
        used = [part for part in config["init_args"]["datamodules"] if part["init_args"].get("categories") != []]
        config["init_args"]["datamodules"] = used


def override(config: dict[str, Any], overrides: Mapping[str, str]) -> None:
    """Set arguments of a configuration.

    Args:
        config: The configuration, changed in place.
        overrides: Values as in YAML by name, such as ``{"model.lr": "1e-3", "trainer.max_epochs": "5"}``.

    Raises:
        ValueError: If a name does not begin with ``model``, ``data`` or ``trainer``.
    """
    for name, value in overrides.items():
        section, _, argument = name.partition(".")
        if section not in config or not argument:
            msg = f"Expected an option such as --model.lr, --data.num_workers or --trainer.max_epochs, got --{name}."
            raise ValueError(msg)
        arguments = config[section] if section == "trainer" else config[section]["init_args"]
        arguments[argument] = yaml.safe_load(value)


def build_data(config: Mapping[str, Any]) -> MultiCategory:
    """Build a datamodule that is not set up.

    Args:
        config: Its configuration.

    Returns:
        The datamodule.
    """
    arguments = dict(config["init_args"])
    if "datamodules" in arguments:
        arguments["datamodules"] = [build_data(part) for part in arguments["datamodules"]]
    return MultiCategory(**arguments)


def finished_results(config: Mapping[str, Any], folder: Path) -> pd.DataFrame | None:
    """Read the results of a run that is finished; refuse to begin or resume one that cannot be.

    Args:
        config: Configuration of the run.
        folder: Its folder.

    Returns:
        Results as :class:`~anomalib_vqflow.CategoryEvaluator` has them; None if there are none yet.

    Raises:
        ValueError: If the folder has a run of another configuration, or images are missing.
    """
    file = folder / "config.yaml"
    before = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else config
    if different := [name for name in config if before.get(name) != config[name]]:
        msg = f"{file} has another {' and '.join(different)}; give the same options as before, or other --results."
        raise ValueError(msg)
    if finished := newest(folder, "category_metrics.csv"):
        print(f"Results of {finished}")
        return pd.read_csv(finished, dtype={"category": str}, index_col="category")
    check_files(build_data(config["data"]))
    return None


def train(config: Mapping[str, Any], folder: Path, seed: int) -> pd.DataFrame:
    """Train and test, or go on with what was begun.

    Args:
        config: Configuration of the run.
        folder: Its folder.
        seed: Seed of the training.

    Returns:
        Results as :class:`~anomalib_vqflow.CategoryEvaluator` has them.
    """
    file = folder / "config.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    seed_everything(seed)
    engine, model, datamodule = Engine.from_config(file)
    if checkpoint := newest(folder, "*.ckpt"):
        print(f"Resuming from {checkpoint}")
    engine.fit(model, datamodule=datamodule, ckpt_path=checkpoint)
    engine.test(model, datamodule=datamodule)
    return model.evaluator.results


def newest(folder: Path, pattern: str) -> Path | None:
    """Find the file that was written last in a folder and those below it; None if there is none."""
    return max(folder.rglob(pattern), key=lambda path: path.stat().st_mtime, default=None)


if __name__ == "__main__":
    main()
