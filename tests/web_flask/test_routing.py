"""Several databases: `db.using`, and a replica that is read from until something is written."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest
from flask import Response, stream_with_context

from dbpool_flask import DBPool
from testproject.postgres import PostgresServer
from tests.support import inside
from tests.support.servers import Postgres
from tests.support.standby import make_pair, wait_caught_up
from tests.support.waiting import wait_until
from tests.web_flask.conftest import Database, MakeSite, Site, pg


@pytest.fixture(scope="module")
def _other(postgres: Postgres, _database: Database) -> Iterator[Database]:
    name = f"{_database.name}_other"
    with closing(psycopg2.connect(postgres.dsn())) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
            database = Database(postgres, name)
            database.execute("CREATE TABLE note (id serial PRIMARY KEY, text text NOT NULL)")
            yield database
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def other(_other: Database, database: Database) -> Database:
    """A second database; each has a note that says which of both it is."""
    _other.execute("TRUNCATE note; INSERT INTO note (text) VALUES ('other')")
    database.execute("INSERT INTO note (text) VALUES ('default')")
    return _other


@pytest.fixture
def two(make_site: MakeSite, database: Database, other: Database) -> Site:
    """A site with two databases."""
    return make_site(DBPOOL_DATABASES={"default": database.url, "other": other.url})


@pytest.fixture
def replicated(make_site: MakeSite, database: Database, other: Database) -> Site:
    """A site whose second database is said to be a replica, one that never catches up."""
    return make_site(
        DBPOOL_DATABASES={"default": database.url, "other": other.url}, DBPOOL_REPLICA="other"
    )


def first(site: Site) -> str:
    """Return which database `db.connection` reads from."""
    with site.db.connection.cursor() as cursor:
        cursor.execute("SELECT text FROM note ORDER BY id")
        return str(cursor.fetchone()[0])


# -- db.using


def test_a_block_means_another_database_and_blocks_nest(two: Site) -> None:
    seen: list[str] = []

    @two.app.post("/")
    def view() -> Any:
        seen.append(first(two))
        with two.db.using("other"):
            seen.append(first(two))
            two.write("written there")
            with two.db.using("default"):
                seen.append(first(two))
            seen.append(first(two))
            assert two.db.get_connection() is two.db.get_connection("other")
        two.write("written here")
        return first(two)

    assert two.client().post("/").text == "default"
    assert seen == ["default", "other", "default", "other"]
    assert two.database.notes() == ["default", "written here"]


def test_both_databases_are_committed_or_none(two: Site, other: Database) -> None:
    @two.app.post("/<int:status>")
    def view(status: int) -> Any:
        two.write(str(status))
        with two.db.using("other"):
            two.write(str(status))
        return "", status

    for status in (409, 200):
        assert two.client().post(f"/{status}").status_code == status
    assert two.database.notes() == ["default", "200"]
    assert other.notes() == ["other", "200"]


def test_one_whose_session_has_ended_is_found_before_the_other_commits(
    two: Site, other: Database
) -> None:
    @two.app.post("/")
    def view() -> Any:
        two.write("undone")
        with two.db.using("other"):
            two.write("undone")
            raw = two.db.connection.raw
            other.execute("SELECT pg_terminate_backend(%s)", raw.info.backend_pid)
            poll = inside.poller(raw.fileno())
            wait_until(lambda: inside.look(poll) == inside.DEAD, message="the socket tells")
        return "ok"

    assert two.client().post("/").status_code == 500
    assert two.database.notes() == ["default"]
    assert other.notes() == ["other"]


def test_a_block_of_a_transaction_and_functions_after_it_are_those_of_that_database(
    two: Site, other: Database
) -> None:
    called = []
    with two.app.app_context(), two.db.using("other"):
        with two.db.transaction():
            two.write("kept")
            two.db.on_commit(lambda: called.append("committed"))
        with pytest.raises(KeyError), two.db.transaction():  # noqa: PT012
            two.db.on_rollback(lambda: called.append("rolled back"))
            raise KeyError
    assert other.notes() == ["other", "kept"]
    assert called == ["committed", "rolled back"]


def test_an_exception_ends_a_block(two: Site) -> None:
    with two.app.app_context():
        with pytest.raises(KeyError), two.db.using("other"):
            raise KeyError
        assert first(two) == "default"


@pytest.mark.parametrize("is_async", [False, True])
def test_a_view_uses_another_database_until_its_request_is_over(
    two: Site, other: Database, is_async: bool
) -> None:
    seen: list[str] = []
    two.app.before_request(lambda: seen.append(f"before: {first(two)}"))
    two.app.teardown_request(lambda error: seen.append(f"teardown: {first(two)}"))

    def rows() -> Iterator[str]:
        yield first(two)

    if is_async:

        async def view() -> Any:
            await asyncio.sleep(0)
            two.write("written")
            return first(two)

    else:

        def view() -> Any:  # type: ignore[misc]
            two.write("written")
            return Response(stream_with_context(rows()))

    two.app.post("/")(two.db.using("other")(view))
    assert two.client().post("/").text == "other"
    assert seen[0] == "before: other"
    assert set(seen[1:]) == {"teardown: other"}
    assert other.notes() == ["other", "written"]


def test_a_function_uses_another_database_whoever_calls_it(two: Site) -> None:
    @two.db.using("other")
    def there() -> str:
        """Kept docstring."""
        return first(two)

    @two.app.get("/")
    def view() -> Any:
        return f"{first(two)} {there()} {first(two)}"

    assert two.client().get("/").text == "default other default"
    assert there.__doc__ == "Kept docstring."
    with two.app.app_context():
        assert there() == "other"
    with pytest.raises(RuntimeError, match="no app context here"):
        there()


def test_a_block_turns_no_other_thread_or_task_of_its_request_around(two: Site) -> None:
    seen: dict[str, str] = {}

    @two.app.get("/")
    async def view() -> Any:
        entered, looked = asyncio.Event(), asyncio.Event()

        async def there() -> None:
            with two.db.using("other"):
                entered.set()
                await looked.wait()
                seen["there"] = first(two)

        async def here() -> None:
            await entered.wait()
            seen["here"] = first(two)
            looked.set()

        await asyncio.gather(there(), here())
        return "ok"

    assert two.client().get("/").status_code == 200
    assert seen == {"there": "other", "here": "default"}


def test_a_block_does_not_reach_into_an_app_context_that_is_entered_in_it(
    two: Site, make_site: MakeSite
) -> None:
    alone = make_site(two.db)  # another app, which has no such database
    with two.app.app_context(), two.db.using("other"):
        with alone.app.app_context():
            assert first(alone) == "default"
        with two.app.app_context():
            assert first(two) == "default"
        assert first(two) == "other"


def test_a_block_does_not_reach_into_a_request_that_is_made_in_it(two: Site) -> None:
    seen: list[str] = []
    two.app.before_request(lambda: seen.append(first(two)))

    @two.app.get("/")
    @two.db.using("default")
    def view() -> Any:
        return first(two)

    with two.app.app_context(), two.db.using("other"):
        seen.append(two.client().get("/").text)
    assert seen == ["default", "default"]


def test_mistakes_with_it_are_named(two: Site) -> None:
    block = two.db.using("othr")
    with two.app.app_context():
        with pytest.raises(LookupError, match="'othr' is configured: did you mean 'other'"):
            block.__enter__()
        block = two.db.using("other")
        with block, pytest.raises(RuntimeError, match="entered before"):
            block.__enter__()
        assert first(two) == "default"
    with pytest.raises(ValueError, match="marked 'other' already, so it cannot be 'default'"):
        two.db.using("default")(two.db.using("other")(lambda: None))


# -- a replica


def test_a_read_only_view_reads_from_the_replica(replicated: Site) -> None:
    @replicated.app.get("/")
    @replicated.db.read_only
    def view() -> Any:
        text = first(replicated)
        with pytest.raises(pg.errors.ReadOnlySqlTransaction):
            replicated.write("lost")
        return text

    @replicated.app.get("/primary")
    @replicated.db.using("default")
    @replicated.db.read_only
    def primary() -> Any:
        text = first(replicated)
        with pytest.raises(pg.errors.ReadOnlySqlTransaction):
            replicated.write("lost")
        replicated.db.rollback()
        return text

    @replicated.app.get("/ordinary")
    def ordinary() -> Any:
        return first(replicated)

    client = replicated.client()
    assert client.get("/").text == "other"
    assert client.get("/primary").text == "default"
    assert client.get("/ordinary").text == "default"
    assert client.get("/").text == "other"


def test_a_stream_of_a_read_only_view_reads_from_the_replica(replicated: Site) -> None:
    @replicated.app.get("/")
    @replicated.db.read_only
    def view() -> Any:
        def rows() -> Iterator[str]:
            yield first(replicated)

        return Response(stream_with_context(rows()))

    assert replicated.client().get("/").text == "other"


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (lambda site: None, "other"),
        (first, "other"),  # having read on the primary is not having written
        (lambda site: site.write("new"), "default"),
        (lambda site: (site.write("new"), site.db.rollback()), "other"),
        (lambda site: (site.write("new"), site.db.commit()), "default"),
        (lambda site: (site.write("new"), site.db.connection.commit(), first(site)), "default"),
        (lambda site: (first(site), site.db.commit()), "default"),
        (lambda site: in_block(site), "default"),
    ],
    ids=["nothing", "read", "written", "undone", "committed", "fence", "doubtful", "block"],
)
def test_reads_stay_on_the_primary_once_something_was_written(
    replicated: Site, before: Callable[[Site], Any], expected: str
) -> None:
    @replicated.app.post("/")
    def view() -> Any:
        before(replicated)
        with replicated.db.using("other"):
            return first(replicated)

    assert replicated.client().post("/").text == expected


def in_block(site: Site) -> None:
    with site.db.transaction():
        site.write("new")


def test_a_write_in_the_very_block_that_reads_from_the_replica_is_seen_at_once(
    replicated: Site,
) -> None:
    @replicated.app.post("/")
    def view() -> Any:
        with replicated.db.using("other"):
            seen = [first(replicated)]
            with replicated.db.using("default"):
                replicated.write("new")
            seen.append(first(replicated))
        return seen

    assert replicated.client().post("/").get_json() == ["other", "default"]
    assert replicated.database.notes() == ["default", "new"]


@pytest.mark.parametrize("word", ["manual", "autocommit"])
def test_reads_stay_on_the_primary_in_the_other_modes_too(
    make_site: MakeSite, database: Database, other: Database, word: str
) -> None:
    site = make_site(
        DBPOOL_DATABASES={"default": database.url, "other": other.url},
        DBPOOL_REPLICA="other",
        DBPOOL_TRANSACTION=word,
    )
    with site.app.app_context():
        with site.db.using("other"):
            assert first(site) == "other"
        site.write("new")
        with site.db.using("other"):
            assert first(site) == "default"

    @site.app.post("/")
    def view() -> Any:
        def rows() -> Iterator[str]:
            with site.db.using("other"):
                yield first(site)

        site.write("new")
        site.db.commit()
        return Response(stream_with_context(rows()))

    assert site.client().post("/").text == "default"


def test_a_connection_that_the_view_itself_put_into_autocommit_may_have_written(
    replicated: Site,
) -> None:
    with replicated.app.app_context():
        replicated.db.connection.autocommit = True
        replicated.write("new")
        with replicated.db.using("other"):
            assert first(replicated) == "default"


def test_a_stream_reads_on_the_primary_what_its_view_has_written(replicated: Site) -> None:
    @replicated.app.post("/<int:write>")
    def view(write: int) -> Any:
        def rows() -> Iterator[str]:
            with replicated.db.using("other"):
                yield first(replicated)

        if write:
            replicated.write("new")
        return Response(stream_with_context(rows()))

    assert replicated.client().post("/0").text == "other"
    assert replicated.client().post("/1").text == "default"


def test_the_next_request_starts_anew(replicated: Site) -> None:
    @replicated.app.post("/<int:write>")
    def view(write: int) -> Any:
        if write:
            replicated.write("new")
        with replicated.db.using("other"):
            return first(replicated)

    assert [replicated.client().post(f"/{n}").text for n in (1, 0)] == ["default", "other"]


def test_nobody_writes_on_a_replica_even_where_it_is_the_primary_itself(
    make_site: MakeSite, database: Database
) -> None:
    """As on a developer's machine: what would fail in production fails there."""
    site = make_site(
        DBPOOL_DATABASES={"default": database.url, "copy": database.url}, DBPOOL_REPLICA="copy"
    )

    @site.app.post("/")
    def view() -> Any:
        def rows() -> Iterator[str]:
            with pytest.raises(pg.errors.ReadOnlySqlTransaction):
                with site.db.transaction("copy") as connection:
                    connection.cursor().execute("INSERT INTO note (text) VALUES ('lost')")
            yield "row"

        with pytest.raises(pg.errors.ReadOnlySqlTransaction):
            with site.db.transaction("copy") as connection:
                connection.cursor().execute("INSERT INTO note (text) VALUES ('lost')")
        return Response(stream_with_context(rows()))

    assert site.client().post("/").text == "row"
    assert database.notes() == []


