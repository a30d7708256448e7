"""The promises on each driver: psycopg2, psycopg 3 (where it can be imported) and sqlite3."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import psycopg2
import pytest
from flask import Flask, Response, abort, stream_with_context

from dbpool import ConnectionPool, TransactionAborted
from dbpool_flask import ConnectionReleased, DBPool
from tests.support import inside
from tests.web_flask.conftest import Database

needs_psycopg = pytest.mark.skipif(
    importlib.util.find_spec("psycopg") is None,
    reason="psycopg 3 has an environment of its own",
)


@dataclass
class Shop:
    """An app, and a look at its notes past its pool."""

    driver: str
    app: Flask
    db: DBPool
    look: Callable[[], list[str]]
    database_error: type[Exception]

    def write(self, text: str) -> None:
        with closing(self.db.connection.cursor()) as cursor:
            cursor.execute(f"INSERT INTO note (text) VALUES ('{text}')")

    def violate(self) -> None:
        with closing(self.db.connection.cursor()) as cursor:
            cursor.execute("INSERT INTO child VALUES (1)")

    def fail(self) -> None:
        with closing(self.db.connection.cursor()) as cursor:
            cursor.execute("SELECT * FROM missing")

    @property
    def pool(self) -> ConnectionPool:
        with self.app.app_context():
            return self.db.pools["default"]

    def post(self, path: str) -> int:
        return self.app.test_client().post(path).status_code


PSYCOPG = pytest.param("psycopg", marks=needs_psycopg)


@pytest.fixture(params=["psycopg2", PSYCOPG, "sqlite3"])
def shop(request: pytest.FixtureRequest, database: Database, tmp_path: Path) -> Iterator[Shop]:
    app = Flask("drivers")
    look = database.notes
    options: dict[str, Any] = {"max_size": 2}
    if request.param == "sqlite3":
        file = tmp_path / "notes.db"
        with closing(sqlite3.connect(file)) as setup:
            setup.execute("CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT)")
            setup.execute("CREATE TABLE parent (id INT PRIMARY KEY)")
            setup.execute(
                "CREATE TABLE child (parent INT REFERENCES parent DEFERRABLE INITIALLY DEFERRED)"
            )
        options["configure"] = lambda conn: conn.execute("PRAGMA foreign_keys = 1")
        app.config["DBPOOL_URL"] = f"sqlite:///{file}"

        def look() -> list[str]:
            with closing(sqlite3.connect(file)) as connection:
                return [text for (text,) in connection.execute("SELECT text FROM note")]

    else:
        app.config["DBPOOL_URL"] = database.url
        options["driver"] = request.param
    app.config["DBPOOL_OPTIONS"] = options
    db = DBPool(app)
    errors = {"psycopg2": psycopg2.Error, "sqlite3": sqlite3.Error}
    if request.param == "psycopg":
        import psycopg

        errors["psycopg"] = psycopg.Error
    shop = Shop(request.param, app, db, look, errors[request.param])
    assert shop.pool.driver.name == request.param
    yield shop
    assert len(inside.in_use(shop.pool)) == 0
    inside.audit(shop.pool)
    shop.pool.close()


def test_errors_roll_back_and_what_a_handler_writes_that_answers_below_400_stays(
    shop: Shop,
) -> None:
    @shop.app.errorhandler(KeyError)
    def handler(error: KeyError) -> Any:
        shop.write("by the handler")
        return "all is well", 200

    @shop.app.post("/<kind>")
    def view(kind: str) -> Any:
        shop.write(kind)
        raise KeyError if kind == "handled" else ZeroDivisionError

    @shop.app.post("/atomic")
    @shop.db.atomic
    def atomic() -> Any:
        shop.write("atomic")
        raise KeyError

    assert [shop.post(f"/{kind}") for kind in ("handled", "unhandled", "atomic")] == [200, 500, 200]
    assert shop.look() == ["by the handler"] * 2


def test_an_unused_connection_is_never_taken(shop: Shop) -> None:
    @shop.app.post("/")
    @shop.db.atomic
    def view() -> Any:
        return "ok"

    assert shop.post("/") == 200
    stats = shop.pool.get_stats()
    assert (stats["requests_num"], stats["connections_num"]) == (0, 0)


def test_a_stream_holds_no_connection_at_its_first_byte(shop: Shop) -> None:
    @shop.app.post("/")
    def view() -> Any:
        shop.write("kept")
        return Response(stream_with_context(iter(["one", "two"])))

    answer = shop.app.test_client().post("/", buffered=False)
    body = answer.iter_encoded()
    assert next(body) == b"one"
    assert (len(inside.in_use(shop.pool)), shop.look()) == (0, ["kept"])
    answer.close()


def test_a_kept_stream_commits_at_its_end_and_rolls_back_where_it_breaks_off(shop: Shop) -> None:
    @shop.app.post("/<int:breaks>")
    def view(breaks: int) -> Any:
        def rows() -> Iterator[str]:
            shop.write(f"breaks: {breaks}")
            yield "row"
            if breaks:
                raise KeyError

        return Response(shop.db.keep_open(rows()))

    client = shop.app.test_client()
    assert client.post("/0").text == "row"
    with pytest.raises(KeyError):
        _ = client.post("/1").data
    assert shop.look() == ["breaks: 0"]


def test_app_contexts_have_a_connection_each_and_commit_nothing(shop: Shop) -> None:
    with shop.app.app_context():
        shop.db.connection.cursor()
        with shop.app.app_context():
            inner = shop.db.connection
            assert len(inside.in_use(shop.pool)) == 2
        assert inner.closed is True
        shop.write("undone")
    with shop.app.app_context():
        shop.write("kept")
        shop.db.commit()
    assert shop.look() == ["kept"]


def test_requests_in_an_outer_app_context_are_units_of_their_own(shop: Shop) -> None:
    @shop.app.post("/<int:status>")
    def view(status: int) -> Any:
        shop.write(str(status))
        return "", status

    with shop.app.app_context():
        outer = shop.db.connection
        assert [shop.post(f"/{status}") for status in (200, 409, 201)] == [200, 409, 201]
        assert shop.db.connection is outer
    assert shop.look() == ["200", "201"]


def test_a_context_that_a_client_keeps_holds_no_connection(shop: Shop) -> None:
    @shop.app.post("/")
    def view() -> Any:
        shop.write("kept")
        return "ok"

    with shop.app.test_client() as client:
        client.post("/")
        assert len(inside.in_use(shop.pool)) == 0
        with closing(shop.db.connection.cursor()) as cursor:
            cursor.execute("SELECT text FROM note")
            assert [text for (text,) in cursor.fetchall()] == ["kept"]
        with pytest.raises(shop.database_error):
            shop.write("lost")
    assert shop.look() == ["kept"]


# Flask itself complains, unraisably, when at last such a stream is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_hundred_requests_after_an_abandoned_stream_leave_none_held(shop: Shop) -> None:
    @shop.app.get("/stream")
    def stream() -> Any:
        shop.write("stream")
        return Response(stream_with_context(iter(["one", "two"])))

    @shop.app.post("/<int:status>")
    def view(status: int) -> Any:
        shop.write(str(status))
        return "", status

    environ = shop.app.test_request_context("/stream").request.environ
    abandoned: list[Any] = []
    answers: list[tuple[int, int]] = []

    def serve() -> None:
        body = iter(shop.app.wsgi_app(dict(environ), lambda *args: lambda data: None))
        next(body)
        abandoned.append(body)  # the client is gone, and the server never calls close()
        for _ in range(50):
            answers.append((shop.post("/200"), len(inside.in_use(shop.pool))))
            answers.append((shop.post("/409"), len(inside.in_use(shop.pool))))

    thread = threading.Thread(target=serve)  # of its own: its context stays spoiled
    thread.start()
    thread.join()
    assert answers == [(200, 0), (409, 0)] * 50
    assert shop.look() == ["stream"] + ["200"] * 50
    abandoned.clear()
    gc.collect()


def test_under_testing_a_failing_commit_reaches_the_test(shop: Shop) -> None:
    shop.app.testing = True

    @shop.app.post("/")
    def view() -> Any:
        shop.write("undone")
        shop.violate()
        return "ok"

    with pytest.raises(shop.database_error, match=r"(?i)foreign key"):
        shop.post("/")
    assert shop.look() == []


def test_a_failing_command_commits_nothing(shop: Shop) -> None:
    @shop.app.cli.command("work")
    @click.argument("fails", type=bool)
    def work(fails: bool) -> None:
        with shop.db.transaction():
            shop.write(f"block, fails: {fails}")
            if fails:
                raise ValueError
        shop.write("undone")

    runner = shop.app.test_cli_runner()
    assert isinstance(runner.invoke(args=["work", "yes"]).exception, ValueError)
    assert runner.invoke(args=["work", "no"]).exit_code == 0
    assert shop.look() == ["block, fails: False"]


def test_two_apps_share_the_extension_and_nothing_else(shop: Shop) -> None:
    other = Flask("other")
    other.config["DBPOOL_URL"] = shop.app.config["DBPOOL_URL"]
    other.config["DBPOOL_OPTIONS"] = shop.app.config["DBPOOL_OPTIONS"]
    shop.db.init_app(other)

    @shop.app.post("/")
    def view() -> Any:
        with other.app_context():
            mine = shop.db.connection
        shop.write("kept")
        return "ok" if mine.closed else "shared"

    assert shop.app.test_client().post("/").text == "ok"
    assert shop.look() == ["kept"]
    with other.app_context():
        (pool,) = shop.db.pools.values()
    assert pool is not shop.pool
    assert pool.get_stats()["requests_num"] == 1
    pool.close()


def test_functions_are_called_after_the_commit_or_the_rollback(shop: Shop) -> None:
    called: list[tuple[str, int]] = []

    @shop.app.post("/<int:status>")
    def view(status: int) -> Any:
        shop.write("kept")
        shop.db.on_commit(lambda: called.append(("committed", len(shop.look()))))
        shop.db.on_rollback(lambda: called.append(("rolled back", len(shop.look()))))
        return "", status

    assert [shop.post(f"/{status}") for status in (200, 409)] == [200, 409]
    assert called == [("committed", 1), ("rolled back", 1)]


def test_a_replica_is_read_from_until_something_is_written(shop: Shop) -> None:
    url, options = shop.app.config["DBPOOL_URL"], shop.app.config["DBPOOL_OPTIONS"]
    app = Flask("replicated")
    app.config.update(
        DBPOOL_DATABASES={"default": url, "copy": url},
        DBPOOL_REPLICA="copy",
        DBPOOL_OPTIONS=options,
    )
    db = DBPool(app)
    seen: list[bool] = []

    def on_copy() -> bool:
        return db.connection is db.get_connection("copy")

    @app.post("/")
    def view() -> Any:
        with db.using("copy"):
            seen.append(on_copy())
        with closing(db.connection.cursor()) as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchall()
        with db.using("copy"):
            seen.append(on_copy())
        with closing(db.connection.cursor()) as cursor:
            cursor.execute("INSERT INTO note (text) VALUES ('kept')")
        with db.using("copy"):
            seen.append(on_copy())
        return "ok"

    @app.get("/")
    @db.read_only
    def read() -> Any:
        with pytest.raises(shop.database_error), closing(db.connection.cursor()) as cursor:
            cursor.execute("INSERT INTO note (text) VALUES ('lost')")
        return str(on_copy())

    assert app.test_client().post("/").text == "ok"
    assert app.test_client().get("/").text == "True"
    assert seen == [True, True, False]
    assert shop.look() == ["kept"]
    with app.app_context():
        pools = db.pools
    for pool in pools.values():
        assert len(inside.in_use(pool)) == 0
        pool.close()


def test_the_status_decides(shop: Shop) -> None:
    @shop.app.post("/<int:status>")
    def view(status: int) -> Any:
        shop.write(str(status))
        if status == 404:
            abort(404)
        return "", status

    assert [shop.post(f"/{status}") for status in (200, 404, 302, 500)] == [200, 404, 302, 500]
    assert shop.look() == ["200", "302"]


def test_a_failing_commit_is_told(shop: Shop) -> None:
    @shop.app.post("/<kind>")
    def view(kind: str) -> Any:
        shop.write("undone")
        shop.violate()
        return Response(stream_with_context(iter(["row"]))) if kind == "stream" else "ok"

    for _ in range(3):
        assert shop.post("/plain") == 500
        assert shop.post("/stream") == 500
    assert shop.look() == []


def test_a_swallowed_error_is_never_a_silent_loss(shop: Shop) -> None:
    @shop.app.post("/")
    def view() -> Any:
        shop.write("first")
        with pytest.raises(shop.database_error):
            shop.fail()
        return "ok"

    # SQLite's transactions survive a failed statement, so there nothing is lost.
    lives = shop.driver == "sqlite3"
    assert shop.post("/") == (200 if lives else 500)
    assert shop.look() == (["first"] if lives else [])


def test_blocks_nest(shop: Shop) -> None:
    def blocks() -> None:
        with shop.db.transaction():
            shop.write("one")
            with pytest.raises(shop.database_error), shop.db.transaction():  # noqa: PT012
                shop.write("undone")
                shop.fail()
            with shop.db.transaction():
                shop.write("two")

    @shop.app.post("/<int:status>")
    def view(status: int) -> Any:
        blocks()
        shop.write("three")
        return "", status

    assert shop.post("/409") == 409
    assert shop.look() == []
    assert shop.post("/200") == 200
    assert shop.look() == ["one", "two", "three"]
    with shop.app.app_context():
        blocks()
        assert len(shop.look()) == 5
        with pytest.raises(KeyError), shop.db.transaction():  # noqa: PT012
            shop.write("undone")
            raise KeyError
        shop.write("undone")
    assert len(shop.look()) == 5


def test_the_modes_of_views(shop: Shop) -> None:
    @shop.app.post("/autocommit")
    @shop.db.autocommit
    def autocommit() -> Any:
        shop.write("at once")
        with pytest.raises(shop.database_error):
            shop.fail()
        with pytest.raises(KeyError), shop.db.transaction():  # noqa: PT012
            shop.write("undone")
            raise KeyError
        with shop.db.transaction():
            shop.write("block")
        return "no", 409

    @shop.app.post("/manual")
    @shop.db.manual
    def manual() -> Any:
        shop.write("manual")
        shop.db.commit()
        shop.write("undone")
        return "ok"

    @shop.app.post("/read-only")
    @shop.db.read_only
    def read_only() -> Any:
        with pytest.raises(shop.database_error):
            shop.write("lost")
        return "no", 403

    @shop.app.post("/ordinary")
    def ordinary() -> Any:
        shop.write("ordinary")
        return "no" if shop.db.doom() else "ok"  # type: ignore[func-returns-value]

    for _ in range(2):
        assert shop.post("/autocommit") == 409
        assert shop.post("/manual") == 200
        assert shop.post("/read-only") == 403
        assert shop.post("/ordinary") == 200
    assert shop.look() == ["at once", "block", "manual"] * 2
    assert shop.pool.get_stats()["connections_num"] == 1


def test_a_stream_reads_on_a_fresh_connection_and_cannot_write(shop: Shop) -> None:
    @shop.app.post("/")
    def view() -> Any:
        shop.write("view")
        old = shop.db.connection.cursor()

        def rows() -> Iterator[str]:
            with pytest.raises(ConnectionReleased):
                old.execute("SELECT 1")
            with closing(shop.db.connection.cursor()) as cursor:
                cursor.execute("SELECT text FROM note")
                yield from (text for (text,) in cursor)
            with pytest.raises(shop.database_error):
                shop.write("lost")
            shop.db.rollback()
            with shop.db.transaction():
                shop.write("stream")

        return Response(stream_with_context(rows()))

    assert shop.app.test_client().post("/").text == "view"
    assert shop.look() == ["view", "stream"]
    assert shop.app.test_client().post("/").text == "viewstreamview"


def test_an_async_view_uses_it_from_another_thread(shop: Shop) -> None:
    @shop.app.before_request
    def before() -> None:
        shop.write("before")

    @shop.app.post("/")
    async def view() -> Any:
        shop.write("view")
        await asyncio.sleep(0)
        return "ok"

    assert shop.post("/") == 200
    assert shop.look() == ["before", "view"]


@pytest.mark.parametrize("shop", [PSYCOPG, "sqlite3"], indirect=True)
def test_what_the_driver_offers_on_the_connection_itself_is_fenced_too(shop: Shop) -> None:
    with shop.app.app_context():
        cursor = shop.db.connection.execute("SELECT 1")
        assert tuple(cursor.fetchone()) == (1,)
        assert cursor.execute("SELECT 2") is cursor
        assert cursor.connection is shop.db.connection
        kept = shop.db.connection.execute
    for use in (cursor.fetchone, lambda: kept("SELECT 1"), lambda: list(cursor)):
        with pytest.raises(ConnectionReleased):
            use()


@pytest.mark.parametrize("shop", [PSYCOPG, "sqlite3"], indirect=True)
def test_what_the_driver_hands_out_to_be_used_later_is_fenced_too(shop: Shop) -> None:
    """Generators and blocks talk to the connection when they are run, not when they are made."""
    with shop.app.app_context():
        connection, kept = shop.db.connection, {}
        if shop.driver == "sqlite3":
            kept = {"iterdump": connection.iterdump(), "begun": connection.iterdump()}
            begun = [next(kept["begun"])]
        else:
            cursor = connection.cursor()
            begun = list(cursor.stream("SELECT 1 UNION ALL SELECT 2"))
            with cursor.copy("COPY (SELECT 1) TO STDOUT") as copy:
                assert b"".join(copy) == b"1\n"
            with connection.transaction() as transaction:
                assert transaction.status.name == "ACTIVE"  # the driver's own object
            kept = {
                "notifies": connection.notifies(timeout=0),
                "stream": cursor.stream("SELECT 1"),
                "transaction": connection.transaction(),
                "pipeline": connection.pipeline(),
                "copy": cursor.copy("COPY note TO STDOUT"),
            }
        assert len(begun) == (1 if shop.driver == "sqlite3" else 2)
        raw = connection.raw
    with shop.app.app_context():
        assert shop.db.connection.raw is raw  # the same session, lent again
        shop.write("kept")
        for what, use in kept.items():
            with (
                pytest.raises(ConnectionReleased),
                use if hasattr(use, "__enter__") else closing(use),
            ):
                assert next(use, None) is None, f"{what} was used"
        shop.db.commit()
    assert shop.look() == ["kept"]


@pytest.mark.parametrize("shop", [PSYCOPG], indirect=True)
def test_rows_that_psycopg_streams_work_under_isolation_in_autocommit_mode(shop: Shop) -> None:
    @shop.app.post("/")
    @shop.db.autocommit
    def view() -> Any:
        cursor = shop.db.connection.cursor()
        sql = "INSERT INTO note (text) VALUES ('a'), ('b') RETURNING text"
        texts = [text for (text,) in cursor.stream(sql)]
        return {"texts": texts}, 409

    with shop.db.test_isolation(shop.app):
        for _ in range(2):
            assert shop.app.test_client().post("/").json == {"texts": ["a", "b"]}
        with shop.app.app_context(), closing(shop.db.connection.cursor()) as cursor:
            cursor.execute("SELECT count(*) FROM note")
            assert cursor.fetchone() == (4,)
    assert shop.look() == []


@pytest.mark.parametrize("shop", [PSYCOPG], indirect=True)
def test_psycopgs_own_transaction_blocks_are_seen_by_the_end(shop: Shop) -> None:
    @shop.app.post("/<int:status>")
    def view(status: int) -> Any:
        shop.write("before")
        with shop.db.connection.transaction():
            shop.write("block")
        return "", status

    assert shop.post("/409") == 409
    assert shop.post("/200") == 200
    assert shop.look() == ["before", "block"]


def test_isolation_undoes_it_all_and_finds_deferred_violations(shop: Shop) -> None:
    @shop.app.post("/ok")
    def ok() -> Any:
        shop.write("kept")
        return "ok"

    @shop.app.post("/violates")
    def violates() -> Any:
        shop.write("undone")
        shop.violate()
        return "ok"

    @shop.app.post("/reads")
    @shop.db.read_only
    def reads() -> Any:
        with pytest.raises(shop.database_error):
            shop.write("lost")
        return "no", 403

    with shop.db.test_isolation(shop.app):
        for _ in range(2):
            assert shop.post("/ok") == 200
            assert shop.post("/violates") == 500
            assert shop.post("/reads") == 403
        with shop.app.app_context(), closing(shop.db.connection.cursor()) as cursor:
            cursor.execute("SELECT text FROM note")
            assert [text for (text,) in cursor] == ["kept"] * 2
    assert shop.look() == []
    assert shop.post("/ok") == 200
    assert shop.look() == ["kept"]


@pytest.mark.parametrize("shop", ["psycopg2", PSYCOPG], indirect=True)
def test_a_commit_that_could_only_roll_back_is_refused(shop: Shop) -> None:
    with shop.app.app_context():
        with pytest.raises(shop.database_error):
            shop.fail()
        with pytest.raises(TransactionAborted) as caught:
            shop.db.commit()
        assert isinstance(caught.value, shop.pool.driver.OperationalError)
