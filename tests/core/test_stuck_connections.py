"""Closing a connection that is at work waits for nobody; no frame shows a password."""

from __future__ import annotations

import threading
import traceback
from typing import Any

import psycopg2
import pytest

from dbpool import ConnectFailed
from testproject.postgres import PostgresServer
from tests.conftest import SCRAM_PASSWORD
from tests.support import inside
from tests.support.callers import MakePool
from tests.support.waiting import wait_until


def test_closing_a_busy_connection_cuts_its_query_off(pg_pool: MakePool) -> None:
    pool = pg_pool(max_size=1)
    conn = pool.getconn()
    ended = threading.Event()

    def work() -> None:
        with pytest.raises(psycopg2.Error), conn.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(600)")
        ended.set()

    worker = threading.Thread(target=work)
    worker.start()
    wait_until(lambda: conn.info.transaction_status == 1, message="the query is under way")
    pool.putconn(conn, close=True)
    assert ended.wait(60), "the query runs on"
    worker.join()
    with pool.connection():
        inside.audit(pool)


def test_no_frame_of_a_connect_error_holds_the_password(
    new_pool: MakePool, scram_postgres: PostgresServer
) -> None:
    """A debug page shows the local variables of every frame of every cause."""
    secret = "wrong-" + SCRAM_PASSWORD
    pool = new_pool(scram_postgres.dsn(password=secret))
    with pytest.raises(ConnectFailed) as caught:
        pool.getconn()
    cause: BaseException | None = caught.value.__cause__
    assert cause is not None
    seen: list[Any] = []
    while cause is not None:
        for frame, _ in traceback.walk_tb(cause.__traceback__):
            seen += [repr(value) for value in frame.f_locals.values()]
        cause = cause.__cause__ or cause.__context__
    assert not [text for text in seen if "wrong-" in text]
