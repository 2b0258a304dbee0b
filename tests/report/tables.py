# SPDX-License-Identifier: Apache-2.0
"""Tables of made-up images."""

import numpy as np
import pandas as pd

from anomalib_vqflow.report.collect import Collected

LONG_NAME = "printed_circuit_board_with_a_$very$_long_name_of_its_own"


def made_up(num_categories=3, num_concepts=4, plain=True, seed=0):
    rng = np.random.default_rng(seed)
    names = [f"{index:02}_{LONG_NAME}" for index in range(num_categories)]
    number = 20 * num_categories
    category = rng.integers(0, num_categories, number)
    anomalous = rng.random(number) < 0.5
    raw = rng.normal(0.4, 0.09, number) + 0.2 * anomalous + 0.1 * category
    images = pd.DataFrame(
        {
            "path": [f"/data/{names[c]}/test/{i:03}.png" for i, c in enumerate(category)],
            "category": [names[c] for c in category],
            "concept": rng.integers(0, num_concepts, number),
            "distance": rng.random(number),
            "anomalous": anomalous.astype(np.float32),
            "score": (raw - 0.1 * category).astype(np.float32),
            "plain": raw.astype(np.float32) if plain else np.float32("nan"),
            "alarm": raw - 0.1 * category > 0.5,
        }
    )
    return Collected(images, images, number, num_concepts, names, 0.5, np.linspace(0.2, 0.6, 30, dtype=np.float32))
