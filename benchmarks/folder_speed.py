# SPDX-License-Identifier: Apache-2.0
"""A folder of images from end to end, reading included: our command beside anomalib's own ways.

    python benchmarks/folder_speed.py results/VQFlow/products/v0 images --threads 2

Takes the folder of a run, for its exported model and its checkpoint. The images of the folder are scored by
``vqflow-predict``, by anomalib's ``OpenVINOInferencer`` one by one (in float32, too), and by
``Engine.predict`` from the checkpoint, which is what ``anomalib predict`` calls, without visualization; in turn, after
one run each that does not count. Models are loaded before. Printed are medians; the scores must agree.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from anomalib.deploy import OpenVINOInferencer
from anomalib.engine import Engine
from measuring import take_turns

from anomalib_vqflow import VQFlow
from anomalib_vqflow.prediction.loading import load_model
from anomalib_vqflow.prediction.pipeline import score_images
from anomalib_vqflow.prediction.search import find_sources

LARGEST_DIFFERENCE = 1e-3

Scores = dict[Path, float]


def by_command(path: Path, folder: Path, num_threads: int) -> Callable[[], Scores]:
    """Load an exported model as our command does."""
    model, sources = load_model(path, num_threads=num_threads), find_sources([str(folder)])
    return lambda: {result.source.path: result.score for result in score_images(model, sources, num_threads)}


def by_inferencer(path: Path, folder: Path, num_threads: int) -> Callable[[], Scores]:
    """Load an exported model into anomalib's inferencer."""
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": num_threads}
    inferencer = OpenVINOInferencer(path, "CPU", settings)
    return lambda: {image: inferencer.predict(image).pred_score.item() for image in sorted(folder.iterdir())}


def by_engine(checkpoint: Path, folder: Path, results: str) -> Callable[[], Scores]:
    """Load a checkpoint into anomalib's engine."""
    model = VQFlow.load_from_checkpoint(checkpoint, map_location="cpu")
    model.visualizer = None
    engine = Engine(default_root_dir=results, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)

    def score() -> Scores:
        batches = engine.predict(model, data_path=folder)
        return {Path(p): s.item() for b in batches for p, s in zip(b.image_path, b.pred_score, strict=True)}

    return score


def main(arguments: list[str] | None = None) -> None:
    """Print the comparison.

    Args:
        arguments: Command line; None for that of the process.

    Raises:
        RuntimeError: If the ways disagree in a score.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("images", type=Path, help="folder of images, without subfolders")
    parser.add_argument("--threads", type=int, default=2, help="threads that compute, and that read")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each way")
    options = parser.parse_args(arguments)

    torch.set_num_threads(options.threads)
    exported, images = options.run / "weights" / "openvino" / "model.xml", options.images.resolve()
    scores: dict[str, Scores] = {}
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            "vqflow-predict": by_command(exported, images, options.threads),
            "OpenVINOInferencer": by_inferencer(exported, images, options.threads),
            "Engine.predict": by_engine(options.run / "weights" / "lightning" / "model.ckpt", images, folder),
        }
        calls = {name: lambda name=name, way=way: scores.update({name: way()}) for name, way in ways.items()}
        times = take_turns(calls, options.rounds)
    expected = scores["Engine.predict"]
    for name, found in scores.items():
        if found.keys() != expected.keys() or any(abs(found[i] - expected[i]) > LARGEST_DIFFERENCE for i in expected):
            msg = f"{name} disagrees with Engine.predict, so that their times do not compare."
            raise RuntimeError(msg)
        off = max(abs(found[image] - expected[image]) for image in expected)
        rate = len(found) / times[name].wall
        print(f"{name}: {rate:.1f} images/s, scores at most {off:.1e} from Engine.predict's")
    print(f"{len(expected)} images, {options.threads} threads, medians of {options.rounds} rounds")


if __name__ == "__main__":
    main()
