"""db.test_isolation(): the app commits as ever, and nothing of it is left."""

from __future__ import annotations

import gc
import http.client
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, stream_with_context
from werkzeug.serving import make_server

import dbpool_flask
from dbpool import PoolTimeout, TransactionAborted
from dbpool_flask import ConnectionReleased, DBPool
from tests.support import inside
from tests.support.callers import open_one
from tests.support.injection import explore
from tests.web_flask.conftest import DRIVER, MakeSite, Site, pg


class PickyCursor(pg.extensions.cursor if DRIVER == "psycopg2" else pg.Cursor):  # type: ignore[misc]
    """A cursor that must not see statements which the app has not made."""

    def execute(self, sql: Any, *parameters: Any) -> Any:
        assert "INSERT" in sql
        return super().execute(sql, *parameters)


def notes(site: Site) -> list[str]:
    """Return the notes as the app sees them."""
    with site.app.app_context(), site.db.connection.cursor() as cursor:
        cursor.execute("SELECT text FROM note ORDER BY id")
        return [text for (text,) in cursor]


@pytest.fixture
def isolated(site: Site) -> Iterator[Site]:
    """A site with some views, isolated; afterwards its database must be as it was."""

    @site.app.post("/<text>/<int:status>")
    def view(text: str, status: int) -> Any:
        site.write(text)
        return text, status

    @site.app.post("/violates")
    def violates() -> Any:
        site.write("undone")
        site.violate()
        return "ok"

    @site.app.post("/swallows")
    def swallows() -> Any:
        site.write("undone")
        with pytest.raises(pg.Error):
            site.fail()
        return "ok"

    with site.db.test_isolation(site.app):
        yield site
    assert site.database.notes() == []
    assert site.lent() == 0
    assert site.pool.get_stats()["connections_num"] == 1


def test_what_requests_commit_is_seen_by_the_next_ones_and_undone_at_the_end(
    isolated: Site,
) -> None:
    client = isolated.client()
    assert client.post("/kept/200").status_code == 200
    assert client.post("/undone/409").status_code == 409
    assert client.post("/swallows").status_code == 500
    assert client.post("/kept too/201").status_code == 201
    assert notes(isolated) == ["kept", "kept too"]
    assert isolated.database.notes() == []


def test_a_deferred_violation_is_found_at_each_commit(isolated: Site) -> None:
    client = isolated.client()
    for _ in range(3):
        assert client.post("/violates").status_code == 500
        assert client.post("/kept/200").status_code == 200
    with isolated.app.app_context():
        # Deferred still: within a unit the order does not matter.
        with isolated.db.transaction() as connection:
            isolated.violate()
            connection.cursor().execute("INSERT INTO parent VALUES (1)")
    assert notes(isolated) == ["kept"] * 3


def test_a_test_sets_up_and_looks_in_contexts_of_its_own(isolated: Site) -> None:
    with isolated.app.app_context():
        with isolated.db.transaction():
            isolated.write("block")
        isolated.write("committed")
        isolated.db.commit()
        isolated.write("undone")
        isolated.db.rollback()
        isolated.write("undone")
    assert isolated.client().post("/request/200").status_code == 200
    assert notes(isolated) == ["block", "committed", "request"]


def test_blocks_nest_and_fail_as_ever(isolated: Site) -> None:
    with isolated.app.app_context():
        with isolated.db.transaction():
            isolated.write("one")
            with pytest.raises(pg.Error), isolated.db.transaction():
                isolated.fail()
            isolated.write("two")
        with pytest.raises(pg.Error), isolated.db.transaction():
            isolated.fail()
        with pytest.raises(pg.Error):
            isolated.fail()
        with pytest.raises(TransactionAborted):
            isolated.db.commit()
    assert notes(isolated) == ["one", "two"]


