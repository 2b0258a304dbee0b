# SPDX-License-Identifier: Apache-2.0
import pytest

from anomalib_vqflow.report import plots
from anomalib_vqflow.report.__main__ import main
from tests.refusals import refuser
from tests.tiny import tiny_data, tiny_engine, tiny_model, tiny_root


@pytest.fixture(autouse=True)
def coarse_plots(monkeypatch):
    """Plot with fewer pixels, which is several times faster."""
    monkeypatch.setitem(plots.STYLE, "figure.dpi", 60)


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A trained model's checkpoint, and the folder of its products."""
    folder = tmp_path_factory.mktemp("run")
    root, engine = tiny_root(folder / "products"), tiny_engine(folder)
    engine.fit(tiny_model(), datamodule=tiny_data(root))
    return engine.trainer.checkpoint_callback.best_model_path, root


@pytest.fixture
def refusal(capsys):
    """What the command says to unusable arguments."""
    return refuser(main, "vqflow-report", capsys)
