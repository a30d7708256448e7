"""Whose a connection is: points 1, 5, 6 and 8 of the promise."""

from __future__ import annotations

import gc
import threading
from contextlib import nullcontext
from typing import Any

import pytest
from flask import Flask, Response, copy_current_request_context, g, stream_with_context

from dbpool_flask import DBPool
from tests.support import inside
from tests.web_flask.conftest import Database, MakeSite, Site, pg


def pid(site: Site) -> int:
    with site.db.connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


# -- lazy, and one per request and pool


def test_a_request_that_does_not_use_the_database_takes_no_connection(site: Site) -> None:
    site.app.add_url_rule("/", view_func=lambda: "ok")
    assert site.client().get("/").status_code == 200
    assert site.client().get("/nowhere").status_code == 404
    stats = site.pool.get_stats()
    assert (stats["requests_num"], stats["connections_num"]) == (0, 0)


def test_a_request_has_one_connection_for_each_pool(make_site: MakeSite) -> None:
    url = make_site().database.url
    site = make_site(DBPOOL_DATABASES={"default": url, "replica": url})

    @site.app.before_request
    def before() -> None:
        g.first = site.db.connection

    @site.app.get("/")
    def view() -> Any:
        assert site.db.connection is g.first
        assert site.db.get_connection("replica") is not g.first
        assert site.lent() == 2
        return "ok"

    assert site.client().get("/").status_code == 200
    assert site.lent() == 0
    assert [pool.get_stats()["requests_num"] for pool in site.pools.values()] == [1, 1]


def test_two_requests_at_once_have_two_connections(site: Site) -> None:
    both = threading.Barrier(2, timeout=10)
    pids = []

    @site.app.get("/")
    def view() -> Any:
        pids.append(pid(site))
        both.wait()
        return "ok"

    threads = [threading.Thread(target=lambda: site.client().get("/")) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(pids)) == 2


def test_a_request_inside_a_request_has_a_connection_of_its_own(site: Site) -> None:
    @site.app.post("/inner")
    def inner() -> Any:
        site.write("inner")
        return "ok"

    @site.app.post("/outer")
    def outer() -> Any:
        site.write("outer")
        mine = site.db.connection
        assert site.client().post("/inner").status_code == 200
        assert site.db.connection is mine
        mine.cursor().execute("SELECT 1")
        return "no", 409

    assert site.client().post("/outer").status_code == 409
    assert site.database.notes() == ["inner"]


# -- app contexts


def test_an_app_context_has_one_connection_and_commits_nothing(site: Site) -> None:
    with site.app.app_context():
        site.write("undone")
        assert site.db.connection is site.db.connection
    assert site.database.notes() == []
    assert site.lent() == 0


def test_nested_app_contexts_have_a_connection_each(site: Site) -> None:
    with site.app.app_context():
        outer = site.db.connection
        with site.app.app_context():
            inner = site.db.connection
            assert inner is not outer
            site.write("undone")
        assert site.db.connection is outer
        assert (outer.closed, inner.closed) == (0, True)
        site.write("kept")
        site.db.commit()
    assert site.database.notes() == ["kept"]


def test_an_app_context_that_ends_inside_a_request_leaves_the_requests_work_alone(
    site: Site,
) -> None:
    @site.app.post("/")
    def view() -> Any:
        site.write("before")
        with site.app.app_context():
            pass
        site.write("after")
        return "ok"

    assert site.client().post("/").status_code == 200
    assert site.database.notes() == ["before", "after"]


def test_requests_inside_an_outer_app_context_are_units_of_their_own(site: Site) -> None:
    @site.app.post("/<int:status>")
    def view(status: int) -> Any:
        site.write(str(status))
        return "", status

    with site.app.app_context():
        site.write("of the outer context")
        outer = site.db.connection
        for status in (200, 409, 201):
            site.client().post(f"/{status}")
            assert site.lent() == 1
        assert site.db.connection is outer
    assert site.database.notes() == ["200", "201"]


def test_outside_a_dispatched_request_nothing_is_committed(site: Site) -> None:
    with site.app.test_request_context("/", method="POST"):
        site.write("undone")
    assert site.database.notes() == []