def test_hooks_a_doom_and_kept_streams_do_as_ever(isolated: Site) -> None:
    app, db, called = isolated.app, isolated.db, []

    @app.post("/hooks/<int:status>/<int:doomed>")
    def hooks(status: int, doomed: int) -> Any:
        isolated.write(f"{status}")
        db.on_commit(lambda: called.append(f"{status} committed"))
        db.on_rollback(lambda: called.append(f"{status} rolled back"))
        if doomed:
            db.doom()
        return "", status

    @app.post("/keeps/<int:whole>")
    def keeps(whole: int) -> Any:
        def rows() -> Iterator[str]:
            isolated.write("stream")
            yield "row"
            if not whole:
                raise KeyError

        return Response(db.keep_open(rows()))

    client = isolated.client()
    for path in ("/hooks/200/0", "/hooks/201/1", "/hooks/409/0", "/keeps/1"):
        client.post(path).get_data()
    with pytest.raises(KeyError):
        client.post("/keeps/0").get_data()
    assert called == ["200 committed", "201 rolled back", "409 rolled back"]
    assert notes(isolated) == ["200", "stream"]


def test_a_test_that_has_not_committed_may_still_call_the_app(isolated: Site) -> None:
    with isolated.app.app_context():
        isolated.write("outer")
        assert isolated.client().post("/inner/200").status_code == 200
        assert isolated.client().post("/undone/409").status_code == 409
        isolated.write("outer too")
        isolated.db.commit()
    assert notes(isolated) == ["outer", "inner", "outer too"]


