# SPDX-License-Identifier: Apache-2.0
"""Images are read, scored and written at the same time, in order, and with few of them in memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from anomalib_vqflow.data.files import UNREADABLE

from .predictions import Model, Picture, Prediction
from .regions import Region, find_regions
from .search import Source
from .writing import Folders, target_of, write_heat_map, write_map, write_mask

T = TypeVar("T")
Adjust = Callable[[Source, tuple[int, int], Prediction], Prediction]
NOWHERE = Folders()


class Result(NamedTuple):
    """What came of an image.

    Attributes:
        source: The image.
        failure: Why it was left out; None if it was not, and then nothing else is known.
        score: As in :class:`.Prediction`, as are label, threshold and concept.
        label: Whether it is anomalous.
        threshold: What the score was held against.
        concept: Which concept the image was taken for.
        regions: Defects; None if there is no threshold for pixels.
        raw_score: Score before normalization; None if nobody asked for it.
    """

    source: Source
    failure: str | None = None
    score: float = float("nan")
    label: bool | None = None
    threshold: float | None = None
    concept: int | None = None
    regions: list[Region] | None = None
    raw_score: float | None = None


def score_images(
    model: Model,
    sources: Sequence[Source],
    num_readers: int = 2,
    threshold: float | None = None,
    folders: Folders = NOWHERE,
    adjust: Adjust | None = None,
) -> Iterator[Result]:
    """Score images, many at once.

    Args:
        model: The model.
        sources: Images.
        num_readers: Threads that read images, and write files of them.
        threshold: What scores and maps are held against; None for the threshold of the model.
        folders: Where to write files.
        adjust: What else is to be done to the prediction of an image, of which it gets height and width, before; a
            ``ValueError`` leaves the image out.

    Yields:
        A result per image, in the order of ``sources``.

    Raises:
        OSError: If a file cannot be written.
    """

    def start(source: Source, reading: "Future[Picture]") -> Callable[[], "Future[Result]"]:
        try:
            picture = reading.result()
        except UNREADABLE as error:
            failed: Future[Result] = Future()
            failed.set_result(Result(source, str(error) or type(error).__name__))
            return lambda: failed
        collect = model.start(picture)
        return lambda: pool.submit(finish, source, picture.pixels, collect())

    def finish(source: Source, pixels: np.ndarray, prediction: Prediction) -> Result:
        try:
            adjusted = adjust(source, pixels.shape[:2], prediction) if adjust else prediction
        except ValueError as error:
            return Result(source, str(error))
        return _finish(source, pixels, adjusted, threshold, folders)

    with ThreadPoolExecutor(num_readers) as pool:
        read = ((source, pool.submit(model.read, source.path)) for source in sources)
        started = (start(*image) for image in ahead(read, num_readers + model.num_requests))
        finished = (collect() for collect in ahead(started, model.num_requests - 1))
        for result in ahead(finished, num_readers):
            yield result.result()


def ahead(items: Iterable[T], count: int) -> Iterator[T]:
    """Take items before they are asked for, so that what they have begun goes on meanwhile.

    Args:
        items: Items.
        count: How many are taken ahead, at most.

    Yields:
        The same items.
    """
    waiting: deque[T] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


def _finish(
    source: Source, pixels: np.ndarray, prediction: Prediction, threshold: float | None, folders: Folders
) -> Result:
    """Find the defects in an image, and write its files."""
    if threshold is not None:
        prediction = prediction.held_against(threshold)
    regions: list[Region] | None = None
    size = pixels.shape[1::-1]
    if prediction.mask is not None:
        regions, mask = [], _enlarge(prediction.mask, size)
        if prediction.mask.any():  # most images are normal, and large ones take a while
            regions = find_regions(mask, _enlarge(prediction.anomaly_map, size))
        if folders.masks:
            write_mask(target_of(folders.masks, source.name, ".png"), mask)
    if folders.heat_maps:
        write_heat_map(target_of(folders.heat_maps, source.name, ".png"), pixels, prediction.anomaly_map)
    if folders.maps:
        write_map(target_of(folders.maps, source.name, ".npy"), prediction.anomaly_map)
    raw_score = None if prediction.raw is None else prediction.raw.score
    known = (prediction.score, prediction.label, prediction.threshold, prediction.concept)
    return Result(source, None, *known, regions, raw_score)


def _enlarge(values: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Resize a map or mask to width and height, each pixel as the one below it."""
    return np.asarray(Image.fromarray(values).resize((size[0], size[1]), Image.Resampling.NEAREST))
