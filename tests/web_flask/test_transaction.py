"""`with db.transaction():`, db.commit() and db.rollback(), in requests and elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from dbpool import TransactionAborted
from dbpool_flask import ConnectionReleased
from tests.web_flask.conftest import MakeSite, Site, pg


class Oops(Exception):
    """An error of the app's own."""


def attempt(site: Site, *texts: str, error: BaseException | None = None) -> None:
    """Write notes in a block, which then may fail."""
    with site.db.transaction():
        for text in texts:
            site.write(text)
        if error is not None:
            raise error


# -- outside requests: the outermost block commits


def test_a_block_commits_at_its_end(site: Site) -> None:
    with site.app.app_context():
        with site.db.transaction() as connection:
            assert connection is site.db.connection
            site.write("kept")
        assert site.database.notes() == ["kept"]
        site.write("undone")
    assert site.database.notes() == ["kept"]


def test_a_block_that_fails_is_undone_and_the_next_works(site: Site) -> None:
    with site.app.app_context():
        with pytest.raises(Oops):
            attempt(site, "undone", error=Oops())
        attempt(site, "kept")
    assert site.database.notes() == ["kept"]


def test_a_database_error_that_leaves_a_block_undoes_it(site: Site) -> None:
    with site.app.app_context():
        with pytest.raises(pg.Error), site.db.transaction():
            site.fail()
        attempt(site, "kept")
    assert site.database.notes() == ["kept"]


def test_a_nested_block_that_fails_undoes_itself_alone(site: Site) -> None:
    with site.app.app_context():
        with site.db.transaction():
            site.write("one")
            with pytest.raises(Oops):
                attempt(site, "undone", error=Oops())
            with site.db.transaction():
                site.write("two")
                with pytest.raises(pg.Error), site.db.transaction():
                    site.fail()
                site.write("three")
            assert site.database.notes() == []
    assert site.database.notes() == ["one", "two", "three"]


def test_an_outer_block_that_fails_undoes_its_inner_ones(site: Site) -> None:
    def outer() -> None:
        with site.db.transaction():
            attempt(site, "undone")
            raise Oops

    with site.app.app_context():
        with pytest.raises(Oops):
            outer()
    assert site.database.notes() == []


def test_what_was_open_before_a_block_survives_its_failure_and_shares_its_commit(
    site: Site,
) -> None:
    with site.app.app_context():
        site.write("before")
        with pytest.raises(Oops):
            attempt(site, "undone", error=Oops())
        attempt(site, "in the block")
    assert site.database.notes() == ["before", "in the block"]


def test_a_commit_that_fails_at_the_end_of_a_block_is_its_error(site: Site) -> None:
    with site.app.app_context():
        with pytest.raises(pg.errors.ForeignKeyViolation), site.db.transaction():
            site.violate()
        attempt(site, "kept")
    assert site.database.notes() == ["kept"]


def test_an_error_that_was_swallowed_in_a_block_is_its_error(site: Site) -> None:
    with site.app.app_context():
        block = site.db.transaction()
        block.__enter__()
        site.write("undone")
        with pytest.raises(pg.Error):
            site.fail()
        with pytest.raises(TransactionAborted, match="inside this"):
            block.__exit__(None, None, None)
        attempt(site, "kept")
    assert site.database.notes() == ["kept"]


def test_a_commit_or_rollback_inside_a_block_is_refused_and_harms_nothing(site: Site) -> None:
    with site.app.app_context():
        with site.db.transaction():
            site.write("kept")
            for use in (
                site.db.commit,
                site.db.rollback,
                site.db.connection.commit,
                site.db.connection.rollback,
            ):
                with pytest.raises(RuntimeError, match="leave the block first"):
                    use()
    assert site.database.notes() == ["kept"]


def test_a_block_is_entered_once(site: Site) -> None:
    with site.app.app_context():
        block = site.db.transaction()
        with block, pytest.raises(RuntimeError, match="entered before"):
            block.__enter__()
        with pytest.raises(RuntimeError, match="entered before"):
            block.__enter__()


def test_a_block_works_in_autocommit_mode(make_site: MakeSite) -> None:
    def configure(connection: Any) -> None:
        connection.autocommit = True

    site = make_site(DBPOOL_OPTIONS={"configure": configure})

    @site.app.post("/")
    def view() -> Any:
        site.write("at once")
        with pytest.raises(Oops):
            attempt(site, "undone", error=Oops())
        with site.db.transaction():
            site.write("kept")
            with pytest.raises(Oops):
                attempt(site, "undone", error=Oops())
        return "no", 409

    assert site.client().post("/").status_code == 409
    assert site.database.notes() == ["at once", "kept"]


