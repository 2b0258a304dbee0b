# SPDX-License-Identifier: Apache-2.0
"""A program of its own, so that its memory is: four threads share a compiled model for a while, with changing sizes.

Run as ``python load.py model.xml SECONDS``. It prints, as JSON, how many answers there were, how many of them differ in
any bit from those of a single thread, each by thread, and the memory in MB, measured every second.
"""

import ctypes
import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openvino

NUM_THREADS = 4
NUM_IMAGES = 32
SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": NUM_THREADS, "INFERENCE_NUM_THREADS": NUM_THREADS}


def resident_memory():
    """What the process holds, not what the allocator keeps of freed images."""
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def make_images():
    """Draw one to three images each of as many sizes."""
    generator = np.random.default_rng(0)
    shapes = generator.integers((1, 40, 40), (4, 240, 240), (NUM_IMAGES, 3))
    return [generator.random((batch, 3, height, width), dtype=np.float32) for batch, height, width in shapes]


def answer(request, image):
    return {name: value.copy() for output, value in request.infer({0: image}).items() for name in output.names}


def main(path, seconds):
    compiled = openvino.Core().compile_model(path, "CPU", SETTINGS)
    images, alone = make_images(), compiled.create_infer_request()
    expected = [answer(alone, image) for image in images]
    end = time.monotonic() + seconds
    asked, differing = [0] * NUM_THREADS, [0] * NUM_THREADS
    together = threading.Barrier(NUM_THREADS)

    def ask(number):
        request, generator = compiled.create_infer_request(), np.random.default_rng(number)
        together.wait()
        while time.monotonic() < end:
            for index in generator.permutation(NUM_IMAGES):
                found = answer(request, images[index])
                asked[number] += 1
                equal = [np.array_equal(found[name], value) for name, value in expected[index].items()]
                differing[number] += not all(equal)

    memory = []
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        threads = [pool.submit(ask, number) for number in range(NUM_THREADS)]
        while not all(thread.done() for thread in threads):
            time.sleep(1)
            memory.append(round(resident_memory(), 1))
    for thread in threads:
        thread.result()
    sys.stdout.write(json.dumps({"asked": asked, "differing": differing, "memory": memory}))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