def test_a_query_that_fails_on_the_replica_costs_the_requests_writes_nothing(
    replicated: Site,
) -> None:
    """A standby cancels queries that stand in the way of its catching up."""

    @replicated.app.post("/<int:streams>")
    def view(streams: int) -> Any:
        with replicated.db.using("other"), pytest.raises(pg.Error):
            replicated.fail()
        replicated.write("kept")
        return Response(replicated.db.keep_open(["row"])) if streams else "row"

    for streams in (0, 1):
        answer = replicated.client().post(f"/{streams}")
        assert (answer.status_code, answer.text) == (200, "row")
    assert replicated.database.notes() == ["default", "kept", "kept"]


def test_a_link_to_the_replica_that_is_lost_costs_the_requests_writes_nothing(
    replicated: Site,
) -> None:
    @replicated.app.post("/")
    def view() -> Any:
        replicated.write("kept")
        with pytest.raises(pg.OperationalError):
            replicated.db.get_connection("other").cursor().execute(
                "SELECT pg_terminate_backend(pg_backend_pid())"
            )
        return "ok"

    assert replicated.client().post("/").status_code == 200
    assert replicated.database.notes() == ["default", "kept"]


def test_functions_after_the_commit_are_those_of_the_request(replicated: Site) -> None:
    called = []

    @replicated.app.post("/")
    def view() -> Any:
        with replicated.db.using("other"):
            first(replicated)
            replicated.db.on_commit(lambda: called.append(replicated.database.notes()))
        replicated.write("kept")
        replicated.db.commit("default")
        assert called == [["default", "kept"]]
        return "ok"

    assert replicated.client().post("/").status_code == 200


