"""The clock that all deadlines, lifetimes and pauses go by, out of reach of test tools.

freezegun looks through all modules for the functions of the `time` module, by whatever name, and
puts its own in their place, which answer some callers with the frozen time and others with the real
one. A pool that mixes the two makes connections that look expired, and waits for ever. So the
function here is one of our own: that of a second copy of the built-in module, which nobody else
has. It costs a call what the usual one does, and it is the real one also where this package is
imported under a frozen clock.

Sleeping stays with the `time` module that everybody has: gevent puts its own function there.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.machinery import BuiltinImporter
from importlib.util import module_from_spec
from typing import Any

__all__ = ["monotonic"]


def _own_time() -> Any:
    """Return a copy of the module `time`; the usual one where an interpreter has it otherwise."""
    spec = BuiltinImporter.find_spec("time")
    if spec is None or spec.loader is None:
        import time

        return time
    copy = module_from_spec(spec)
    spec.loader.exec_module(copy)
    return copy


monotonic: Callable[[], float] = _own_time().monotonic
