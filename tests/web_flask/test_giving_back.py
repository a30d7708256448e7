"""Each connection goes back exactly once, whatever strikes when."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from flask import Response, stream_with_context

from dbpool import ConnectionPool
from tests.support import inside
from tests.support.callers import PATIENCE, in_thread
from tests.web_flask.conftest import MakeSite, Site, pg


class Cut(BaseException):
    """What is no Exception: SystemExit by a server's timeout, a greenlet's timeout."""


@pytest.fixture
def returned(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What `putconn` was told about closing, return by return."""
    seen: list[bool] = []
    putconn = ConnectionPool.putconn

    def watched(pool: ConnectionPool, conn: Any, close: bool = False) -> None:
        seen.append(close)
        putconn(pool, conn, close)

    monkeypatch.setattr(ConnectionPool, "putconn", watched)
    return seen


def by(site: Site, view: Callable[[], Any], *, client: bool = True) -> None:
    site.app.add_url_rule("/", view_func=view, methods=["POST"])
    if client:
        site.client().post("/")


def test_a_committed_request_returns_once(site: Site, returned: list[bool]) -> None:
    by(site, lambda: site.write("kept") or "ok")
    assert returned == [False]


def test_a_failed_commit_returns_once(site: Site, returned: list[bool]) -> None:
    by(site, lambda: site.violate() or "ok")
    assert returned == [False]


def test_a_broken_connection_is_returned_to_be_closed(site: Site, returned: list[bool]) -> None:
    def view() -> Any:
        site.db.connection.cursor().execute("SELECT pg_terminate_backend(pg_backend_pid())")

    by(site, view)
    assert returned == [True]


def test_an_error_that_is_raised_into_the_test_returns_once(
    make_site: MakeSite, returned: list[bool]
) -> None:
    site = make_site(TESTING=True)

    def view() -> Any:
        site.write("undone")
        raise KeyError("bug")

    with pytest.raises(KeyError):
        by(site, view)
    assert returned == [False]
    assert site.database.notes() == []


@pytest.mark.parametrize("error", [Cut, SystemExit, KeyboardInterrupt])
def test_what_is_no_exception_closes_without_a_round_trip(
    site: Site, returned: list[bool], error: type[BaseException]
) -> None:
    """A query may have been cut short, with its answer still on the wire."""

    def view() -> Any:
        site.write("undone")
        raise error

    rollbacks = []
    site.pool.driver.rollback = rollbacks.append  # type: ignore[method-assign]
    with pytest.raises(error):
        by(site, view)
    assert (returned, rollbacks) == ([True], [])
    assert site.database.notes() == []


def test_a_client_that_goes_away_does_not_cost_the_streams_connection(
    site: Site, returned: list[bool]
) -> None:
    """GeneratorExit reaches a stream at its yield: no query was cut short."""

    @site.app.get("/")
    def view() -> Any:
        def rows() -> Any:
            site.db.connection.cursor().execute("SELECT 1")
            while True:
                yield "row"

        return Response(stream_with_context(rows()))

    environ = site.app.test_request_context("/").request.environ
    body: Any = site.app.wsgi_app(environ, lambda *args: lambda data: None)
    next(iter(body))
    body.close()
    assert returned == [False]


def test_a_block_in_a_generator_that_is_left_early_is_undone_and_costs_no_connection(
    site: Site, returned: list[bool]
) -> None:
    @site.app.post("/")
    def view() -> Any:
        def rows() -> Any:
            with site.db.transaction():
                site.write("undone")
                yield "row"

        for _ in rows():
            break
        site.write("kept")
        return "", 201

    assert site.client().post("/").status_code == 201
    assert site.database.notes() == ["kept"]
    assert returned == [False]


