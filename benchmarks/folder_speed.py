# SPDX-License-Identifier: Apache-2.0
"""A folder of images from end to end, reading included: our example beside anomalib's own ways.

    python benchmarks/folder_speed.py results/VQFlow/products/v0 images --threads 2

Takes the folder of a run, for its exported model and its checkpoint. The images of the folder are scored by
``examples/folder_inference.py``, by anomalib's ``OpenVINOInferencer`` one by one (in float32, too), and by
``Engine.predict`` from the checkpoint, which is what ``anomalib predict`` calls, without pictures; in turn, after one
run each that does not count. Models are loaded before. Printed are medians; the scores must agree.
"""

import argparse
import importlib.util
import statistics
import tempfile
import time
from pathlib import Path

import torch
from anomalib.deploy import OpenVINOInferencer
from anomalib.engine import Engine

from anomalib_vqflow import VQFlow

EXAMPLE = Path(__file__).parents[1] / "examples" / "folder_inference.py"
LARGEST_DIFFERENCE = 1e-3


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
    spec = importlib.util.spec_from_file_location("folder_inference", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    torch.set_num_threads(options.threads)

    path = options.run / "weights" / "openvino" / "model.xml"
    images = example.find_images(options.images.resolve())
    compiled = example.compile_model(path, num_threads=options.threads)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": options.threads}
    inferencer = OpenVINOInferencer(path, "CPU", settings)
    model = VQFlow.load_from_checkpoint(options.run / "weights/lightning/model.ckpt", map_location="cpu")
    model.visualizer = None
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(default_root_dir=folder, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)

        def by_engine() -> dict[Path, float]:
            batches = engine.predict(model, data_path=options.images.resolve())
            return {Path(p): s.item() for b in batches for p, s in zip(b.image_path, b.pred_score, strict=True)}

        ways = {
            "examples/folder_inference.py": lambda: {
                image: prediction.score
                for image, prediction in example.score(compiled, images, options.threads).predictions.items()
            },
            "OpenVINOInferencer": lambda: {image: inferencer.predict(image).pred_score.item() for image in images},
            "Engine.predict": by_engine,
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(options.rounds + 1):
            scores = {}
            for name, way in ways.items():
                start = time.perf_counter()
                scores[name] = way()
                if number:
                    seconds[name].append(time.perf_counter() - start)
    expected = scores["Engine.predict"]
    for name, values in seconds.items():
        median = statistics.median(values)
        off = max(abs(scores[name][image] - expected[image]) for image in expected)
        print(f"{name}: {len(images) / median:.1f} images/s, scores at most {off:.1e} from Engine.predict's")
        if off > LARGEST_DIFFERENCE or len(scores[name]) != len(expected):
            msg = f"{name} disagrees with Engine.predict, so that their times do not compare."
            raise RuntimeError(msg)
    print(f"{len(images)} images, {options.threads} threads, medians of {options.rounds} rounds")


if __name__ == "__main__":
    main()