def test_a_live_server_shares_it_with_the_test(isolated: Site) -> None:
    server = make_server("127.0.0.1", 0, isolated.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with isolated.app.app_context(), isolated.db.transaction():
            isolated.write("test")
        workers = [threading.Thread(target=post, args=(server.port, n)) for n in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert sorted(notes(isolated)) == [*map(str, range(8)), "test"]


def post(port: int, number: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", f"/{number}/200")
    assert connection.getresponse().status == 200
    connection.close()


def test_a_thread_that_would_wait_for_the_test_for_ever_is_told(make_site: MakeSite) -> None:
    site = make_site(DBPOOL_OPTIONS={"timeout": 0.2})
    open_one(site.pool)
    errors = []

    def work() -> None:
        with site.app.app_context():
            try:
                site.write("undone")
            except PoolTimeout as error:
                errors.append(str(error))

    with site.db.test_isolation(site.app), site.app.app_context():
        site.write("not committed")
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert "commit or roll back what the test itself has written" in errors[0]


def test_the_ways_of_views_work(site: Site) -> None:
    @site.app.post("/autocommit")
    @site.db.autocommit
    def autocommit() -> Any:
        site.write("at once")
        with pytest.raises(pg.Error):
            site.fail()
        with pytest.raises(KeyError), site.db.transaction():  # noqa: PT012
            site.write("undone")
            raise KeyError
        with site.db.transaction():
            site.write("block")
        return "no", 409

    @site.app.post("/read-only")
    @site.db.read_only
    def read_only() -> Any:
        with pytest.raises(pg.errors.ReadOnlySqlTransaction):
            site.write("lost")
        return "no", 403

    @site.app.post("/stream")
    def stream() -> Any:
        def rows() -> Iterator[str]:
            with site.db.connection.cursor() as cursor:
                cursor.execute("SELECT count(*) FROM note")
                yield str(cursor.fetchone()[0])
            with pytest.raises(pg.errors.ReadOnlySqlTransaction):
                site.write("lost")
            with site.db.transaction():
                site.write("stream")

        site.write("view")
        return Response(stream_with_context(rows()))

    client = site.client()
    with site.db.test_isolation(site.app):
        assert client.post("/autocommit").status_code == 409
        assert client.post("/read-only").status_code == 403
        assert client.post("/stream").text == "3"
        assert notes(site) == ["at once", "block", "view", "stream"]
    assert site.database.notes() == []
    assert client.post("/stream").text == "1"
    assert site.database.notes() == ["view", "stream"]


def test_it_isolates_every_database_of_the_app_once(make_site: MakeSite) -> None:
    url = make_site().database.url
    site = make_site(DBPOOL_DATABASES={"default": url, "other": url})
    with site.app.app_context(), site.db.test_isolation():
        with pytest.raises(RuntimeError, match="active for this app already"):
            site.db.test_isolation().__enter__()
        for name in ("default", "other"):
            with site.db.transaction(name) as connection:
                connection.cursor().execute("INSERT INTO note (text) VALUES ('undone')")
    assert site.database.notes() == []
    with site.app.app_context(), site.db.transaction():
        site.write("kept")
    assert site.database.notes() == ["kept"]


def test_a_database_that_is_down_leaves_nothing_pinned(make_site: MakeSite) -> None:
    url = make_site().database.url
    site = make_site(
        DBPOOL_DATABASES={
            "default": url,
            "down": {"url": "postgresql://127.0.0.1:1/nowhere", "timeout": 0.2},
        },
    )
    with pytest.raises(PoolTimeout):
        site.db.test_isolation(site.app).__enter__()
    assert site.lent() == 0
    with site.app.app_context(), site.db.transaction():
        site.write("kept")
    assert site.database.notes() == ["kept"]


def test_an_exception_at_any_point_of_its_start_and_end_leaves_no_app_isolated(
    tmp_path: Path,
) -> None:
    """Ctrl-C in a test run; a timeout that fails one test and lets the next one run."""

    def scenario(run: Callable[[Callable[[], object]], None]) -> Callable[[str], None]:
        app = Flask("interrupted")
        app.config["DBPOOL_DATABASES"] = {
            name: {"url": f"sqlite:///{tmp_path}/{name}.db", "background": False}
            for name in ("default", "other")
        }
        db = DBPool(app)

        def use() -> None:
            with db.test_isolation(app):
                pass

        def check(where: str) -> None:
            gc.collect()
            with db.test_isolation(app):  # not "active already"
                pass
            with app.app_context():
                pools = db.pools.values()
                with db.transaction() as connection:
                    connection.execute("CREATE TABLE kept (id int)")
                with closing(sqlite3.connect(tmp_path / "default.db")) as look, look:
                    look.execute("DROP TABLE kept")  # it is there, so it was committed
            for pool in pools:
                assert len(inside.in_use(pool)) == 0
                inside.audit(pool)
                pool.close()

        run(use)
        return check

    prefix = os.path.dirname(dbpool_flask.__file__) + os.sep
    assert explore(prefix, scenario) > 30


def test_a_database_that_dies_meanwhile_leaves_the_others_as_they_were(
    make_site: MakeSite,
) -> None:
    url = make_site().database.url
    site = make_site(DBPOOL_DATABASES={"default": url, "other": url})
    with site.db.test_isolation(site.app), site.app.app_context():
        for name in ("default", "other"):
            cursor = site.db.get_connection(name).cursor()
            cursor.execute("INSERT INTO note (text) VALUES ('undone')")
        with pytest.raises(pg.OperationalError):
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(ConnectionReleased):
        cursor.execute("SELECT 1")
    assert site.lent() == 0
    assert site.database.notes() == []


if DRIVER == "psycopg2":
    from psycopg2.extras import NamedTupleCursor, RealDictCursor

    KINDS = {"cursor_factory": [RealDictCursor, NamedTupleCursor, PickyCursor]}
else:
    from psycopg.rows import dict_row, namedtuple_row

    KINDS = {"row_factory": [dict_row, namedtuple_row], "cursor_factory": [PickyCursor]}


@pytest.mark.parametrize(("name", "kind"), [(n, k) for n, kinds in KINDS.items() for k in kinds])
def test_rows_of_any_kind_do(make_site: MakeSite, name: str, kind: Any) -> None:
    """Our own statements are read as rows, whatever the app reads its own as."""
    site = make_site(DBPOOL_OPTIONS={"kwargs": {name: kind}})

    @site.app.post("/<path>")
    def view(path: str) -> Any:
        site.write("seen")
        if path == "violates":
            site.violate()
        return "ok"

    with site.db.test_isolation(site.app):
        assert [site.client().post(f"/{path}").status_code for path in ("ok", "violates")] == [
            200,
            500,
        ]