@pytest.mark.parametrize("step", ["commit", "rollback"])
def test_what_strikes_while_it_ends_costs_the_connection_and_not_the_slot(
    make_site: MakeSite, returned: list[bool], step: str
) -> None:
    site = make_site(DBPOOL_OPTIONS={"max_size": 1, "timeout": 3})
    driver = site.pool.driver

    def struck(conn: Any) -> None:
        raise Cut

    @site.app.post("/<int:status>")
    def view(status: int) -> Any:
        site.write(str(status))
        return "", status

    setattr(driver, step, struck)
    with pytest.raises(Cut):
        site.client().post("/200" if step == "commit" else "/409")
    delattr(driver, step)
    assert site.client().post("/201").status_code == 201
    assert site.database.notes() == ["201"]


def test_an_unfinished_request_is_rolled_back_by_teardown_alone(
    make_site: MakeSite, returned: list[bool]
) -> None:
    site = make_site()
    context = site.app.test_request_context("/", method="POST")
    with context:
        site.app.preprocess_request()
        site.write("undone")
    assert returned == [False]
    assert site.database.notes() == []


def test_a_teardown_that_fails_before_ours_leaves_no_connection_out(site: Site) -> None:
    """Up to Flask 3.1 an error in a teardown function skips those that come after it."""
    site.app.testing = True

    @site.app.teardown_request
    def broken(error: Any) -> None:
        raise ZeroDivisionError

    def view() -> Any:
        site.write("undone")
        raise KeyError

    with pytest.raises((KeyError, ZeroDivisionError)):
        by(site, view)
    assert site.database.notes() == []


