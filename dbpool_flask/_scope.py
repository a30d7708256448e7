"""One unit of work: the connections of one context, and how they end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from dbpool.options import nearest

from ._context import ContextOwner
from ._fence import FencedConnection
from ._lease import ContextLease

if TYPE_CHECKING:
    from flask.ctx import AppContext, RequestContext

    from dbpool import ConnectionPool

__all__ = ["Scope"]

logger = logging.getLogger("dbpool.flask")


class Scope:
    """The connections that one context has taken, by the names of their pools.

    `dispatched`: Flask is answering a request in it, so that its end decides what is committed.
    `ended`: that end has come; what is taken now is read-only.
    """

    __slots__ = ("__weakref__", "_fences", "_owner", "_pools", "dispatched", "doomed", "ended")

    def __init__(
        self,
        context: AppContext | RequestContext,
        pools: Callable[[], Mapping[str, ConnectionPool]],
    ) -> None:
        self._owner = ContextOwner(context)
        self._pools = pools
        self._fences: dict[str, FencedConnection] = {}  # in the order of acquiring
        self.dispatched = False
        self.ended = False
        self.doomed = False

    # -- while it lasts

    def connection(self, name: str) -> FencedConnection:
        """Return the connection to that database; take it from the pool on first use."""
        fence = self._fences.get(name)
        if fence is not None:
            if not fence._lease.lost:
                return fence
            if self._fences.pop(name, None) is fence:
                fence._lease.give_back()
        return self._take(name)

    def _take(self, name: str) -> FencedConnection:
        pools = self._pools()
        if name not in pools:
            hint = nearest(name, pools) or f": there is {', '.join(map(repr, pools))}"
            raise LookupError(f"no database {name!r} is configured{hint}")
        lease = ContextLease(pools[name], self._owner)
        try:
            lease.doomed = self.doomed
            if self.ended:
                lease.make_read_only()
        except BaseException:
            lease.give_back(torn=True)
            raise
        fence = FencedConnection(lease)
        kept = self._fences.setdefault(name, fence)
        if kept is not fence:  # another thread of the same context was first
            lease.give_back()
        return kept

    def commit(self, name: str | None) -> None:
        """Commit now: that database, or all that were used, if each of them can be."""
        leases = self._leases(name)
        for lease in leases:
            lease.refuse_in_block("commit")
        self._commit(leases)

    def rollback(self, name: str | None) -> None:
        """Roll back now: that database, or all that were used."""
        leases = self._leases(name)
        for lease in leases:
            lease.refuse_in_block("rollback")
        for lease in leases:
            lease.rollback()

    def doom(self) -> None:
        """Have nothing more of this unit committed."""
        self.doomed = True
        for lease in self._leases(None):
            lease.doomed = True

    def _leases(self, name: str | None) -> list[ContextLease]:
        if name is None:
            return [fence._lease for fence in list(self._fences.values())]
        return [self._fences[name]._lease] if name in self._fences else []

    # -- the end

    def begin(self) -> None:
        """A request starts in this context."""
        self.dispatched = True
        self.ended = False

    def finish(self, commit: bool) -> None:
        """End the request's unit: commit or roll back, and give everything back.

        Raises what committing raises; then nothing of the failing transaction is committed, all
        connections are back as well, and the request goes on (to its error handlers).
        """
        leases = self._withdraw()
        torn = True
        try:
            if commit and not self.doomed:
                self._commit(leases)
            torn = False
            self.ended = True
        except Exception:
            torn = False
            raise
        finally:
            _give_back(leases, torn)

    def clean(self, torn: bool) -> None:
        """Roll back and give back what is left. Never raises an Exception; may run repeatedly."""
        self.ended = self.ended or self.dispatched
        if self._fences:
            _give_back(self._withdraw(), torn)

    def _withdraw(self) -> list[ContextLease]:
        """Take the leases out of the scope. Each comes out once, whoever asks."""
        fences = self._fences
        found = [fences.pop(name, None) for name in list(fences)]
        return [fence._lease for fence in found if fence is not None]

    @staticmethod
    def _commit(leases: list[ContextLease]) -> None:
        """Commit in the order of acquiring; look at all of them before the first commits."""
        for lease in leases:
            lease.check()
        done: list[str] = []
        for lease in leases:
            try:
                lease.commit()
            except Exception as error:
                if done:
                    note = (
                        f"the commit on {lease.pool.name!r} failed after {', '.join(done)} had "
                        "been committed: what was written there stays"
                    )
                    logger.error("%s", note)
                    if hasattr(error, "add_note"):
                        error.add_note(note)
                raise
            done.append(repr(lease.pool.name))


def _give_back(leases: list[ContextLease], torn: bool) -> None:
    # Popped one by one: if something strikes in between, dropping the rest frees their slots.
    while leases:
        lease = leases.pop()
        try:
            lease.give_back(torn)
        except Exception:
            # The answer is decided: a committed request must not turn into an error by this.
            logger.exception("a connection could not be returned to pool %r", lease.pool.name)
