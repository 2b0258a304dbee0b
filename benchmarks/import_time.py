# SPDX-License-Identifier: Apache-2.0
"""What this package adds to `import anomalib.models`.

    python benchmarks/import_time.py

anomalib imports the package's model and datamodules at the end of its own import, so that they can be found by name.
New processes import ``anomalib.models``, in turn with and without the entry point that makes it so, each of them once
before it counts. The difference of two processes is noisy, so a third kind imports the package by hand, after anomalib,
and takes that time alone.
"""

import argparse
import os
import statistics
import subprocess
import sys

WHOLE = "import anomalib.models"
PART = """
import sys, time, anomalib.models, anomalib.data
start = time.perf_counter(), time.process_time()
import anomalib_vqflow
assert "anomalib_vqflow.lightning_model" in sys.modules
print("VQFLOW", time.perf_counter() - start[0], time.process_time() - start[1])
"""


def run(script: str, *, hook: bool) -> tuple[float, str]:
    """Run a script in a new process; return its processor time in seconds, and what it printed."""
    environment = os.environ | {"TORCH_DEVICE_BACKEND_AUTOLOAD": str(int(hook)), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process.stdout as output:
        printed = output.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        msg = f"{script!r} failed; run it by hand to see why."
        raise RuntimeError(msg)
    return usage.ru_utime + usage.ru_stime, printed


def main(arguments: list[str] | None = None) -> None:
    """Print the times.

    Args:
        arguments: Command line; None for that of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=11, help="processes of each kind")
    options = parser.parse_args(arguments)

    without, with_us, wall, processor = [], [], [], []
    for repetition in range(options.repetitions + 1):
        times = run(WHOLE, hook=False)[0], run(WHOLE, hook=True)[0]
        printed = run(PART, hook=False)[1]
        part = next(line.split()[1:] for line in printed.splitlines() if line.startswith("VQFLOW"))
        if repetition:  # the first ones fill the caches of files and bytecode
            for values, value in zip((without, with_us, wall, processor), (*times, *map(float, part)), strict=True):
                values.append(value)
    gains = [b - a for a, b in zip(without, with_us, strict=True)]
    low, median, high = (1e3 * value for value in statistics.quantiles(gains, n=4))
    print(f"{options.repetitions} processes of each kind; medians of processor time")
    print(
        "import anomalib.models: {:.2f} s without us, {:.2f} s with".format(*map(statistics.median, (without, with_us)))
    )
    print(f"Difference of neighbors: {median:.0f} ms, quartiles {low:.0f} to {high:.0f}")
    alone = (1e3 * statistics.median(values) for values in (processor, wall))
    print("Imported after anomalib: {:.0f} ms, {:.0f} ms on the clock".format(*alone))


if __name__ == "__main__":
    main()
