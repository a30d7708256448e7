"""`with db.transaction():` an atomic block."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from dbpool import TransactionAborted
from dbpool.adapters import left_early
from dbpool.drivers.base import IDLE, INERROR

from ._errors import released
from ._marks import Mark
from ._modes import mark

if TYPE_CHECKING:
    from ._fence import FencedConnection
    from ._lease import ContextLease
    from ._scope import Scope

__all__ = ["Transaction", "atomic"]

logger = logging.getLogger("dbpool.flask")

V = TypeVar("V", bound=Callable[..., Any])


class Transaction:
    """All or nothing: an exception undoes the block, wherever it is caught afterwards.

    The outermost block commits at its end. While a request is being answered the request itself
    is the outermost one, so there every block is a savepoint, committed with the request. Made by
    `DBPool.transaction`; entered once.
    """

    __slots__ = ("_began", "_hooks", "_lease", "_name", "_outermost", "_savepoint", "_scope")

    def __init__(self, scope: Scope, name: str) -> None:
        self._scope = scope
        self._name = name
        self._lease: ContextLease | None = None
        self._outermost = False
        self._began = False
        self._savepoint = ""
        self._hooks = 0

    def __enter__(self) -> FencedConnection:
        if self._lease is not None:
            raise RuntimeError("this transaction block was entered before: call db.transaction()")
        scope = self._scope
        connection = scope.connection(self._name)
        lease = connection._lease
        self._outermost = not (lease.blocks or scope.commits)
        if scope.writes_late(self._name) and not lease.blocks:
            lease.set_writable(True)
        self._open(lease)
        self._lease = lease
        self._hooks = len(lease.unit.hooks)
        lease.blocks.append(self)
        return connection

    def _open(self, lease: ContextLease) -> None:
        idle = lease.status() == IDLE
        if idle and (self._outermost or lease.autocommits()):
            self._began = True
            lease.begin()
            return
        if idle:
            lease.begin()
        # What was done before the block survives it if it fails.
        self._savepoint = f"dbpool_{len(lease.blocks) + 1}"
        lease.execute(f"SAVEPOINT {self._savepoint}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        lease = self._lease
        if lease is None or lease.conn is None:
            if error is None:
                raise released()
            return
        if self in lease.blocks:  # and whatever was opened in it and never left
            del lease.blocks[lease.blocks.index(self) :]
        if not (error is None or isinstance(error, Exception) or left_early(error, traceback)):
            lease.torn = True
            return
        try:
            if error is not None:
                self._undo(lease)
            else:
                self._keep(lease)
        finally:
            if self._scope.writes_late(self._name) and not lease.blocks:
                lease.set_writable(False)

    def _keep(self, lease: ContextLease) -> None:
        """End the block well. If it cannot be, undo it and raise."""
        if lease.status() == INERROR:
            self._undo(lease)
            raise lease.pool.error(TransactionAborted)(
                "a database error was caught inside this `with db.transaction()` block, so the "
                "block could not be kept: it is rolled back. Let the error leave the block"
            )
        if self._outermost or self._began:
            try:
                lease.commit()
            except Exception:
                self._undo(lease)
                raise
            lease.unit.committed((lease.name,))
        elif self._savepoint:
            lease.execute(f"RELEASE SAVEPOINT {self._savepoint}")
            if self._scope.failed:
                self._scope.kept_block = True

    def _undo(self, lease: ContextLease) -> None:
        """Undo the block. An error in here must not hide the one that made it necessary."""
        try:
            if self._savepoint and lease.status() != IDLE:
                name = self._savepoint
                lease.execute(f"ROLLBACK TO SAVEPOINT {name}", f"RELEASE SAVEPOINT {name}")
            else:
                lease.rollback()
        except Exception as error:
            # The block's work may still be there: it must not be committed.
            lease.torn = True
            logger.warning(
                "pool %r: a transaction block could not be rolled back (%s); its connection is "
                "closed when its context ends",
                lease.pool.name,
                type(error).__name__,
            )
        lease.unit.rolled_back((lease.name,), self._hooks)


def atomic(view: V, find_scope: Callable[[], Scope], transaction: Callable[[], Transaction]) -> V:
    """Return the view, rolling back on any exception that leaves it."""
    said = Mark("transaction", "request", "atomic", view)
    return mark(view, said, lambda: _Atomic(said, find_scope(), transaction))


class _Atomic:
    """Around the view of the request it costs nothing and takes no connection.

    What that undoes is the whole request. Around any other function it is a block, since whoever
    called it may catch the exception and go on.
    """

    __slots__ = ("_block", "_scope")

    def __init__(self, said: Mark, scope: Scope, transaction: Callable[[], Transaction]) -> None:
        self._scope = scope
        whole = scope.commits and said in scope.mode.marks
        self._block = None if whole else transaction()

    def __enter__(self) -> None:
        if self._block is not None:
            self._block.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._block is not None:
            self._block.__exit__(kind, error, traceback)
        elif isinstance(error, Exception):
            self._scope.abandon()
