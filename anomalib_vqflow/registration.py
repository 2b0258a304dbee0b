# SPDX-License-Identifier: Apache-2.0
"""Offers our classes under anomalib's own names as soon as anomalib is imported; standard library only.

anomalib finds models and datamodules among the classes that are already imported (command line, YAML, ``list_models``,
``get_model("vqflow")``) or among the attributes of ``anomalib.models`` and ``anomalib.data`` (``class_path: VQFlow`` in
``get_model`` and ``anomalib benchmark``). So whenever one of these two modules has been imported, ours is imported too
and its classes are set as attributes there. In ``anomalib benchmark``, a class of ours extends one of anomalib's.

The entry point ``anomalib_vqflow_hook`` calls this while torch is being imported, which may be in the middle of
``anomalib.models``. Its end can't be seen then, but the end of the last module that it imports can.
"""

import logging
import sys
import threading
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader

logger = logging.getLogger(__name__)


class _Offer(NamedTuple):
    """Classes of ours, and the module of anomalib that offers them."""

    host: str
    last_import: str  # what the host imports last, at a time when all that our module needs from it exists
    ours: str
    classes: tuple[str, ...]
    replaces: bool = False  # classes of anomalib's that ours extend


_OFFERS = (
    _Offer("anomalib.models", "anomalib.models.video", f"{__package__}.lightning_model", ("VQFlow",)),
    _Offer("anomalib.data", "anomalib.data.predict", f"{__package__}.data", ("MultiCategory", "SyntheticProducts")),
    _Offer(
        "anomalib.pipelines.benchmark.generator",
        "anomalib.pipelines.benchmark.job",
        f"{__package__}.evaluation.benchmark",
        ("BenchmarkJob",),
        replaces=True,
    ),
)
_WATCHED = frozenset(name for offer in _OFFERS for name in (offer.host, offer.last_import, offer.ours))


def register() -> None:
    """Offer our classes in anomalib, now if it is imported already, otherwise when it is.

    Calling it again changes nothing. It never raises: if our modules can't be imported, a warning is logged and
    anomalib goes on without them.
    """
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    for offer in _OFFERS:
        host = sys.modules.get(offer.host)
        if host is not None and not _is_initializing(host):
            _after_import(offer.host)


class _Finder:
    """Finds the watched modules where the other finders do, and adds a call at the end of their import."""

    def __init__(self) -> None:
        self.searching = threading.local()
        self.running: set[str] = set()

    def find_spec(
        self, fullname: str, path: "Sequence[str] | None" = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a watched module through the other finders; anything else is left to them."""
        if fullname not in _WATCHED or getattr(self.searching, "now", False):
            return None
        self.searching.now = True  # another package's finder may ask all finders, as this one does
        try:
            specs = (
                finder.find_spec(fullname, path, target) for finder in sys.meta_path if hasattr(finder, "find_spec")
            )
            spec = next((spec for spec in specs if spec is not None), None)
        finally:
            self.searching.now = False
        if spec is not None and spec.loader is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Loader(spec.loader)  # type: ignore[assignment]  # all else is delegated
        return spec


class _Loader:
    """Runs a module with its own loader, which the module keeps, then calls back."""

    def __init__(self, loader: "Loader") -> None:
        self._loader = loader

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then offer our classes."""
        name = module.__name__
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        _FINDER.running.add(name)
        try:
            self._loader.exec_module(module)
        finally:
            _FINDER.running.discard(name)
        _after_import(name)

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)


_FINDER = _Finder()


def _after_import(name: str) -> None:
    """Import our module if its host has just come to its end, and offer its classes."""
    for offer in _OFFERS:
        at_last_import = name == offer.last_import and offer.host not in _FINDER.running
        if name in {offer.host, offer.ours} or at_last_import:
            try:
                _publish(offer, finished=name == offer.ours)
            except Exception as error:  # noqa: BLE001  (torch and anomalib must work without us)
                logger.warning(
                    "%s could not be imported, so anomalib does not know %s: %s: %s",
                    offer.ours,
                    " and ".join(offer.classes),
                    type(error).__name__,
                    error,
                )


def _publish(offer: _Offer, *, finished: bool) -> None:
    """Set our classes as attributes of the host, or import our module, whose end calls this again."""
    ours, host = sys.modules.get(offer.ours), sys.modules.get(offer.host)
    if ours is None:
        import_module(offer.ours)
    elif host is not None and (finished or not _is_initializing(ours)):
        for name in offer.classes:
            value = getattr(ours, name)
            known = getattr(host, name, value).__module__
            if offer.replaces or known.startswith(f"{__package__}."):  # else never hide a class of anomalib's
                setattr(host, name, value)


def _is_initializing(module: ModuleType) -> bool:
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))
