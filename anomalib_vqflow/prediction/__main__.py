# SPDX-License-Identifier: Apache-2.0
"""The command ``vqflow-predict``, also ``python -m anomalib_vqflow.prediction``."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from anomalib_vqflow.ignored import IgnoredRegions

from .adjusting import Adjustment
from .drift import SMALLEST_RATE, USUAL_RATE, find_drift
from .evaluation import evaluate, format_table
from .loading import load_model
from .pipeline import Adjust, Result, score_images
from .predictions import Model, ModelError
from .progress import with_progress
from .scales import Scales, held_out_of, products_of, read_reference, scales_of, scales_of_rates
from .search import Source, absolute, find_sources
from .tables import SUFFIXES, open_table, table_writer
from .truth import find_test_images
from .writing import Folders

PROGRAM = "vqflow-predict"
DESCRIPTION = """Score images with a trained or an exported model, write a table, and on demand masks, heat maps and
maps. Images of any sizes may be mixed; they are turned upright as their EXIF says, grayscale is spread over the colors,
and transparency is ignored. A file that cannot be read is named and left out, and the exit code is 1; it is 3 if the
images have drifted away from a reference."""
DRIFTED = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Command line; None for that of the process.

    Returns:
        0; 1 if an image was left out; 3 if the images are not like those of the training.

    Raises:
        SystemExit: With status 2 and a sentence if the command line, the model or a path is not usable.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names that the terminal cannot show
    folders = Folders(options.masks, options.heat_maps, options.maps)
    try:
        _check_options(options, folders)
        find = find_test_images if options.evaluate else find_sources
        sources = find(options.images, [*folders.wanted()])
        needs_raw = any(value is not None for value in (options.false_alarm_rate, options.reference, options.ignore))
        model = load_model(options.model, options.device, options.precision, options.threads, needs_raw)
        scales = _scales(model, options)
        regions = _regions(model, scales, sources, options)
        changes = regions is not None or options.false_alarm_rate is not None
        adjust = Adjustment(scales, regions).adjust if changes else None
        reference = options.reference and read_reference(options.reference, model.metadata, options.model)
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"Cannot read {error.filename} ({error.strerror}).")
    try:
        results = _predict(model, sources, folders, adjust, options)
    except OSError as error:
        parser.error(f"Cannot write {error.filename or options.output} ({error.strerror or error}).")
    if options.evaluate and any(result.failure is None for result in results):
        sys.stdout.write(f"{format_table(evaluate(results))}\n")
    if reference and any(result.failure is None for result in results):
        drift = find_drift(results, reference, scales.image, options.drift_rate, products_of(model.metadata))
        sys.stdout.write(f"{drift.describe()}\n")
        if drift.found:
            return DRIFTED
    return int(any(result.failure is not None for result in results))


def _scales(model: Model, options: argparse.Namespace) -> Scales:
    """Set the scales that the options ask for, and say what they promise."""
    image_rate = options.false_alarm_rate
    if image_rate is None:
        own = scales_of(model.metadata or {})
        return own if options.threshold is None else own.held_against(options.threshold)
    held_out = held_out_of(model.metadata, options.model, "--false-alarm-rate")
    scales, promise = scales_of_rates(
        model.metadata or {}, held_out, image_rate, options.pixel_false_alarm_rate or image_rate
    )
    sys.stdout.write(f"{promise}\n")
    return scales


def _regions(
    model: Model, scales: Scales, sources: Sequence[Source], options: argparse.Namespace
) -> IgnoredRegions | None:
    """Read the regions to ignore; None if there are none."""
    if options.ignore is None:
        return None
    if ((model.metadata or {}).get("score") or {}).get("of_tiles"):
        msg = "--ignore does not go with a model that cuts images into tiles, whose scores are those of tiles."
        raise ModelError(msg)
    regions = IgnoredRegions(options.ignore, scales.rule)
    regions.check_some([source.path for source in sources])
    return regions


def _predict(
    model: Model, sources: Sequence[Source], folders: Folders, adjust: Adjust | None, options: argparse.Namespace
) -> list[Result]:
    """Score the images, write the files, and say what came of it.

    Returns:
        Results, without regions, so that they need little memory.

    Raises:
        OSError: If a file cannot be written.
    """
    results, lacks_masks, start = [], False, time.perf_counter()
    with open_table(options.output) as file:
        write = table_writer(file, options.output.suffix.lower(), model.tells_concept, products_of(model.metadata))
        found = score_images(model, sources, options.readers, options.threshold, folders, adjust)
        for result in with_progress(found, len(sources)):
            results.append(result._replace(regions=None))
            if result.failure is not None:
                sys.stderr.write(f"Left out {result.source.path}: {result.failure}\n")
                continue
            write(result)
            lacks_masks = lacks_masks or result.regions is None
    seconds = time.perf_counter() - start
    if lacks_masks and options.masks:
        sys.stderr.write("The model has no threshold for pixels, so there are no masks; give --threshold.\n")
    labels = [result.label for result in results if result.failure is None]
    anomalous = "no labels without a threshold" if None in labels else f"{labels.count(True)} anomalous"
    left_out, rate = len(results) - len(labels), f"{len(labels) / seconds:.1f} images per second, reading included"
    sys.stdout.write(f"{len(labels)} images, {anomalous}, {left_out} left out, {rate}. Written to {options.output}.\n")
    return results


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=DESCRIPTION)
    add = parser.add_argument
    add("model", type=Path, help="model.xml or model.onnx, for OpenVINO, or model.ckpt, for torch")
    add("images", nargs="+", help="images, folders of images with their subfolders, or patterns such as 'a/*/good'")
    help_text = "table to write, by its suffix as CSV or as lines of JSON (.jsonl; default: %(default)s)"
    add("--output", type=Path, default=Path("predictions.csv"), metavar="FILE", help=help_text)
    add("--masks", type=Path, metavar="FOLDER", help="where to write a PNG of each image, white where anomalous")
    add("--heat-maps", type=Path, metavar="FOLDER", help="where to write each image under its map")
    add("--maps", type=Path, metavar="FOLDER", help="where to write each map as the model gives it, as .npy")
    help_text = "score above which images and pixels are anomalous, in [0, 1]; that of the training by default"
    add("--threshold", type=float, metavar="SCORE", help=help_text)
    help_text = "set the thresholds so that at most this share of new normal images is anomalous, such as 0.01"
    add("--false-alarm-rate", type=float, metavar="RATE", help=help_text)
    help_text = "share of new normal images in which a pixel is (default: --false-alarm-rate)"
    add("--pixel-false-alarm-rate", type=float, metavar="RATE", help=help_text)
    help_text = "PNG, white where pixels shall not count, or a folder with <product>.png for images in such folders"
    add("--ignore", type=Path, metavar="MASK", help=help_text)
    help_text = "metadata.json of the model's export; tell whether the images drift away from its normal ones"
    add("--reference", type=Path, metavar="FILE", help=help_text)
    help_text = "share of runs in which --reference may tell a drift where there is none (default: %(default)s)"
    add("--drift-rate", type=float, default=USUAL_RATE, metavar="RATE", help=help_text)
    help_text = "take the images for categories in MVTec layout, score their test images, and print how good that is"
    add("--evaluate", action="store_true", help=help_text)
    add("--device", help="device of OpenVINO (default: CPU), or of torch (default: cuda if there is one)")
    help_text = "f32 for the scores of the training; bf16 or f16 may be faster, and differ (default: %(default)s)"
    add("--precision", default="f32", help=help_text)
    add("--threads", type=int, default=0, metavar="N", help="threads that compute; 0 for the library's choice")
    help_text = "threads that read and write images (default: %(default)s)"
    add("--readers", type=int, default=os.cpu_count() or 1, metavar="N", help=help_text)
    return parser


def _check_options(options: argparse.Namespace, folders: Folders) -> None:
    """Raise a ``ValueError`` with a sentence at what can only fail, or would overwrite something."""
    if options.output.suffix.lower() not in SUFFIXES:
        msg = f"--output must end in {' or '.join(SUFFIXES)}, got {options.output}."
        raise ValueError(msg)
    if options.threshold is not None and not 0 <= options.threshold <= 1:
        msg = f"--threshold must be between 0 and 1, got {options.threshold}."
        raise ValueError(msg)
    _check_rates(options)
    if options.readers < 1 or options.threads < 0:
        msg = f"--readers must be at least 1, and --threads at least 0, got {options.readers} and {options.threads}."
        raise ValueError(msg)
    places = [absolute(folder) for folder in folders.wanted()]
    if len({*places}) < len(places):
        msg = "--masks, --heat-maps and --maps must be different folders."
        raise ValueError(msg)
    for place in options.images:
        if any(absolute(Path(place)).is_relative_to(folder) for folder in places):
            msg = f"The images in {place} lie in a folder to write to; choose another."
            raise ValueError(msg)


def _check_rates(options: argparse.Namespace) -> None:
    for name in ("false_alarm_rate", "pixel_false_alarm_rate"):
        rate = getattr(options, name)
        if rate is not None and not 0 < rate < 1:
            msg = f"--{name.replace('_', '-')} must be above 0 and below 1, got {rate}."
            raise ValueError(msg)
    if not SMALLEST_RATE <= options.drift_rate < 1:
        msg = f"--drift-rate must be at least {SMALLEST_RATE} and below 1, got {options.drift_rate}."
        raise ValueError(msg)
    if options.false_alarm_rate is None and options.pixel_false_alarm_rate is not None:
        msg = "--pixel-false-alarm-rate needs --false-alarm-rate."
        raise ValueError(msg)
    if options.false_alarm_rate is not None and options.threshold is not None:
        msg = "--threshold and --false-alarm-rate set the same thresholds; give one of them."
        raise ValueError(msg)


if __name__ == "__main__":
    sys.exit(main())
