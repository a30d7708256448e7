"""A fair, fork-safe connection pool for threads, and what Django and Flask need of it."""

from __future__ import annotations

from ._runtime.deadline import deadline
from .errors import (
    CommitUnknown,
    ConnectFailed,
    Misconfigured,
    PoolClosed,
    PoolDown,
    PoolError,
    PoolOverloaded,
    PoolTimeout,
    TooManyRequests,
    TransactionAborted,
)
from .pool import ConnectionPool

__all__ = [
    "CommitUnknown",
    "ConnectFailed",
    "ConnectionPool",
    "Misconfigured",
    "PoolClosed",
    "PoolDown",
    "PoolError",
    "PoolOverloaded",
    "PoolTimeout",
    "TooManyRequests",
    "TransactionAborted",
    "__version__",
    "deadline",
]

__version__ = "0.1.0"
