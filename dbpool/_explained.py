"""Why a pool has no connection, for the operator's own terminal: host, port, the driver's words.

The pool's errors name neither, since they end up in logs and on pages. A password is not shown here
either.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .errors import PoolError

if TYPE_CHECKING:
    from .pool import ConnectionPool

__all__ = ["explained"]

# As libpq reads them, in what an exception of a callable may quote.
_PASSWORDS = re.compile(
    r"(://[^:/@\s]*:)[^@\s]*(?=@)|(\w*pass(?:word|wd)?['\"]?\s*[=:]\s*)(?:'(?:[^'\\]|\\.)*'|\"[^\"]*\"|\S+)",
    re.IGNORECASE,
)


def explained(pool: ConnectionPool, error: BaseException) -> tuple[str, str]:
    """Return the reason, a word, and a sentence about an error of acquiring or of a query.

    Arguments: `pool`, whose connects have failed; `error`, the pool's own, or the driver's.
    """
    driver, cause = pool.driver, error.__cause__
    if not isinstance(error, PoolError):
        return driver.reason(error), _said(error)
    reason = getattr(error, "reason", None) or getattr(error, "cause", None)
    if reason is None:
        reason = driver.reason(cause) if cause is not None else "connect_failed"
    if cause is None:
        return reason, _said(error)
    place = driver.place(pool._connector.address)
    said = f"{_said(error)}; {type(cause).__name__}: {_said(cause)}"
    if reason != "misconfigured":  # what the pool makes of it tells no more than the reason
        said = _said(cause) or type(cause).__name__
    return reason, f"{place}: {said}" if place else said


def _said(error: BaseException) -> str:
    """Return the text of an error in one line, without a password."""
    return _PASSWORDS.sub(lambda found: f"{found[1] or found[2]}***", " ".join(str(error).split()))
