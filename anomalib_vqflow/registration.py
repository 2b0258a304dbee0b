# SPDX-License-Identifier: Apache-2.0
"""Offers our classes under anomalib's own names as soon as anomalib is imported; standard library only.

anomalib finds models and datamodules among the classes that are already imported (command line, YAML, ``list_models``,
``get_model("vqflow")``) or among the attributes of ``anomalib.models`` and ``anomalib.data`` (``class_path: VQFlow`` in
``get_model`` and ``anomalib benchmark``). So whenever one of these two modules has been imported, ours is imported too
and its classes are set as attributes there. In ``anomalib benchmark``, a class of ours extends one of anomalib's.

The entry point ``anomalib_vqflow_hook`` calls this while torch is being imported, which may be in the middle of
``anomalib.models``. Its end can't be seen then, but the end of the last module that it imports can.

A module of ours may be what imports anomalib. Others of ours can't import it before its end, so offers wait for that.
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
    from collections.abc import Set as AbstractSet
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
_OURS = f"{__package__}."
_WATCHED = frozenset(name for offer in _OFFERS for name in (offer.host, offer.last_import))


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
        self.waiting: set[_Offer] = set()  # for modules of ours that are running

    def find_spec(
        self, fullname: str, path: "Sequence[str] | None" = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a watched module through the other finders; anything else is left to them."""
        if not (fullname in _WATCHED or fullname.startswith(_OURS)) or getattr(self.searching, "now", False):
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
        except BaseException:
            _FINDER.running.discard(name)
            _publish_or_wait(_FINDER.waiting, finished=None)
            raise
        _FINDER.running.discard(name)
        _after_import(name)

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)


_FINDER = _Finder()


def _after_import(name: str) -> None:
    """Import our module if its host has just come to its end, and offer its classes."""
    due = {
        offer
        for offer in _OFFERS
        if name in {offer.host, offer.ours} or (name == offer.last_import and offer.host not in _FINDER.running)
    }
    _publish_or_wait(due | _FINDER.waiting, finished=name)


def _publish_or_wait(offers: "AbstractSet[_Offer]", *, finished: str | None) -> None:
    """Offer classes now if none of our modules is running, else at the end of the last one."""
    if any(name.startswith(_OURS) for name in _FINDER.running):
        _FINDER.waiting |= offers
        return
    _FINDER.waiting -= offers
    for offer in (offer for offer in _OFFERS if offer in offers):
        try:
            _publish(offer, finished=finished == offer.ours)
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
