# SPDX-License-Identifier: Apache-2.0
import pytest

from anomalib_vqflow.report import plots
from anomalib_vqflow.report.__main__ import main
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
    """What the command says to unusable arguments; it ends with status 2, in one line, without a traceback."""

    def refuse(*arguments):
        with pytest.raises(SystemExit) as error:
            main([str(argument) for argument in arguments])
        assert error.value.code == 2
        message = capsys.readouterr().err.strip().splitlines()[-1]
        assert message.startswith("vqflow-report: ")
        return message

    return refuse
