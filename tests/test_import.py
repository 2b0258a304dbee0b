# SPDX-License-Identifier: Apache-2.0
"""What `import anomalib.models` and `import anomalib.data` pay for this package."""

import sys

import pytest

from .test_registration import check_python

ON_DEMAND = ("data.synthetic", "report")
"""Modules that most programs never import."""


@pytest.mark.slow
def test_joining_anomalib_imports_nothing_that_anomalib_does_not_use(tmp_path):
    """Being found costs our own modules only, without generators and report; no other package comes with them."""
    script = f"""
        import sys
        import anomalib.models, anomalib.data
        before = set(sys.modules)
        import anomalib_vqflow
        added = set(sys.modules) - before
        assert {{"anomalib_vqflow.lightning_model", "anomalib_vqflow.data"}} <= added
        others = {{name.split(".")[0] for name in added}} - {{"anomalib_vqflow", *{sorted(sys.stdlib_module_names)}}}
        assert not others, others
        modules = ["anomalib_vqflow." + name for name in {ON_DEMAND}]
        found = [name for name in added for module in modules if name == module or name.startswith(module + ".")]
        assert not found, found
    """
    check_python(script, cwd=tmp_path, TORCH_DEVICE_BACKEND_AUTOLOAD="0")