def test_blocks_on_two_databases_are_independent(make_site: MakeSite) -> None:
    url = make_site().database.url
    site = make_site(DBPOOL_DATABASES={"default": url, "other": url})
    with site.app.app_context():
        with site.db.transaction("other") as other:
            assert other is site.db.get_connection("other")
            other.cursor().execute("INSERT INTO note (text) VALUES ('other')")
            site.write("default, undone")
    assert site.database.notes() == ["other"]


def test_commit_and_rollback_go_to_all_that_were_used_or_to_the_named(
    make_site: MakeSite,
) -> None:
    url = make_site().database.url
    site = make_site(DBPOOL_DATABASES={"default": url, "other": url})

    def write_both(text: str) -> None:
        for name in ("default", "other"):
            cursor = site.db.get_connection(name).cursor()
            cursor.execute("INSERT INTO note (text) VALUES (%s)", [f"{text} on {name}"])

    with site.app.app_context():
        site.db.commit()  # nothing was used yet: nothing to do
        site.db.rollback()
        assert site.lent() == 0
        write_both("a")
        site.db.commit("other")
        site.db.rollback("default")
        write_both("b")
        site.db.commit()
        write_both("c")
        site.db.rollback()
        site.db.commit()
    assert site.database.notes() == ["a on other", "b on default", "b on other"]


def test_no_database_commits_if_another_cannot(make_site: MakeSite) -> None:
    url = make_site().database.url
    site = make_site(DBPOOL_DATABASES={"default": url, "other": url})

    @site.app.post("/")
    def view() -> Any:
        site.write("undone")
        with pytest.raises(pg.Error):
            site.db.get_connection("other").cursor().execute("SELECT 1 / 0")
        return "ok"

    assert site.client().post("/").status_code == 500
    assert site.database.notes() == []


def test_a_commit_that_fails_after_another_was_made_says_so(
    make_site: MakeSite, caplog: pytest.LogCaptureFixture
) -> None:
    url = make_site().database.url
    site = make_site(DBPOOL_DATABASES={"default": url, "other": url})

    @site.app.post("/")
    def view() -> Any:
        site.write("kept")
        site.db.get_connection("other").cursor().execute("INSERT INTO child VALUES (1)")
        return "ok"

    assert site.client().post("/").status_code == 500
    assert site.database.notes() == ["kept"]
    assert "the commit on 'other' failed after 'default' had been committed" in caplog.text
    assert site.lent() == 0


# -- in a request: the request is the outermost block


@pytest.mark.parametrize(("status", "notes"), [(200, ["before", "block"]), (409, [])])
def test_in_a_request_a_block_is_committed_with_the_request(
    site: Site, status: int, notes: list[str]
) -> None:
    @site.app.post("/")
    def view() -> Any:
        site.write("before")
        attempt(site, "block")
        assert site.database.notes() == []
        return "", status

    assert site.client().post("/").status_code == status
    assert site.database.notes() == notes


def test_in_a_request_a_block_that_fails_leaves_the_rest_to_be_committed(site: Site) -> None:
    @site.app.post("/")
    def view() -> Any:
        with pytest.raises(pg.Error), site.db.transaction():
            site.fail()
        with pytest.raises(Oops):
            attempt(site, "undone", error=Oops())
        site.write("kept")
        return "ok"

    assert site.client().post("/").status_code == 200
    assert site.database.notes() == ["kept"]


def test_a_block_that_is_still_open_at_the_end_of_a_request_is_an_error(site: Site) -> None:
    blocks = []

    @site.app.post("/")
    def view() -> Any:
        blocks.append(site.db.transaction())
        blocks[0].__enter__()
        site.write("undone")
        return "ok"

    assert site.client().post("/").status_code == 500
    assert site.database.notes() == []
    assert site.lent() == 0
    with pytest.raises(ConnectionReleased):
        blocks[0].__exit__(None, None, None)
    blocks[0].__exit__(Oops, Oops(), None)  # lets the block's own error through


def test_a_link_that_breaks_in_a_block_lets_the_blocks_error_through(site: Site) -> None:
    @site.app.post("/")
    def view() -> Any:
        with pytest.raises(pg.OperationalError), site.db.transaction():
            site.db.connection.cursor().execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return "ok"

    @site.app.post("/next")
    def after() -> Any:
        site.write("kept")
        return "ok"

    assert site.client().post("/").status_code == 500  # what came before the block is lost
    assert site.client().post("/next").status_code == 200
    assert site.database.notes() == ["kept"]


def test_a_block_that_was_cut_short_cannot_be_committed(site: Site) -> None:
    class Cut(BaseException):
        """As a greenlet's timeout is."""

    @site.app.post("/")
    def view() -> Any:
        with pytest.raises(Cut):
            attempt(site, "undone", error=Cut())
        return "ok"

    assert site.client().post("/").status_code == 500
    assert site.database.notes() == []
    assert site.lent() == 0