def test_teardown_never_raises(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    putconn = ConnectionPool.putconn

    def broken(pool: ConnectionPool, conn: Any, close: bool = False) -> None:
        putconn(pool, conn, close)
        raise KeyError("a bug of the pool")

    with caplog.at_level(logging.ERROR, "dbpool.flask"):
        with site.app.app_context():
            site.write("undone")
            monkeypatch.setattr(ConnectionPool, "putconn", broken)
        monkeypatch.undo()
    assert "could not be returned" in caplog.text


def test_an_error_of_the_return_does_not_turn_a_committed_request_into_a_failed_one(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    putconn = ConnectionPool.putconn

    def broken(pool: ConnectionPool, conn: Any, close: bool = False) -> None:
        putconn(pool, conn, close)
        raise KeyError("a bug of the pool")

    monkeypatch.setattr(ConnectionPool, "putconn", broken)
    site.app.add_url_rule("/", view_func=lambda: site.write("kept") or "ok")
    assert site.client().get("/").status_code == 200
    assert site.database.notes() == ["kept"]


def test_two_threads_of_one_context_take_and_return_one_connection(
    make_site: MakeSite, returned: list[bool]
) -> None:
    import contextvars

    site = make_site()
    seen: list[Any] = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with site.app.app_context():
            ready = threading.Barrier(8, timeout=10)

            def work() -> None:
                ready.wait()
                seen.append(site.db.connection)

            contexts = [contextvars.copy_context() for _ in range(8)]
            threads = [threading.Thread(target=c.run, args=(work,)) for c in contexts]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(set(map(id, seen))) == 1
            assert site.lent() == 1
    finally:
        sys.setswitchinterval(interval)
    assert site.lent() == 0


def test_a_thousand_requests_of_all_kinds_leave_the_pool_whole(make_site: MakeSite) -> None:
    site = make_site(DBPOOL_OPTIONS={"max_size": 3})

    @site.app.post("/<kind>/<int:number>")
    def view(kind: str, number: int) -> Any:
        site.write(f"{kind} {number}")
        if kind == "violates":
            site.violate()
        elif kind == "raises":
            raise KeyError
        elif kind == "swallows":
            try:
                site.fail()
            except pg.Error:
                pass
        return "", 409 if kind == "refuses" else 200

    kinds = ("commits", "violates", "raises", "swallows", "refuses")
    expected = {"commits": 200, "violates": 500, "raises": 500, "swallows": 500, "refuses": 409}
    wrong: list[Any] = []

    def work(worker: int) -> None:
        client = site.client()
        for number in range(125):
            kind = kinds[(number + worker) % len(kinds)]
            status = client.post(f"/{kind}/{worker * 1000 + number}").status_code
            if status != expected[kind]:
                wrong.append((kind, status))

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    notes = site.database.notes()
    assert len(notes) == 200
    assert all(note.startswith("commits ") for note in notes)
    assert site.lent() == 0
    inside.audit(site.pool)


# -- servers that change under the app


def test_a_session_that_has_become_read_only_is_not_lent_again(
    make_site: MakeSite, returned: list[bool]
) -> None:
    """What a primary that has become a standby answers for as long as a session lives."""

    def demote(connection: Any) -> None:
        if not demoted:
            demoted.append(True)
            with connection.cursor() as cursor:
                cursor.execute("SET default_transaction_read_only TO on")
            connection.commit()

    demoted: list[bool] = []
    site = make_site(DBPOOL_OPTIONS={"max_size": 1, "configure": demote})

    def view() -> Any:
        site.write("kept")
        return "ok"

    site.app.add_url_rule("/", view_func=view)
    statuses = [site.client().get("/").status_code for _ in range(3)]
    assert statuses == [500, 200, 200]
    assert returned == [True, False, False]
    assert site.database.notes() == ["kept"] * 2


def test_what_we_make_read_only_ourselves_is_lent_again(site: Site, returned: list[bool]) -> None:
    @site.app.get("/")
    @site.db.read_only
    def view() -> Any:
        with pytest.raises(pg.errors.ReadOnlySqlTransaction):
            site.write("lost")
        return "no", 403

    site.client().get("/")
    assert returned == [False]


@pytest.mark.outage
def test_a_restart_of_the_server_between_requests_costs_no_request_an_error(
    make_site: MakeSite, breakable_postgres: Any
) -> None:
    # If the keeper looks while the server is away, the pool is down for a moment when it is back;
    # on a busy machine the connect that ends this may take longer than the ordinary second.
    options = {"min_size": 3, "down_wait": 30}
    site = make_site(DBPOOL_URL=breakable_postgres.url(), DBPOOL_OPTIONS=options)

    @site.app.get("/")
    def view() -> Any:
        with site.db.connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return "ok"

    for mode in ("fast", "immediate"):
        for _ in range(5):
            assert site.client().get("/").status_code == 200
        breakable_postgres.restart(mode)
        assert [site.client().get("/").status_code for _ in range(5)] == [200] * 5


@pytest.mark.outage
def test_a_server_that_dies_within_a_request_costs_that_request_alone(
    make_site: MakeSite, breakable_postgres: Any
) -> None:
    site = make_site(DBPOOL_URL=breakable_postgres.url(), DBPOOL_OPTIONS={"max_size": 1})

    @site.app.get("/<int:dies>")
    def view(dies: int) -> Any:
        with site.db.connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            if dies:
                breakable_postgres.restart("immediate")
                if dies == 2:
                    cursor.execute("SELECT 1")
        return "ok"

    for dies in (1, 2):  # 1 is noticed by the commit
        assert site.client().get(f"/{dies}").status_code == 500
        assert site.client().get("/0").status_code == 200
        assert site.lent() == 0


@pytest.mark.outage
def test_a_server_that_freezes_at_the_end_of_a_read_only_view_holds_nobody(
    make_site: MakeSite, breakable_postgres: Any
) -> None:
    """In autocommit mode the session's setting is put back by a statement, which has a deadline."""
    options = {"max_size": 1, "ping_timeout": 0.2}
    site = make_site(DBPOOL_URL=breakable_postgres.url(), DBPOOL_OPTIONS=options)

    @site.app.get("/")
    @site.db.autocommit
    @site.db.read_only
    def view() -> Any:
        site.db.connection.cursor().execute("SELECT 1")
        breakable_postgres.freeze()
        return "ok"

    try:
        assert in_thread(site.client().get, "/").result(PATIENCE).status_code == 200
    finally:
        breakable_postgres.thaw()
    assert site.lent() == 0
