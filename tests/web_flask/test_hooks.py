"""db.on_commit and db.on_rollback: what is called, when, and what becomes of its errors."""

from __future__ import annotations

from typing import Any

import pytest

from tests.web_flask.conftest import MakeSite, Site


@pytest.fixture
def called(site: Site) -> list[str]:
    return []


def hook(site: Site, called: list[str], text: str = "", name: str = "default") -> None:
    """Register one of each kind."""
    site.db.on_commit(lambda: called.append(f"{text}committed"), name)
    site.db.on_rollback(lambda: called.append(f"{text}rolled back"), name)


@pytest.mark.parametrize(
    ("status", "kind"), [(200, "committed"), (302, "committed"), (409, "rolled back")]
)
@pytest.mark.parametrize("use", [True, False])
def test_the_end_of_a_request_calls_one_of_both(
    site: Site, called: list[str], status: int, kind: str, use: bool
) -> None:
    @site.app.post("/")
    def view() -> Any:
        if use:
            site.write("note")
        hook(site, called)
        assert called == []
        return "", status

    site.client().post("/")
    assert called == [kind]


def test_it_is_called_after_the_commit_before_the_answer_without_a_connection(site: Site) -> None:
    seen: list[Any] = []

    @site.app.post("/")
    def view() -> Any:
        site.write("kept")
        site.db.on_commit(lambda: seen.append((site.database.notes(), site.lent())))
        return "ok"

    def start_response(status: str, *args: Any) -> Any:
        seen.append(status)
        return lambda data: None

    environ = site.app.test_request_context("/", method="POST").request.environ
    list(site.app.wsgi_app(environ, start_response))
    assert seen == [(["kept"], 0), "200 OK"]


def test_it_may_read_and_write_in_a_block_of_its_own(site: Site) -> None:
    def log() -> None:
        with site.db.transaction():
            site.write(f"{len(site.database.notes())} before")

    @site.app.post("/")
    def view() -> Any:
        site.write("kept")
        site.db.on_commit(log)
        return "ok"

    site.client().post("/")
    assert site.database.notes() == ["kept", "1 before"]
    assert site.lent() == 0


def test_a_failing_commit_is_a_rollback(site: Site, called: list[str]) -> None:
    @site.app.post("/")
    def view() -> Any:
        hook(site, called)
        site.violate()
        return "ok"

    assert site.client().post("/").status_code == 500
    assert called == ["rolled back"]


def test_an_error_that_reaches_the_test_is_a_rollback(
    make_site: MakeSite, called: list[str]
) -> None:
    site = make_site(TESTING=True)

    @site.app.post("/")
    def view() -> Any:
        hook(site, called)
        raise KeyError

    with pytest.raises(KeyError):
        site.client().post("/")
    assert called == ["rolled back"]


def test_what_a_view_ends_itself_calls_at_once_and_once(site: Site, called: list[str]) -> None:
    @site.app.post("/")
    def view() -> Any:
        site.write("one")
        hook(site, called, "1 ")
        site.db.commit()
        assert called == ["1 committed"]
        site.write("two")
        hook(site, called, "2 ")
        site.db.connection.rollback()
        assert called == ["1 committed", "2 rolled back"]
        hook(site, called, "3 ")
        site.db.connection.commit()
        hook(site, called, "4 ")
        site.db.rollback()
        return "ok"

    assert site.client().post("/").status_code == 200
    assert called == ["1 committed", "2 rolled back", "3 committed", "4 rolled back"]


def test_a_block_that_is_undone_drops_its_own(site: Site, called: list[str]) -> None:
    @site.app.post("/")
    def view() -> Any:
        hook(site, called, "request ")
        with pytest.raises(KeyError), site.db.transaction():  # noqa: PT012
            hook(site, called, "undone ")
            raise KeyError
        assert called == ["undone rolled back"]
        with site.db.transaction():
            hook(site, called, "kept ")
        return "ok"

    assert site.client().post("/").status_code == 200
    assert called == ["undone rolled back", "request committed", "kept committed"]


def test_outside_requests_the_outermost_block_calls(site: Site, called: list[str]) -> None:
    with site.app.app_context():
        with site.db.transaction():
            with site.db.transaction():
                hook(site, called)
            assert called == []
        assert called == ["committed"]
        hook(site, called, "left over ")
    assert called == ["committed", "left over rolled back"]


def test_in_autocommit_mode_it_is_called_at_once_but_in_a_block(
    site: Site, called: list[str]
) -> None:
    @site.app.post("/")
    @site.db.autocommit
    def view() -> Any:
        site.write("one")
        site.db.on_commit(lambda: called.append("at once"))
        assert called == ["at once"]
        with site.db.transaction():
            site.db.on_commit(lambda: called.append("block"))
            assert called == ["at once"]
            site.write("two")
            assert called == ["at once"]
        return "no", 409

    assert site.client().post("/").status_code == 409
    assert called == ["at once", "block"]


@pytest.mark.parametrize("end", [200, 409, KeyError])
def test_in_autocommit_mode_nothing_is_rolled_back_but_a_block(
    site: Site, called: list[str], end: Any
) -> None:
    @site.app.post("/")
    @site.db.autocommit
    def view() -> Any:
        site.db.on_rollback(lambda: called.append("nothing was open"))
        site.write("stays")
        with pytest.raises(ZeroDivisionError), site.db.transaction():  # noqa: PT012
            site.db.on_rollback(lambda: called.append("block"))
            site.write("undone")
            raise ZeroDivisionError
        if end is KeyError:
            raise KeyError
        return "", end

    site.client().post("/")
    assert called == ["block"]
    assert site.database.notes() == ["stays"]


@pytest.mark.parametrize(("status", "kind"), [(200, "committed"), (409, "rolled back")])
def test_after_the_end_nothing_is_open_so_it_is_called_at_once(
    site: Site, called: list[str], status: int, kind: str
) -> None:
    def again() -> None:
        called.append(kind)
        hook(site, called, "later ")
        assert called == [kind, "later committed"]
        with pytest.raises(KeyError), site.db.transaction():  # noqa: PT012
            hook(site, called, "block ")
            raise KeyError

    @site.app.post("/")
    def view() -> Any:
        site.write("note")
        site.db.on_commit(again)
        site.db.on_rollback(again)
        return "", status

    assert site.client().post("/").status_code == status
    assert called == [kind, "later committed", "block rolled back"]


def test_each_database_has_its_own(make_site: MakeSite, called: list[str]) -> None:
    url = make_site().database.url
    site = make_site(DBPOOL_DATABASES={"default": url, "other": url})

    @site.app.post("/")
    def view() -> Any:
        site.write("kept")
        hook(site, called, "default ")
        hook(site, called, "other ", "other")
        site.db.get_connection("other").cursor().execute("INSERT INTO child VALUES (1)")
        return "ok"

    assert site.client().post("/").status_code == 500
    assert called == ["default committed", "other rolled back"]
    with site.app.app_context(), pytest.raises(LookupError, match="did you mean 'other'"):
        site.db.on_commit(lambda: None, "othr")


def test_its_error_is_logged_and_changes_nothing(
    site: Site, called: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    @site.app.post("/")
    def view() -> Any:
        site.write("kept")
        site.db.on_commit(lambda: 1 / 0)
        hook(site, called)
        return "ok"

    assert site.client().post("/").status_code == 200
    assert called == ["committed"]
    assert "a function given to on_commit failed" in caplog.text
    with site.app.app_context(), pytest.raises(TypeError, match="cannot be called"):
        site.db.on_commit("mail")  # type: ignore[arg-type]
