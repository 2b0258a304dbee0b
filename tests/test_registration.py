# SPDX-License-Identifier: Apache-2.0
"""Plain anomalib finds the model and the datamodules, in every order of imports and every kind of install.

The quick tests run the hook against a stand-in for anomalib with the same order of imports. The slow ones install the
package as a user would, into an environment that has everything but us, and start new processes there.
"""

import importlib
import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import venv
import zipfile
from pathlib import Path

import pytest

import anomalib_vqflow

ROOT = Path(__file__).parents[1]
NAMES = ("CategoryEvaluator", "MultiCategory", "SyntheticProducts", "VQFlow", "VQFlowLoss", "VQFlowModel")
TINY = """backbone: test_convnext2, pre_trained: false, input_size: [64, 64], concept_dim: 8, num_concepts: 4,
    num_patterns: 8, position_dim: 4, flow_steps: [1, 1, 1], hidden_dim: 8"""


def run_python(
    script: str,
    *args: str,
    python: str | Path = sys.executable,
    cwd: Path,
    flags: tuple[str, ...] = (),
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run a script in a new process that sees nothing of this one's environment variables for Python or torch."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "TORCH", "COV_"))}
    return subprocess.run(
        [str(python), *flags, "-c", textwrap.dedent(script), *args],
        env={**env, "OMP_NUM_THREADS": "1", **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def check_python(script: str, *args: str, **options: object) -> str:
    """Run a script and return its stderr, after checking that it succeeded."""
    done = run_python(script, *args, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr


# The names, in this process


@pytest.mark.parametrize("name", NAMES)
def test_public_names_resolve_and_are_listed(name):
    assert getattr(anomalib_vqflow, name).__name__ == name
    assert name in anomalib_vqflow.__all__
    assert name in dir(anomalib_vqflow)


def test_unknown_name_raises_attribute_error():
    with pytest.raises(AttributeError, match="NoSuchThing"):
        _ = anomalib_vqflow.NoSuchThing


def test_model_is_a_direct_subclass_that_list_models_sees():
    from anomalib.models import AnomalibModule, list_models

    assert AnomalibModule in anomalib_vqflow.VQFlow.__bases__
    assert "VQFlow" in list_models(case="pascal")


def test_whitelist_of_anomalib_is_untouched():
    from anomalib.models import ALLOWED_MODULES

    assert not [name for name in ALLOWED_MODULES if not name.startswith("anomalib.")]


def test_register_twice_changes_nothing():
    before = list(sys.meta_path)
    anomalib_vqflow.registration.register()
    assert sys.meta_path == before


# The hook, against a stand-in

FAKE = {
    "torch.py": """
        import os
        if os.environ.get("HOOK") == "on":
            import anomalib_vqflow_hook
            anomalib_vqflow_hook.register()
    """,
    "anomalib/__init__.py": "",
    "anomalib/models/__init__.py": """
        from anomalib.models import first
        from .components import AnomalibModule
        from .video import AiVad
        list_models = AnomalibModule.__subclasses__
    """,
    "anomalib/models/first.py": "import torch",
    "anomalib/models/components.py": "import anomalib.data\nclass AnomalibModule: pass",
    "anomalib/models/video.py": "class AiVad: pass",
    "anomalib/data/__init__.py": "import torch\nclass AnomalibDataModule: pass\nfrom .predict import PredictDataset",
    "anomalib/data/predict.py": "class PredictDataset: pass",
    "anomalib_vqflow/lightning_model.py": """
        from anomalib.models.components import AnomalibModule
        from anomalib_vqflow.export import Exporter
        class VQFlow(AnomalibModule): pass
    """,
    "anomalib_vqflow/data/__init__.py": """
        from importlib import import_module
        def __getattr__(name):
            modules = {"MultiCategory": ".multi_category", "SyntheticProducts": ".synthetic_products"}
            if name not in modules: raise AttributeError(name)
            return getattr(import_module(modules[name], __name__), name)
    """,
    "anomalib_vqflow/data/multi_category.py": """
        from anomalib.data import AnomalibDataModule
        class MultiCategory(AnomalibDataModule): pass
    """,
    "anomalib_vqflow/data/synthetic_products.py": """
        from anomalib.data import AnomalibDataModule
        class SyntheticProducts(AnomalibDataModule): pass
    """,
    "anomalib_vqflow/export.py": "import anomalib.models\nclass Exporter: pass",
}
CHECK = """
import sys, anomalib.models as m, anomalib.data as d
assert m.VQFlow is sys.modules["anomalib_vqflow.lightning_model"].VQFlow
assert [c.__name__ for c in m.list_models()] == ["VQFlow"], m.list_models()
assert {c.__name__ for c in d.AnomalibDataModule.__subclasses__()} == {"MultiCategory", "SyntheticProducts"}
assert d.MultiCategory.__module__ == "anomalib_vqflow.data.multi_category"
assert d.SyntheticProducts.__module__ == "anomalib_vqflow.data.synthetic_products"
"""


@pytest.fixture
def fake(tmp_path):
    """Return a folder with our hook and stand-ins for torch, anomalib, our model and our datamodules."""
    for name, text in FAKE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    for name in ("anomalib_vqflow_hook.py", "anomalib_vqflow/__init__.py", "anomalib_vqflow/registration.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def check_fake(script: str, fake: Path, hook: str = "on", *flags: str) -> str:
    return check_python(script, python=sys.executable, cwd=fake, flags=("-S", *flags), HOOK=hook)


ORDERS = {
    "torch": "import torch",
    "models": "import anomalib.models",
    "data": "import anomalib.data",
    "torch, models": "import torch, anomalib.models",
    "from models": "from anomalib.models import VQFlow",
    "from data": "from anomalib.data import SyntheticProducts",
    "video": "import anomalib.models.video",
    "predict": "import anomalib.data.predict",
    "ours": "import anomalib_vqflow",
    "our model": "from anomalib_vqflow import VQFlow",
    "our model's module": "import anomalib_vqflow.lightning_model",
    "our data": "from anomalib_vqflow import MultiCategory",
    "our data's module": "import anomalib_vqflow.data",
    "our export, which our model needs": "import anomalib_vqflow.export",
}


@pytest.mark.parametrize("first", ORDERS)
def test_every_order_of_imports_registers_without_a_warning(fake, first):
    assert check_fake(ORDERS[first] + CHECK, fake) == ""


@pytest.mark.parametrize("first", [name for name in ORDERS if name.startswith("our")])
def test_importing_us_registers_where_the_hook_is_off(fake, first):
    assert check_fake(ORDERS[first] + CHECK, fake, "off") == ""


def test_importing_us_after_anomalib_registers_at_once(fake):
    assert check_fake("import anomalib.models, anomalib_vqflow" + CHECK, fake, "off") == ""


def test_hook_off_leaves_anomalib_alone(fake):
    script = (
        "import sys, anomalib.models as m\nassert not hasattr(m, 'VQFlow')\nassert 'anomalib_vqflow' not in sys.modules"
    )
    check_fake(script, fake, "off")


def test_hook_imports_the_standard_library_only(fake):
    script = """
        import anomalib_vqflow_hook, sys
        anomalib_vqflow_hook.register()
        assert "anomalib_vqflow" in sys.modules
        others = {name.split(".")[0] for name in sys.modules} - sys.stdlib_module_names - {"__main__", "__mp_main__"}
        assert others == {"anomalib_vqflow", "anomalib_vqflow_hook"}, others
    """
    check_fake(script, fake)


@pytest.mark.parametrize("flags", [(), ("-W", "error")], ids=["", "warnings are errors"])
@pytest.mark.parametrize("first", ["models", "torch, models"])
def test_broken_model_gives_one_warning_that_says_why(fake, first, flags):
    (fake / "anomalib_vqflow/lightning_model.py").write_text("raise OSError('disk is full of eels')")
    script = (
        ORDERS[first]
        + "\nimport anomalib.models as m\nassert m.list_models() == []\nimport anomalib.data as d\nd.MultiCategory"
    )
    warning = check_fake(script, fake, "on", *flags)
    assert warning.count("disk is full of eels") == 1
    assert "VQFlow" in warning
    assert "Traceback" not in warning


def test_broken_model_raises_its_own_error_when_asked_for(fake):
    (fake / "anomalib_vqflow/lightning_model.py").write_text("raise OSError('disk is full of eels')")
    done = run_python("from anomalib_vqflow import VQFlow", cwd=fake, flags=("-S",), HOOK="on")
    assert "OSError: disk is full of eels" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("gone", ["anomalib_vqflow", "anomalib_vqflow/registration.py", "anomalib_vqflow/__init__.py"])
def test_half_removed_package_gives_a_warning_only(fake, gone):
    path = fake / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    warning = check_fake("import torch, anomalib.models as m", fake)
    assert "pip uninstall anomalib-vqflow" in warning
    assert "Traceback" not in warning


def test_class_of_the_same_name_in_anomalib_is_kept(fake):
    with (fake / "anomalib/models/video.py").open("a") as file:
        file.write("\nclass VQFlow: pass\n")
    (fake / "anomalib/models/__init__.py").write_text(
        "import torch\nfrom .components import AnomalibModule\nfrom .video import VQFlow"
    )
    check_fake("import torch, anomalib.models as m\nassert m.VQFlow.__module__ == 'anomalib.models.video'", fake)


def test_modules_keep_no_trace_of_the_hook(fake):
    script = """
        import importlib.util, torch
        from importlib.machinery import SourceFileLoader
        names = ["anomalib.models", "anomalib.models.video", "anomalib.data", "anomalib_vqflow.lightning_model"]
        spec = importlib.util.find_spec("anomalib.models")
        assert spec.origin.endswith("__init__.py") and spec.submodule_search_locations
        assert "list_models" in spec.loader.get_source("anomalib.models")
        import anomalib.models, inspect, sys
        for name in names:
            module = sys.modules[name]
            assert type(module.__loader__) is type(module.__spec__.loader) is SourceFileLoader, name
            assert importlib.util.find_spec(name) is module.__spec__
            assert inspect.getsource(module)
        importlib.reload(anomalib.models)
        importlib.reload(anomalib.data)
        assert type(anomalib.models.__loader__) is type(anomalib.models.__spec__.loader) is SourceFileLoader
        assert anomalib.models.VQFlow and anomalib.data.MultiCategory
        importlib.reload(sys.modules["anomalib_vqflow.lightning_model"])
        assert anomalib.models.VQFlow is sys.modules["anomalib_vqflow.lightning_model"].VQFlow
        importlib.reload(sys.modules["anomalib_vqflow"])
        importlib.reload(sys.modules["anomalib_vqflow.registration"])
        import pickle
        assert pickle.loads(pickle.dumps(anomalib.models.VQFlow)) is anomalib.models.VQFlow
    """
    assert check_fake(script, fake) == ""


def test_another_finder_that_asks_all_finders_does_not_loop(fake):
    script = """
        import sys, torch
        class Asking:
            busy = False
            def find_spec(self, name, path=None, target=None):
                if self.busy: return None
                self.busy = True
                specs = [f.find_spec(name, path, target) for f in sys.meta_path]
                self.busy = False
                return next((spec for spec in specs if spec), None)
        sys.meta_path.insert(0, Asking())
        sys.meta_path.append(Asking())
    """
    assert check_fake(textwrap.dedent(script) + CHECK, fake) == ""


@pytest.mark.parametrize("first", ["anomalib.models", "anomalib_vqflow.lightning_model"])
def test_two_threads_may_import_anomalib_and_us_at_once(fake, first):
    for name in ("anomalib/models/components.py", "anomalib/models/video.py", "anomalib_vqflow/lightning_model.py"):
        path = fake / name
        path.write_text("import time\ntime.sleep(0.2)\n" + path.read_text())
    script = f"""
        import importlib, threading, time, torch
        names = ["anomalib.models", "anomalib_vqflow.lightning_model"]
        names.sort(key=lambda name: name != {first!r})
        errors = []
        def load(name):
            try: importlib.import_module(name)
            except BaseException as error: errors.append(error)
        threads = [threading.Thread(target=load, args=[name]) for name in names]
        for thread in threads:
            thread.start()
            time.sleep(0.1)
        for thread in threads:
            thread.join(20)
        assert not errors, errors
    """
    assert check_fake(textwrap.dedent(script) + CHECK, fake) == ""


# Real installs


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Return the wheel, built from the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def everything_else(tmp_path_factory):
    """Return a folder that links to every installed package but ours."""
    folder = tmp_path_factory.mktemp("everything_else")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "anomalib_vqflow" not in path.name:
            (folder / path.name).symlink_to(path)
    return folder


class Environment:
    """A virtual environment that sees every installed package but ours."""

    def __init__(self, folder: Path, everything_else: Path) -> None:
        venv.create(folder, symlinks=True)
        self.folder = folder
        self.python = folder / "bin" / "python"
        self.site = next(folder.glob("lib/python*/site-packages"))
        (self.site / "everything_else.pth").write_text(f"{everything_else}\n")

    def pip(self, *args: str) -> None:
        command = [sys.executable, "-m", "pip", "--python", str(self.python), "--disable-pip-version-check", *args]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.folder)
        assert done.returncode == 0, done.stdout + done.stderr

    def install(self, *what: str) -> None:
        self.pip("install", "--no-deps", "--no-index", "--no-build-isolation", *what)

    def check(self, script: str, *args: str, **environment: str) -> str:
        return check_python(script, *args, python=self.python, cwd=self.folder, **environment)


@pytest.fixture(scope="module", params=["wheel", "editable"])
def environment(request, wheel, everything_else, tmp_path_factory):
    """Return an environment with the package installed."""
    environment = Environment(tmp_path_factory.mktemp(request.param), everything_else)
    environment.install(*([str(wheel)] if request.param == "wheel" else ["-e", str(ROOT)]))
    return environment


@pytest.mark.slow
def test_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    kept = {".html", ".py", ".typed", ".safetensors"}
    expected = {
        str(path.relative_to(ROOT)) for path in (ROOT / "anomalib_vqflow").rglob("*") if path.suffix in kept
    } | {"anomalib_vqflow_hook.py"}
    expected |= {f"anomalib_vqflow/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.yaml")}
    assert held == expected


@pytest.mark.slow
def test_importing_torch_costs_the_hook_only(environment):
    script = """
        import sys, time
        import torch
        ours = sorted(name for name in sys.modules if "vqflow" in name)
        assert ours == ["anomalib_vqflow", "anomalib_vqflow.registration", "anomalib_vqflow_hook"], ours
        assert "anomalib" not in sys.modules
    """
    assert "vqflow" not in environment.check(script)
    environment.check("import sys\nassert not [name for name in sys.modules if 'vqflow' in name or name == 'torch']")


PLAIN = """
import importlib.util, pickle, sys
spec = importlib.util.find_spec("anomalib.models")  # imports anomalib only
assert "torch" not in sys.modules
from anomalib.models import VQFlow, get_model, list_models
from anomalib.data import MultiCategory, SyntheticProducts, get_datamodule
import anomalib.data, anomalib.models, inspect
assert "v_q_flow" in list_models() and "VQFlow" in list_models("pascal"), list_models()
tiny = dict(backbone="test_convnext2", pre_trained=False, input_size=(64, 64), concept_dim=8, hidden_dim=8)
for name in ["vqflow", "VQFlow", "v_q_flow", {"class_path": "VQFlow"}, {"class_path": "anomalib.models.VQFlow"}]:
    assert type(get_model(name, **tiny)) is VQFlow, name
data = {"class_path": "SyntheticProducts", "init_args": {"root": "data", "categories": ["gear"], "num_train": 4}}
assert type(get_datamodule({"data": data})) is SyntheticProducts
from anomalib.pipelines.benchmark.generator import BenchmarkJobGenerator
grid = {"seed": 1, "model": {"class_path": "VQFlow", "init_args": {**tiny, "input_size": [64, 64]}}, "data": data}
(job,) = BenchmarkJobGenerator(accelerator="cpu").generate_jobs(grid, None)
assert type(job.model) is VQFlow and type(job.datamodule) is SyntheticProducts
assert type(anomalib.models.__loader__) is type(anomalib.__loader__)
assert "def list_models" in inspect.getsource(anomalib.models)
assert pickle.loads(pickle.dumps(VQFlow)) is VQFlow
importlib.reload(anomalib.models)
assert anomalib.models.VQFlow is VQFlow and "v_q_flow" in anomalib.models.list_models()
"""


@pytest.mark.slow
def test_plain_anomalib_finds_model_and_data(environment):
    assert "does not know" not in environment.check(PLAIN)


CLI = """
import sys
from anomalib.cli import AnomalibCLI
from jsonargparse import set_parsing_settings
for config in sys.argv[1:]:
    cli = AnomalibCLI(["fit", "--config", config], run=False)
    assert type(cli.model).__module__ == "anomalib_vqflow.lightning_model", cli.model
    assert type(cli.datamodule).__module__ == "anomalib_vqflow.data.multi_category", cli.datamodule
cli = AnomalibCLI(["fit", "--model", "VQFlow", "--model.pre_trained", "false", "--model.backbone", "test_convnext2",
    "--model.input_size", "[64, 64]", "--model.hidden_dim", "8", "--model.concept_dim", "8",
    "--data", "SyntheticProducts", "--data.root", "generated", "--data.categories", "[gear]"], run=False)
assert type(cli.datamodule).__name__ == "SyntheticProducts"
try: AnomalibCLI(["train", "--model.help", "VQFlow"])
except SystemExit as end: assert not end.code
try: AnomalibCLI(["fit", "--data.help", "MultiCategory"])
except SystemExit as end: assert not end.code
"""


def write_configs(folder: Path, prefixes: list[str]) -> list[str]:
    images = folder / "images"
    for part in ("train/good", "test/good", "test/bad"):
        (images / "product" / part).mkdir(parents=True, exist_ok=True)
    paths = []
    for prefix in prefixes:
        path = folder / f"{prefix}config.yaml"
        path.write_text(
            f"model:\n  class_path: {prefix}VQFlow\n  init_args: {{{TINY}}}\n"
            f"data:\n  class_path: {prefix}MultiCategory\n  init_args: {{root: {images}}}\n"
        )
        paths.append(str(path))
    return paths


@pytest.mark.slow
def test_command_line_and_configs_take_short_and_long_names(environment):
    configs = write_configs(environment.folder, ["", "anomalib_vqflow."])
    done = run_python(CLI, *configs, python=environment.python, cwd=environment.folder)
    assert done.returncode == 0, done.stdout + done.stderr
    for text in ("--model.num_concepts", "Learning rate", "--data.categories"):
        assert text in done.stdout
    assert "does not know" not in done.stderr


@pytest.mark.slow
def test_with_the_hook_off_the_long_path_and_an_import_still_work(environment):
    off = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    script = """
        import sys
        import anomalib.models as m, anomalib.data as d
        assert not hasattr(m, "VQFlow") and "anomalib_vqflow" not in sys.modules
        from anomalib.cli import AnomalibCLI
        cli = AnomalibCLI(["fit", "--config", sys.argv[1]], run=False)
        assert type(cli.model).__name__ == "VQFlow"
        import anomalib_vqflow
        assert m.VQFlow is anomalib_vqflow.VQFlow is type(cli.model)
        assert d.MultiCategory is anomalib_vqflow.MultiCategory
        assert "v_q_flow" in m.list_models()
    """
    environment.check(script, *write_configs(environment.folder, ["anomalib_vqflow."]), **off)


@pytest.mark.slow
def test_our_modules_do_not_import_engine_cli_or_pipelines(tmp_path):
    script = """
        import sys
        for module in ("lightning_model", "data", "evaluation", "backbones"):
            __import__(f"anomalib_vqflow.{module}")
        found = [name for name in ("anomalib.engine", "anomalib.cli", "anomalib.pipelines") if name in sys.modules]
        assert not found, found
    """
    check_python(script, cwd=tmp_path, TORCH_DEVICE_BACKEND_AUTOLOAD="0")


@pytest.mark.slow
def test_broken_and_half_removed_installs_break_neither_torch_nor_anomalib(wheel, everything_else, tmp_path):
    environment = Environment(tmp_path / "env", everything_else)
    environment.install(str(wheel))
    package = environment.site / "anomalib_vqflow"
    (package / "lightning_model.py").write_text("import no_such_module")
    script = "import torch, anomalib.models as m\nassert 'padim' in m.list_models()\nassert not hasattr(m, 'VQFlow')"
    assert "No module named 'no_such_module'" in environment.check(script)
    shutil.rmtree(package)
    assert "Reinstall it" in environment.check("import torch; torch.zeros(1)")


@pytest.mark.slow
def test_deleted_checkout_of_an_editable_install_does_not_break_torch(everything_else, tmp_path):
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("anomalib_vqflow", "configs"):
        shutil.copytree(ROOT / name, checkout / name)
    for name in ("pyproject.toml", "LICENSE", "README.md", "anomalib_vqflow_hook.py"):
        shutil.copy(ROOT / name, checkout)
    environment = Environment(tmp_path / "env", everything_else)
    environment.install("-e", str(checkout))
    shutil.rmtree(checkout)
    assert "Reinstall it" in environment.check("import torch; torch.zeros(1)")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_uninstall_leaves_nothing(wheel, everything_else, tmp_path, kind):
    environment = Environment(tmp_path / "env", everything_else)
    before = sorted(environment.folder.rglob("*"))
    environment.install(*([str(wheel)] if kind == "wheel" else ["-e", str(ROOT)]))
    environment.check("import anomalib_vqflow, torch")
    environment.pip("uninstall", "--yes", "anomalib-vqflow")
    assert sorted(environment.folder.rglob("*")) == before
    warning = environment.check("import sys, torch\nassert not [name for name in sys.modules if 'vqflow' in name]")
    assert "vqflow" not in warning


def test_version_is_the_one_in_the_package():
    assert importlib.metadata.version("anomalib-vqflow") == anomalib_vqflow.__version__
