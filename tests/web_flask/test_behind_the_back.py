"""What a driver's connection offers that ends or changes a transaction without saying so."""

from __future__ import annotations

from typing import Any

import pytest

from tests.web_flask.conftest import DRIVER, MakeSite, Site, pg

# Methods of psycopg2 that roll back what is open, and say nothing.
SILENT: dict[str, Any] = {
    "set_isolation_level": lambda connection: connection.set_isolation_level(3),
    "set_isolation_level to autocommit": lambda connection: connection.set_isolation_level(0),
    "set_client_encoding": lambda connection: connection.set_client_encoding("LATIN1"),
    "reset": lambda connection: connection.reset(),
}
# What the driver refuses by itself, of each driver.
REFUSED: dict[str, Any] = {
    "autocommit": lambda connection: setattr(connection, "autocommit", True),
    "isolation_level": lambda connection: setattr(connection, "isolation_level", 3),
    "deferrable": lambda connection: setattr(connection, "deferrable", True),
}
if DRIVER == "psycopg2":
    REFUSED["readonly"] = lambda connection: setattr(connection, "readonly", True)
    REFUSED["set_session"] = lambda connection: connection.set_session(readonly=True)
else:
    SILENT.clear()
    REFUSED["read_only"] = lambda connection: setattr(connection, "read_only", True)
    REFUSED["set_isolation_level"] = lambda connection: connection.set_isolation_level(
        pg.IsolationLevel.SERIALIZABLE
    )
    REFUSED["set_autocommit"] = lambda connection: connection.set_autocommit(True)
WAYS = {**SILENT, **REFUSED}


@pytest.mark.parametrize("way", WAYS)
def test_in_a_transaction_it_is_refused_and_nothing_is_lost(site: Site, way: str) -> None:
    called: list[str] = []
    errors: list[str] = []

    @site.app.post("/")
    def view() -> Any:
        site.db.on_commit(lambda: called.append("committed"))
        site.db.on_rollback(lambda: called.append("rolled back"))
        site.write("one")
        with pytest.raises(pg.ProgrammingError) as caught:
            WAYS[way](site.db.connection)
        errors.append(str(caught.value))
        site.write("two")
        return "ok"

    assert site.client().post("/").status_code == 200
    assert site.database.notes() == ["one", "two"]
    assert called == ["committed"]
    if way in SILENT:
        assert "db.rollback()" in errors[0]
        assert way.split()[0] in errors[0]


@pytest.mark.parametrize("way", WAYS)
def test_where_nothing_is_open_it_does_what_the_driver_does_and_the_next_request_is_as_ever(
    make_site: MakeSite, way: str
) -> None:
    site = make_site(DBPOOL_OPTIONS={"max_size": 1})

    @site.app.post("/first")
    def first() -> Any:
        WAYS[way](site.db.connection)
        site.db.connection.cursor().execute("SELECT 1")
        return "ok"

    @site.app.post("/<int:status>")
    def view(status: int) -> Any:
        connection = site.db.connection
        assert not connection.autocommit
        with connection.cursor() as cursor:
            cursor.execute("SHOW client_encoding")
            assert cursor.fetchone() == ("UTF8",)
            cursor.execute("SHOW transaction_isolation")
            assert cursor.fetchone() == ("read committed",)
            cursor.execute("SHOW transaction_read_only")
            assert cursor.fetchone() == ("off",)
        site.write(f"{status}")
        return "", status

    assert site.client().post("/first").status_code == 200
    assert site.client().post("/200").status_code == 200
    assert site.client().post("/409").status_code == 409
    assert site.database.notes() == ["200"]


@pytest.mark.skipif(DRIVER != "psycopg2", reason="psycopg 3 has no reset()")
def test_what_reset_undoes_is_there_again_for_the_next_request(make_site: MakeSite) -> None:
    def configure(connection: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET my.setting TO 'configured'")
        connection.commit()

    site = make_site(DBPOOL_OPTIONS={"max_size": 1, "configure": configure})
    seen: list[str] = []

    @site.app.post("/")
    def view() -> Any:
        with site.db.connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('my.setting', true)")
            seen.append(cursor.fetchone()[0])
        site.db.rollback()
        site.db.connection.reset()
        return "ok"

    assert site.client().post("/").status_code == 200
    assert site.client().post("/").status_code == 200
    assert seen == ["configured"] * 2


@pytest.mark.parametrize("name", ["tpc_begin", "tpc_prepare", "tpc_commit", "tpc_rollback"])
def test_a_two_phase_transaction_is_refused_for_no_request_would_end_it(
    site: Site, name: str
) -> None:
    @site.app.post("/")
    def view() -> Any:
        connection = site.db.connection
        xid = connection.xid(1, "global", "branch")
        with pytest.raises(pg.NotSupportedError, match=r"db\.pools"):
            getattr(connection, name)(*([xid] if name == "tpc_begin" else []))
        site.write("kept")
        return "ok"

    assert site.client().post("/").status_code == 200
    assert site.database.notes() == ["kept"]


def test_in_a_block_of_an_autocommit_view_it_is_refused_as_well(site: Site) -> None:
    @site.app.post("/")
    @site.db.autocommit
    def view() -> Any:
        with site.db.transaction():
            site.write("one")
            for way in {**SILENT, "autocommit": REFUSED["autocommit"]}.values():
                with pytest.raises(pg.ProgrammingError, match=r"db\.rollback"):
                    way(site.db.connection)
        return "ok"

    assert site.client().post("/").status_code == 200
    assert site.database.notes() == ["one"]


# -- sqlite3


@pytest.fixture
def shop(make_site: MakeSite, tmp_path: Any) -> Site:
    site = make_site(
        DBPOOL_URL=f"sqlite:///{tmp_path}/shop.db", DBPOOL_OPTIONS={"driver": "sqlite3"}
    )
    with site.app.app_context(), site.db.transaction() as connection:
        connection.execute("CREATE TABLE note (text)")
    return site


SQLITE: dict[str, Any] = {
    "executescript": lambda connection: connection.executescript("SELECT 1"),
    "executescript of a cursor": lambda connection: connection.cursor().executescript("SELECT 1"),
    "isolation_level": lambda connection: setattr(connection, "isolation_level", None),
    "autocommit": lambda connection: setattr(connection, "autocommit", True),
}


@pytest.mark.parametrize("way", SQLITE)
def test_sqlite_commits_nothing_behind_the_back(shop: Site, way: str) -> None:
    import sqlite3

    @shop.app.post("/")
    def view() -> Any:
        connection = shop.db.connection
        connection.execute("INSERT INTO note VALUES ('undone')")
        with pytest.raises(sqlite3.ProgrammingError, match=r"db\.commit"):
            SQLITE[way](connection)
        return "no", 409

    assert shop.client().post("/").status_code == 409
    with shop.app.app_context():
        assert shop.db.connection.execute("SELECT * FROM note").fetchall() == []


def test_a_script_runs_where_nothing_is_open(shop: Site) -> None:
    with shop.app.app_context():
        shop.db.connection.executescript("CREATE TABLE a (b); INSERT INTO a VALUES (1)")
        assert shop.db.connection.execute("SELECT * FROM a").fetchall() == [(1,)]