# -- after the end


def test_a_kept_context_holds_no_connection_and_reads_on_a_fresh_read_only_one(
    site: Site,
) -> None:
    @site.app.post("/")
    def view() -> Any:
        g.connection = site.db.connection
        site.write("kept")
        return "ok"

    with site.client() as client:
        client.post("/")
        assert site.lent() == 0
        assert g.connection.closed is True
        with site.db.connection.cursor() as cursor:
            cursor.execute("SELECT text FROM note")
            assert cursor.fetchall() == [("kept",)]
            with pytest.raises(Exception, match="read-only transaction"):
                cursor.execute("INSERT INTO note (text) VALUES ('lost')")
        assert site.lent() == 1
    assert site.lent() == 0
    assert site.database.notes() == ["kept"]


def test_a_connection_that_was_read_only_is_writable_for_the_next(make_site: MakeSite) -> None:
    site = make_site(DBPOOL_OPTIONS={"max_size": 1})

    @site.app.post("/")
    def view() -> Any:
        site.write("kept")
        return "ok"

    with site.client() as client:
        client.post("/")
        site.db.connection.cursor().execute("SELECT 1")
    client.post("/")
    assert site.database.notes() == ["kept", "kept"]


def test_a_block_after_the_end_commits_for_itself(site: Site) -> None:
    @site.app.post("/")
    def view() -> Any:
        return "ok"

    with site.client() as client:
        client.post("/")
        site.db.connection.cursor().execute("SELECT 1")
        with site.db.transaction():
            site.write("kept")
        assert site.database.notes() == ["kept"]
        with pytest.raises(Exception, match="read-only transaction"):
            site.write("lost")
    assert site.database.notes() == ["kept"]


def test_teardown_functions_may_read_whatever_their_order(site: Site, make_site: MakeSite) -> None:
    db, seen = DBPool(), []
    app = Flask("early")
    app.config["DBPOOL_URL"] = site.database.url

    def read(error: Any) -> None:
        with db.connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM note")
            seen.append(cursor.fetchone()[0])

    app.teardown_request(read)  # runs after what init_app registers
    app.teardown_appcontext(read)
    db.init_app(app)
    app.teardown_request(read)  # runs before
    app.teardown_appcontext(read)
    early = Site(app, db, site.database)

    @app.post("/")
    def view() -> Any:
        early.write("kept")
        return "ok"

    assert early.client().post("/").status_code == 200
    assert seen == [1, 1, 1, 1]
    assert early.lent() == 0
    assert early.pool.get_stats()["connections_dropped"] == 0


def test_a_teardown_function_cannot_write_what_nobody_would_commit(site: Site) -> None:
    errors = []

    @site.app.teardown_request
    def late(error: Any) -> None:
        try:
            site.write("lost")
        except pg.Error as refusal:
            errors.append(str(refusal))

    @site.app.post("/")
    def view() -> Any:
        site.write("kept")
        return "ok"

    assert site.client().post("/").status_code == 200
    assert "read-only transaction" in errors[0]
    assert site.database.notes() == ["kept"]


@pytest.mark.parametrize("kind", ["request", "appcontext"])
def test_a_teardown_function_that_fails_after_ours_costs_no_connection(
    database: Database, kind: str
) -> None:
    """Up to Flask 3.1 such an error skips what comes after it, signals included."""
    db = DBPool()
    app = Flask("early")
    app.config.update(DBPOOL_URL=database.url, TESTING=True)

    def broken(error: Any) -> None:
        raise ZeroDivisionError

    getattr(app, f"teardown_{kind}")(broken)  # runs after what init_app registers
    db.init_app(app)
    early = Site(app, db, database)
    with pytest.raises(ZeroDivisionError), app.test_request_context("/"):
        early.write("undone")
    with pytest.raises(ZeroDivisionError) if kind == "appcontext" else nullcontext():
        with app.app_context():
            early.write("undone")
            pool = db.pools["default"]
    stats = pool.get_stats()
    assert (len(inside.in_use(pool)), stats["connections_dropped"], stats["connections_num"]) == (
        0,
        0,
        1,
    )
    assert database.notes() == []
    pool.close()