def test_a_thread_with_a_context_of_its_own_knows_nothing_of_the_requests_writes(
    replicated: Site,
) -> None:
    seen: list[str] = []

    def work() -> None:
        with replicated.app.app_context(), replicated.db.using("other"):
            seen.append(first(replicated))

    with replicated.app.app_context():
        replicated.write("new")
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert seen == ["other"]


def test_under_isolation_the_replica_is_the_primary_and_need_not_be_there(
    make_site: MakeSite, database: Database
) -> None:
    site = make_site(
        DBPOOL_DATABASES={
            "default": database.url,
            "copy": {"url": "postgresql://127.0.0.1:1/nowhere", "timeout": 0.2},
        },
        DBPOOL_REPLICA="copy",
    )

    @site.app.post("/")
    def write() -> Any:
        site.write("in the test")
        return "ok"

    @site.app.get("/")
    @site.db.read_only
    def read() -> Any:
        with pytest.raises(pg.errors.ReadOnlySqlTransaction):
            site.write("lost")
        site.db.rollback()
        return first(site)

    @site.app.get("/named")
    def named() -> Any:
        with site.db.get_connection("copy").cursor() as cursor:
            cursor.execute("SELECT text FROM note")
            return cursor.fetchone()[0]

    with site.db.test_isolation(site.app):
        assert site.client().post("/").text == "ok"
        assert site.client().get("/").text == "in the test"
        assert site.client().get("/named").text == "in the test"
    assert database.notes() == []


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("default", "names a replica of the database 'default'"),
        ("othr", "'othr' is none of DBPOOL_DATABASES: did you mean 'other'"),
        (7, "7 is none of DBPOOL_DATABASES; there is 'default', 'other'"),
    ],
)
def test_a_replica_that_is_none_is_refused(
    make_site: MakeSite, database: Database, name: Any, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        make_site(
            DBPOOL_DATABASES={"default": database.url, "other": database.url}, DBPOOL_REPLICA=name
        )


def test_a_replica_without_a_default_is_refused(make_site: MakeSite, database: Database) -> None:
    with pytest.raises(ValueError, match="'default', which has to be configured beside it"):
        make_site(DBPOOL_DATABASES={"other": database.url}, DBPOOL_REPLICA="other")


def test_one_extension_serves_apps_with_and_without_a_replica(
    replicated: Site, make_site: MakeSite
) -> None:
    plain = make_site(replicated.db)
    assert isinstance(plain.db, DBPool)
    for site, expected in ((replicated, "other"), (plain, "default")):
        site.app.add_url_rule("/", "read", replicated.db.read_only(lambda site=site: first(site)))
        assert site.client().get("/").text == expected


# -- a real standby


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """A primary, and a standby that has stopped catching up."""
    primary, standby = make_pair({})
    try:
        primary.sql("CREATE TABLE note (id serial PRIMARY KEY, text text NOT NULL)")
        primary.sql("INSERT INTO note (text) VALUES ('old')")
        wait_caught_up(primary)
        standby.sql("SELECT pg_wal_replay_pause()")
        yield primary, standby
    finally:
        standby.destroy()
        primary.destroy()


def test_a_request_sees_its_own_writes_though_the_standby_lags(
    make_site: MakeSite, pair: tuple[PostgresServer, PostgresServer]
) -> None:
    primary, standby = pair
    site = make_site(
        DBPOOL_DATABASES={"default": primary.url(), "standby": standby.url()},
        DBPOOL_REPLICA="standby",
    )

    @site.db.using("standby")
    def count() -> int:
        with site.db.connection.cursor() as cursor:
            cursor.execute("SELECT count(*), pg_is_in_recovery() FROM note")
            number, on_standby = cursor.fetchone()
            where.append("standby" if on_standby else "primary")
            return int(number)

    @site.app.post("/")
    def write() -> Any:
        before = count()
        site.write("new")
        return [before, count()]

    @site.app.get("/")
    @site.db.read_only
    def read() -> Any:
        with site.db.transaction():
            return [count()]

    where: list[str] = []
    client = site.client()
    assert client.post("/").get_json() == [1, 2]
    assert where == ["standby", "primary"]
    assert client.get("/").get_json() == [1]  # what another request has committed may be missing
    assert where[-1] == "standby"
    assert client.get("/healthz/db").status_code == 200
    # That it is read-only is as it should be.
    result = site.app.test_cli_runner().invoke(args=["dbpool", "check"])
    assert result.exit_code == 0
    assert "standby: ok, a replica, connected in" in result.output
