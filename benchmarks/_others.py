"""The pools that need what `make bench` installs."""

from __future__ import annotations

from contextlib import AbstractContextManager, closing
from operator import methodcaller
from typing import Any

import psycopg2

from benchmarks._peers import Connects, Dbpool, Peer, Wanted

__all__ = ["DBUtilsPool", "DbpoolPsycopg", "PsycopgPool", "SQLAlchemyPool"]


class PsycopgPool(Peer):
    """psycopg_pool, which works with psycopg 3 only."""

    name = "psycopg_pool"
    package = "psycopg_pool"

    def __init__(self, wanted: Wanted, *, check: bool = False) -> None:
        import psycopg
        import psycopg_pool

        class Connection(psycopg.Connection[Any]):
            @classmethod
            def connect(cls, *args: Any, **kwargs: Any) -> Any:
                Connects.begin()
                return super().connect(*args, **kwargs)

        self.errors = (psycopg.Error,)
        self.pool = psycopg_pool.ConnectionPool(
            wanted.dsn,
            min_size=wanted.kept,
            max_size=wanted.size,
            timeout=wanted.timeout,
            connection_class=Connection,
            kwargs={"autocommit": not wanted.plain},
            check=psycopg_pool.ConnectionPool.check_connection if check else None,
            open=True,
        )
        self.take, self.give = self.pool.getconn, self.pool.putconn

    def fill(self, count: int) -> None:
        self.pool.wait(10.0)
        super().fill(count)

    def lend(self) -> AbstractContextManager[Any]:
        return self.pool.connection()

    def close(self) -> None:
        self.pool.close()


class DbpoolPsycopg(Dbpool):
    """Ours on psycopg_pool's own driver: what of the difference is the driver's."""

    name = "dbpool on psycopg 3"
    package = "psycopg"

    def __init__(self, wanted: Wanted) -> None:
        super().__init__(wanted, driver="psycopg", kwargs={"autocommit": not wanted.plain})


class SQLAlchemyPool(Peer):
    name = "SQLAlchemy QueuePool"
    package = "sqlalchemy"

    def __init__(self, wanted: Wanted, *, pre_ping: bool = False) -> None:
        import sqlalchemy.exc

        self.errors = (sqlalchemy.exc.SQLAlchemyError, psycopg2.Error)
        self.engine = sqlalchemy.create_engine(
            "postgresql+psycopg2://",
            creator=lambda: psycopg2.connect(wanted.dsn, **wanted.options),
            poolclass=sqlalchemy.pool.QueuePool,
            pool_size=wanted.kept,
            max_overflow=wanted.size - wanted.kept,
            pool_timeout=wanted.timeout,
            pool_pre_ping=pre_ping,
        )
        with self.engine.connect():  # the first one asks the server for its version and more
            pass
        self.pool = self.engine.pool
        self.take, self.give = self.pool.connect, methodcaller("close")

    def lend(self) -> AbstractContextManager[Any]:
        return closing(self.pool.connect())

    def use(self) -> None:
        # Only the engine tells its pool of a broken connection.
        with self.engine.connect() as conn:
            conn.exec_driver_sql("SELECT 1").fetchone()

    def close(self) -> None:
        self.engine.dispose()


class DBUtilsPool(Peer):
    name = "DBUtils PooledDB"
    package = "dbutils"

    def __init__(self, wanted: Wanted) -> None:
        from dbutils.pooled_db import PooledDB

        # It has no timeout.
        self.pool = PooledDB(
            psycopg2,
            mincached=wanted.keep or 0,
            maxcached=wanted.size,
            maxconnections=wanted.size,
            blocking=True,
            dsn=wanted.dsn,
            **wanted.options,
        )
        self.take, self.give = self.pool.connection, methodcaller("close")

    def lend(self) -> AbstractContextManager[Any]:
        return closing(self.pool.connection())

    def close(self) -> None:
        self.pool.close()
