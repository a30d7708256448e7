"""Connections that are taken when their request has ended: read-only, and only while in use.

What takes one is a stream, a teardown function or a kept test context. A stream whose client is
gone may never be ended: some servers forget to close it, and Flask keeps its context. So such a
connection may be taken back when others wait and it is idle; it only reads, so nothing is lost.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dbpool.adapters import monotonic

from ._errors import released
from ._lease import ContextLease

if TYPE_CHECKING:
    from dbpool import ConnectionPool
    from dbpool.adapters import SessionWatch

    from ._context import Owner
    from ._hooks import Unit

__all__ = ["LateLease"]

PATIENCE = 3.0  # seconds that it may rest while others wait


class LateLease(ContextLease):
    """A lease of a context whose request has ended."""

    __slots__ = ("__weakref__", "_owner")

    def __init__(
        self, name: str, pool: ConnectionPool, unit: Unit, owner: Owner, watch: SessionWatch | None
    ) -> None:
        self._owner = _LateOwner(owner)
        super().__init__(name, pool, unit, self._owner, watch)
        self._owner.lease = weakref.ref(self)

    def raw(self) -> Any:
        """Return the driver's connection. Raises ConnectionReleased if it was taken back."""
        if self._owner.taken:
            raise released()
        return super().raw()

    def enter(self) -> None:
        """Begin to use the connection. Raises ConnectionReleased if it was taken back."""
        owner = self._owner
        owner.uses += 1
        owner.busy += 1
        if owner.taken:
            owner.busy -= 1
            raise released()

    def leave(self) -> None:
        """Stop using it for the time being."""
        self._owner.busy -= 1


class _LateOwner:
    """Tells the pool, which asks where it is exhausted, whether somebody is using it."""

    __slots__ = ("_context", "_seen", "_since", "busy", "lease", "taken", "uses")

    def __init__(self, context: Owner) -> None:
        self._context = context
        self._seen = -1
        self._since = 0.0
        self.busy = self.uses = 0
        self.taken = False
        self.lease: Callable[[], LateLease | None] = _nobody

    def is_alive(self) -> bool:
        """Return False if it has been idle for a while, or its context is gone."""
        if not self._context.is_alive():
            return False
        now = monotonic()
        if self.uses != self._seen or self.busy:
            self._seen, self._since = self.uses, now
        lease = self.lease()
        if lease is None or lease.blocks or now - self._since < PATIENCE:
            return True
        # In this order: a use that begins now either sees `taken`, or is seen here.
        self.taken = True
        if self.busy:
            self.taken = False
            return True
        lease.lost = True  # the next read of db.connection takes another
        return False

    def forked(self) -> None:
        """Have the context let go of it, in a forked child."""
        self._context.forked()


def _nobody() -> None:
    return None