# -- other threads


def test_an_async_view_uses_the_requests_connection_from_its_own_thread(site: Site) -> None:
    threads = []

    @site.app.before_request
    def before() -> None:
        threads.append(threading.get_ident())
        site.write("before")

    @site.app.post("/")
    async def view() -> Any:
        threads.append(threading.get_ident())
        site.write("view")
        return "ok"

    @site.app.post("/fails")
    async def fails() -> Any:
        site.write("undone")
        return "no", 409

    @site.app.post("/violates")
    async def violates() -> Any:
        site.write("undone")
        site.violate()
        return "ok"

    client = site.client()
    assert client.post("/").status_code == 200
    assert threads[0] != threads[1]
    assert client.post("/fails").status_code == 409
    assert client.post("/violates").status_code == 500
    assert site.database.notes() == ["before", "view"]
    assert site.lent() == 0
    assert site.pool.get_stats()["connections_num"] == 1  # each was kept


def test_a_copied_request_context_has_a_connection_of_its_own(site: Site) -> None:
    """What runs in a copy is nobody's answer: it commits for itself, or not at all."""
    done = []

    @site.app.post("/")
    def view() -> Any:
        mine = site.db.connection

        @copy_current_request_context
        def work() -> None:
            done.append(site.db.connection is not mine)
            with site.db.transaction():
                site.write("kept")
            site.write("undone")

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return "no", 500

    site.client().post("/")
    assert done == [True]
    assert site.lent() == 0
    assert site.database.notes() == ["kept"]


def test_a_thread_with_an_app_context_has_a_connection_of_its_own(site: Site) -> None:
    def work() -> None:
        with site.app.app_context(), site.db.transaction():
            site.write("kept")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert site.database.notes() == ["kept"]
    assert site.lent() == 0


# -- contexts that are never ended


# Flask itself complains, unraisably, when at last such a stream is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_hundred_requests_after_an_abandoned_stream_leave_nothing_held(
    make_site: MakeSite,
) -> None:
    site = make_site(DBPOOL_OPTIONS={"max_size": 2, "timeout": 3})

    @site.app.get("/stream")
    def stream() -> Any:
        site.write("kept")

        def rows() -> Any:
            yield from ("one", "two", "three")

        return Response(stream_with_context(rows()))

    @site.app.post("/<int:status>")
    def view(status: int) -> Any:
        site.write(str(status))
        return "", status

    abandoned: list[Any] = []
    environ = site.app.test_request_context("/stream").request.environ

    def serve() -> None:
        for _ in range(2):
            body = iter(site.app.wsgi_app(dict(environ), lambda *args: lambda data: None))
            next(body)
            abandoned.append(body)  # the client is gone, and the server never calls close()
        client = site.client()
        for _ in range(50):
            answers.append((client.post("/200").status_code, site.lent()))
            answers.append((client.post("/409").status_code, site.lent()))

    answers: list[tuple[int, int]] = []
    thread = threading.Thread(target=serve)  # of its own: its context stays spoiled
    thread.start()
    thread.join()
    assert answers == [(200, 0), (409, 0)] * 50
    assert site.database.notes() == ["kept"] * 2 + ["200"] * 50
    abandoned.clear()
    gc.collect()


def test_a_context_that_is_dropped_without_an_end_gives_its_slot_back(
    make_site: MakeSite,
) -> None:
    site = make_site(DBPOOL_OPTIONS={"max_size": 1, "timeout": 5})
    context = site.app.app_context()
    context.push()
    kept = site.db.connection
    assert site.lent() == 1
    # As if its thread had ended: the context variable does not hold it any more.
    from flask.globals import _cv_app

    _cv_app.reset(context._cv_tokens.pop())
    del context
    gc.collect()

    with site.app.app_context():
        site.db.connection.cursor().execute("SELECT 1")  # waits, and then takes it back
    with pytest.raises(Exception, match="closed"):
        kept.cursor()
