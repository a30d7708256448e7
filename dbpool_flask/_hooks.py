"""What the app wants to be called for when its unit of work has ended."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import NamedTuple

__all__ = ["Unit"]

logger = logging.getLogger("dbpool.flask")


class _Hook(NamedTuple):
    database: str
    after_commit: bool
    call: Callable[[], object]


class Unit:
    """What the connections of one context have in common: a doom, and functions to call.

    Functions are called in the order in which they were given, each once at most. Their errors
    are logged and go no further: what they follow has happened already, and a request that is
    committed must not be answered as one that is not.
    """

    __slots__ = ("doomed", "hooks", "wrote")

    def __init__(self, watches_writes: bool = False) -> None:
        self.doomed = False  # nothing more is to be committed
        # Whether something was committed on the primary, None where nobody wants to know.
        self.wrote: bool | None = False if watches_writes else None
        self.hooks: list[_Hook] = []  # in the order in which they were given

    def add(self, database: str, after_commit: bool, call: Callable[[], object]) -> None:
        """Have `call` called when what is open on that database is committed, or rolled back."""
        if not callable(call):
            raise TypeError(f"{call!r} cannot be called: give a function without arguments")
        self.hooks.append(_Hook(database, after_commit, call))

    def committed(self, databases: Collection[str] | None) -> None:
        """What was open on these databases (None: on all) is committed."""
        if self.hooks:
            self._run(databases, True, 0)

    def rolled_back(self, databases: Collection[str] | None, since: int = 0) -> None:
        """What was done on these databases is undone, from the hook numbered `since` on."""
        if len(self.hooks) > since:
            self._run(databases, False, since)

    def _run(self, databases: Collection[str] | None, committed: bool, since: int) -> None:
        due = [h for h in self.hooks[since:] if databases is None or h.database in databases]
        self.hooks[since:] = [hook for hook in self.hooks[since:] if hook not in due]
        for hook in due:
            if hook.after_commit is not committed:
                continue
            try:
                hook.call()
            except Exception:
                logger.exception(
                    "a function given to %s failed",
                    "on_commit" if committed else "on_rollback",
                )
