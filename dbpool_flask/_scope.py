"""One unit of work: the connections of one context, and how they end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dbpool.adapters import any_of, shown, start_anew, unforked
from dbpool.options import nearest

from ._context import ContextOwner
from ._ending import change_mode, check_ended, commit_all, give_back_all
from ._fence import FencedConnection
from ._hooks import Unit
from ._late import LateLease
from ._lease import ContextLease
from ._modes import Mode
from ._routing import PRIMARY
from ._streaming import Stream
from ._watched import WatchedConnection

if TYPE_CHECKING:
    from flask.ctx import AppContext, RequestContext

    from dbpool import ConnectionPool

    from ._app import AppState

__all__ = ["Scope"]


class Scope:
    """The connections that one context has taken, by the names of their databases.

    `dispatched`: Flask is answering a request in it; `ended`: that request has ended, and what is
    taken now is read-only; `committed`: its end has committed something; `mode`: what its end
    does; `routed`: `_routing` has to be asked which database is meant where none is named;
    `failed`: an exception has undone what came before; `kept_block`: a block has ended well since.
    """

    # Here, and no slots: each request has a scope, and most of these stay as they are.
    dispatched = ended = committed = routed = failed = kept_block = False
    _stream: Stream | None = None
    _failure: BaseException | None = None

    def __init__(
        self,
        context: AppContext | RequestContext,
        lender: AppState,
        mode: Mode,
    ) -> None:
        self._owner = ContextOwner(context)
        self._lender = lender
        self.replica = lender.replica  # the name of the default database's replica
        self._fences: dict[str, FencedConnection] = {}  # in the order of acquiring
        self._unit = Unit(self.replica is not None)
        self.mode = mode

    @property
    def commits(self) -> bool:
        """Whether the end of a request is going to commit what is done now."""
        return self.dispatched and not self.ended and self.mode.commits

    @property
    def used(self) -> bool:
        """Whether there is anything that could be committed."""
        return bool(self._fences)

    # -- while it lasts

    def connection(self, name: str) -> FencedConnection:
        """Return the connection to that database; take it from the pool on first use."""
        unforked or start_anew()
        fence = self._fences.get(name)
        if fence is not None:
            if not fence._lease.lost:
                return fence
            if self._fences.pop(name, None) is fence:
                fence._lease.give_back()
        return self._take(name)

    def may_have_written(self) -> bool:
        """Return whether a replica may lack what was written on the primary in this context."""
        fence = self._fences.get(PRIMARY)
        return self._unit.wrote or (fence is not None and fence._lease.may_have_written())

    def writes_late(self, name: str) -> bool:
        """Return whether a block on that database has to be made writable for its length."""
        return self.ended and name != self.replica and not self.mode.read_only

    def _take(self, name: str) -> FencedConnection:
        if name == self.replica and self._lender.isolation is not None:
            return self.connection(PRIMARY)  # only there what a test has written can be seen
        fence, mode = self._lend(name), self.mode
        lease = fence._lease
        if mode.autocommit or mode.read_only or self.ended or name == self.replica:
            try:
                if mode.autocommit:
                    lease.set_autocommit()
                    self._unit.wrote = self._unit.wrote is not None
                if self.ended or mode.read_only or name == self.replica:
                    lease.make_read_only()
            except BaseException:
                lease.give_back(torn=True)
                raise
        kept = self._fences.setdefault(name, fence)
        if kept is not fence:  # another thread of the same context was first
            lease.give_back()
        return kept

    def _lend(self, name: str) -> FencedConnection:
        lender, owner = self._lender, self._stream or self._owner
        pool = lender.opened.get(name)
        if pool is None:
            pool = self.pool(name)
        if lender.isolation is not None:
            return lender.isolation.lend(name, self._unit, owner)
        watch = lender.watches.get(name)
        if self.ended:
            return WatchedConnection(LateLease(name, pool, self._unit, owner, watch))
        return FencedConnection(ContextLease(name, pool, self._unit, owner, watch))

    def pool(self, name: str) -> ConnectionPool:
        """Return the pool of that database. Raises LookupError if there is none."""
        pools = self._lender.pools()
        if name in pools:
            return pools[name]
        hint = nearest(name, pools) or f": there is {any_of(pools)}"
        raise LookupError(f"no database {shown(name)} is configured{hint}")

    def commit(self, name: str | None) -> None:
        """Commit now: that database, or all that were used, if each of them can be."""
        leases = self._leases(name)
        for lease in leases:
            lease.refuse_in_block("commit")
        commit_all(leases, self._unit, None if name == self.replica else self.replica)
        self._unit.committed(None if name is None else (name,))

    def rollback(self, name: str | None) -> None:
        """Roll back now: that database, or all that were used."""
        leases = self._leases(name)
        for lease in leases:
            lease.refuse_in_block("rollback")
        for lease in leases:
            lease.rollback()
        self._unit.rolled_back(None if name is None else (name,))

    def abandon(self) -> None:
        """Roll back everything, blocks that nobody leaves any more included."""
        for lease in self._leases(None):
            lease.abandon()
        self._unit.rolled_back(None)

    def fail(self, error: BaseException | None) -> None:
        """An exception is on its way to its handler: undo what was done before, once for each.

        None stands for one of a handler, or of what follows a view.
        """
        if self.ended or not self.dispatched or (error is not None and error is self._failure):
            return
        self.failed = True
        self._stream = None
        if self._fences or self._unit.hooks:
            self._failure = error
            self.abandon()

    def doom(self) -> None:
        """Have nothing more of this unit committed."""
        self._unit.doomed = True

    def after(self, name: str, commit: bool, call: Callable[[], object]) -> None:
        """Have `call` called after the commit, or rollback, of what is open on that database."""
        self.pool(name)
        self._unit.add(name, commit, call)
        # Nothing is open where each statement commits by itself, nor when the request has ended:
        # then it is as after a commit, and no rollback can come.
        settled = self.ended or self.mode.autocommit
        if settled and not any(lease.blocks for lease in self._leases(name)):
            self._unit.committed((name,))

    def _leases(self, name: str | None) -> list[ContextLease]:
        if name is None:
            return [fence._lease for fence in list(self._fences.values())]
        return [self._fences[name]._lease] if name in self._fences else []

    # -- a stream that keeps it open

    @property
    def keeps_open(self) -> bool:
        """Whether a stream has asked to be the end of this unit."""
        return self._stream is not None

    def keep_open(self, deadline: float) -> Stream:
        """Let the end of a stream, which is to come by the deadline, be the end of this unit."""
        if not self.dispatched or self.ended:
            raise RuntimeError("db.keep_open() is for the answer of a view: call it there")
        if self._stream is not None:
            raise RuntimeError("this request's transaction is kept open by a stream already")
        self._stream = Stream(deadline, self._owner)
        return self._stream

    def start_stream(self) -> bool:
        """The answer is a stream: leave the end to it, if it asked for that.

        Raises TransactionAborted if it is clear already that nothing could be committed.
        """
        stream = self._stream
        if stream is None:
            return False
        for lease in self._leases(None):
            if lease.name != self.replica:
                lease.check()
            lease.pool.own(lease.raw(), stream)
        stream.runs = True
        return True

    def end_stream(self, stream: Stream, commit: bool) -> None:
        """The stream has ended. Nothing is left to do if the request has ended without it."""
        if self._stream is not stream:
            return
        if stream.runs:
            self.finish(commit)
        else:  # read before the answer began, by an after_request function: it is no stream now
            self._stream = None

    # -- the end

    def begin(self, mode: Mode) -> None:
        """A request starts in this context."""
        self.mode = mode
        self.dispatched = True
        self.ended = self.failed = self.kept_block = False
        if self._fences and (mode.autocommit or mode.read_only):
            self.commit(None)  # the session's, or a URL converter's: a unit of its own then
            change_mode(self._leases(None), mode, self.replica)
        self.routed = mode.database is not None or (mode.read_only and self.replica is not None)

    def finish(self, commit: bool) -> None:
        """End the request's unit: commit or roll back, and give everything back.

        Raises what committing raises; then nothing of the failing transaction is committed, all
        connections are back as well, and the request goes on (to its error handlers).
        """
        self._stream = self._failure = None
        if not self._fences and not self._unit.hooks:
            self.ended = True
            return
        leases = self._withdraw()
        wanted = commit
        commit = commit and self.mode.commits and not self._unit.doomed
        torn = True
        try:
            if commit:
                commit_all(leases, self._unit, self.replica)
            elif wanted and not self._unit.doomed:
                check_ended(leases, self.mode.autocommit)
            torn = False
            self.ended = True
            self.committed = commit and bool(leases)
        except Exception:
            torn = False
            commit = False
            raise
        finally:
            give_back_all(leases, torn)
            if self._unit.hooks and not torn:
                if commit:
                    self._unit.committed(None)
                else:
                    self._unit.rolled_back(None)

    def has_leftovers(self) -> bool:
        """Return whether `clean` has anything to do."""
        return not self.ended or bool(self._fences or self._unit.hooks)

    def losing(self) -> list[str]:
        """Return the databases on which cleaning up now undoes what was written, unasked."""
        if self.ended or self._unit.doomed or (self._stream is not None and self._stream.runs):
            return []
        return [lease.name for lease in self._leases(None) if lease.loses_work()]

    def clean(self, torn: bool) -> None:
        """Roll back and give back what is left. Never raises an Exception; may run repeatedly."""
        if self._stream is not None and self._stream.runs:
            return
        self.ended = self.ended or self.dispatched
        self._failure = None
        if self._fences:
            give_back_all(self._withdraw(), torn)
        if self._unit.hooks:
            self._unit.rolled_back(None)

    def forked(self) -> None:
        """Let go, in a forked child, of what is the parent process's."""
        for name, fence in list(self._fences.items()):
            if fence._lease.forked():
                self._fences.pop(name, None)

    def _withdraw(self) -> list[ContextLease]:
        """Take the leases out of the scope. Each comes out once, whoever asks."""
        fences, leases = self._fences, []
        while fences:
            try:
                leases.append(fences.popitem()[1]._lease)
            except KeyError:  # another thread was first
                break
        leases.reverse()
        return leases
