"""What ends a view's transaction where it is not the status: decorators, modes, a veto."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from flask import Request, Response, abort, redirect
from flask.views import MethodView, View
from werkzeug.routing import BaseConverter

from dbpool_flask import DBPool
from tests.web_flask.conftest import MakeSite, Site, pg


def in_autocommit(site: Site) -> bool:
    return bool(site.db.connection.autocommit)


def test_autocommit_changes_nothing_of_a_connection_that_is_in_it_already(
    make_site: MakeSite,
) -> None:
    def configure(conn: Any) -> None:
        conn.cursor().execute("SET default_transaction_isolation TO serializable")

    options = {"kwargs": {"autocommit": True}, "configure": configure}
    site = make_site(DBPOOL_OPTIONS=options)

    @site.app.get("/")
    @site.db.autocommit
    def view() -> Any:
        with site.db.transaction(), site.db.connection.cursor() as cursor:
            cursor.execute("SHOW transaction_isolation")
            return cursor.fetchone()[0]

    assert site.client().get("/").text == "serializable"


# -- @db.atomic


@pytest.mark.parametrize("is_async", [False, True])
def test_an_exception_that_leaves_an_atomic_view_rolls_back_whatever_its_handler_answers(
    site: Site, is_async: bool
) -> None:
    @site.app.errorhandler(KeyError)
    def handler(error: KeyError) -> Any:
        site.write("noted by the handler")
        return "all is well", 200

    def work() -> Any:
        site.write("undone")
        with pytest.raises(pg.Error):
            site.fail()
        raise KeyError

    if is_async:

        @site.app.post("/")
        @site.db.atomic
        async def async_view() -> Any:
            work()

    else:

        @site.app.post("/")
        @site.db.atomic
        def view() -> Any:
            work()

    assert site.client().post("/").status_code == 200
    assert site.database.notes() == ["noted by the handler"]


def test_an_atomic_view_that_fails_inside_a_block_it_never_leaves_is_rolled_back(
    site: Site,
) -> None:
    @site.app.errorhandler(KeyError)
    def handler(error: KeyError) -> Any:
        return "all is well", 200

    @site.app.post("/")
    @site.db.atomic
    def view() -> Any:
        site.db.transaction().__enter__()
        site.write("undone")
        raise KeyError

    assert site.client().post("/").status_code == 200
    assert site.database.notes() == []


def test_an_atomic_view_that_succeeds_is_committed_and_stays_lazy(site: Site) -> None:
    @site.app.post("/<int:use>")
    @site.db.atomic
    def view(use: int) -> Any:
        """Kept docstring."""
        if use:
            site.write("kept")
        return "ok"

    assert view.__doc__ == "Kept docstring."
    client = site.client()
    client.post("/0")
    assert site.pool.get_stats()["requests_num"] == 0
    client.post("/1")
    assert site.database.notes() == ["kept"]


def test_an_atomic_function_outside_requests_is_a_block(site: Site) -> None:
    @site.db.atomic
    def work(fail: bool) -> None:
        site.write(f"fail: {fail}")
        if fail:
            raise KeyError

    with site.app.app_context():
        with pytest.raises(KeyError):
            work(True)
        work(False)
    assert site.database.notes() == ["fail: False"]


@pytest.mark.parametrize("atomic", [False, True])
def test_an_atomic_function_that_a_view_calls_undoes_itself_alone(site: Site, atomic: bool) -> None:
    @site.db.atomic
    def work(text: str) -> None:
        site.write(text)
        if text == "undone":
            raise KeyError

    @site.app.before_request
    def before() -> None:
        work("before")
        with pytest.raises(KeyError):
            work("undone")

    def view() -> Any:
        site.write("view")
        with pytest.raises(KeyError):
            work("undone")
        work("called")
        return "ok"

    site.app.add_url_rule("/", view_func=site.db.atomic(view) if atomic else view)
    assert site.client().get("/").status_code == 200
    assert site.database.notes() == ["before", "view", "called"]


def test_an_atomic_view_undoes_what_was_done_before_it_too(site: Site) -> None:
    def other(view: Any) -> Any:
        @functools.wraps(view)
        def wrapper() -> Any:
            return view()

        return wrapper

    @site.app.before_request
    def before() -> None:
        site.write("undone")

    @site.app.errorhandler(KeyError)
    def handler(error: KeyError) -> Any:
        return "all is well", 200

    @site.app.post("/")
    @other
    @site.db.atomic
    @other
    def view() -> Any:
        site.write("undone")
        raise KeyError

    class Resource(MethodView):
        decorators = (site.db.atomic,)  # type: ignore[assignment]

        def post(self) -> Any:
            raise KeyError

    class Method(MethodView):
        @site.db.atomic
        def post(self) -> Any:
            raise KeyError

    class Dispatch(View):
        methods = ("POST",)

        @site.db.atomic
        def dispatch_request(self) -> Any:
            raise KeyError

    site.app.add_url_rule("/class", view_func=Resource.as_view("resource"))
    site.app.add_url_rule("/method", view_func=Method.as_view("method"))
    site.app.add_url_rule("/dispatch", view_func=Dispatch.as_view("dispatch"))
    for path in ("/", "/class", "/method", "/dispatch"):
        assert site.client().post(path).status_code == 200
    assert site.database.notes() == []


def test_an_atomic_get_that_answers_head_undoes_what_was_done_before_it_too(site: Site) -> None:
    @site.app.before_request
    def before() -> None:
        site.write("undone")

    class Resource(MethodView):
        @site.db.atomic
        def get(self) -> Any:
            abort(redirect("/elsewhere"))  # commits, but in an atomic view

    site.app.add_url_rule("/", view_func=Resource.as_view("resource"))
    for method in ("head", "get"):
        assert getattr(site.client(), method)("/").status_code in (302, 303)
        assert site.database.notes() == []


def test_an_atomic_view_commits_in_an_app_whose_default_is_another(make_site: MakeSite) -> None:
    site = make_site(DBPOOL_TRANSACTION="manual")

    @site.app.post("/atomic")
    @site.db.atomic
    def atomic() -> Any:
        site.write("kept")
        return "ok"

    @site.app.post("/other")
    def other() -> Any:
        site.write("undone")
        return "ok"

    site.client().post("/atomic")
    site.client().post("/other")
    assert site.database.notes() == ["kept"]


# -- manual, autocommit, read-only


def test_a_manual_view_commits_by_its_own_word_alone(site: Site) -> None:
    @site.app.post("/")
    @site.db.manual
    def view() -> Any:
        with site.db.transaction():
            site.write("block")
        assert site.database.notes() == ["block"]
        site.write("committed")
        site.db.commit()
        site.write("undone")
        return "ok"

    assert site.client().post("/").status_code == 200
    assert site.database.notes() == ["block", "committed"]
    assert site.lent() == 0


def test_a_manual_view_may_swallow_a_database_error(site: Site) -> None:
    @site.app.post("/")
    @site.db.manual
    def view() -> Any:
        with pytest.raises(pg.Error):
            site.fail()
        return "ok"

    assert site.client().post("/").status_code == 200


def test_in_an_autocommit_view_each_statement_counts_at_once(site: Site) -> None:
    @site.app.post("/")
    @site.db.autocommit
    def view() -> Any:
        assert in_autocommit(site)
        site.write("at once")
        with pytest.raises(pg.Error):
            site.fail()
        with pytest.raises(KeyError), site.db.transaction():  # noqa: PT012
            site.write("undone")
            raise KeyError
        with site.db.transaction():
            site.write("block")
        return "no", 409

    @site.app.post("/next")
    def after() -> Any:
        assert not in_autocommit(site)
        return "ok"

    assert site.client().post("/").status_code == 409
    assert site.database.notes() == ["at once", "block"]
    assert site.client().post("/next").status_code == 200


def test_a_read_only_view_cannot_write(site: Site) -> None:
    @site.app.get("/")
    @site.db.read_only
    def view() -> Any:
        with pytest.raises(pg.errors.ReadOnlySqlTransaction):
            site.write("lost")
        return "no", 403

    @site.app.get("/both")
    @site.db.read_only
    @site.db.autocommit
    def both() -> Any:
        with pytest.raises(pg.errors.ReadOnlySqlTransaction):
            site.write("lost")
        return "ok"

    @site.app.post("/next")
    def after() -> Any:
        site.write("kept")
        return "ok"

    assert site.client().get("/").status_code == 403
    assert site.client().get("/both").status_code == 200
    assert site.client().post("/next").status_code == 200
    assert site.database.notes() == ["kept"]


@pytest.mark.parametrize("word", ["manual", "autocommit", "request"])
def test_the_apps_default_is_configured(make_site: MakeSite, word: str) -> None:
    site = make_site(DBPOOL_TRANSACTION=word)

    @site.app.post("/<int:status>")
    def view(status: int) -> Any:
        site.write(f"{status}")
        return "", status

    site.client().post("/200")
    site.client().post("/409")
    expected = {"manual": [], "autocommit": ["200", "409"], "request": ["200"]}
    assert site.database.notes() == expected[word]


def test_marks_survive_other_decorators_and_reach_class_based_views(site: Site) -> None:
    def other(view: Any) -> Any:
        @functools.wraps(view)
        def wrapper(*args: Any) -> Any:
            return view(*args)

        return wrapper

    @site.app.post("/wrapped")
    @other
    @site.db.manual
    def wrapped() -> Any:
        site.write("undone")
        return "ok"

    class Resource(MethodView):
        decorators = (site.db.manual,)  # type: ignore[assignment]

        def post(self) -> Any:
            site.write("undone")
            return "ok"

    site.app.add_url_rule("/class", view_func=Resource.as_view("resource"))
    assert site.client().post("/wrapped").status_code == 200
    assert site.client().post("/class").status_code == 200
    assert site.database.notes() == []


def test_a_view_can_be_only_one_of_them() -> None:
    db = DBPool()

    def view() -> None: ...

    db.manual(db.manual(view))
    for other in (db.autocommit, db.atomic):
        with pytest.raises(ValueError, match="'view' is marked 'manual' already"):
            other(view)


def test_a_wrong_default_is_refused(make_site: MakeSite) -> None:
    with pytest.raises(ValueError, match="'request', 'manual', 'autocommit'"):
        make_site(DBPOOL_TRANSACTION="manuel")


# -- the veto


def test_a_veto_rolls_back_what_the_status_would_commit(make_site: MakeSite) -> None:
    asked = []

    def veto(request: Request, response: Response) -> bool:
        asked.append((request.path, response.status_code))
        return "X-Undo" in response.headers

    site = make_site(DBPool(commit_veto=veto))

    @site.app.post("/<int:undo>")
    def view(undo: int) -> Any:
        site.write(f"undo: {undo}")
        return "", 200, {"X-Undo": "1"} if undo else {}

    @site.app.post("/refused")
    def refused() -> Any:
        site.write("undone")
        abort(409)

    @site.app.get("/unused")
    def unused() -> Any:
        return "ok"

    client = site.client()
    client.post("/1")
    client.post("/0")
    client.post("/refused")
    client.get("/unused")
    assert site.database.notes() == ["undo: 0"]
    assert asked == [("/1", 200), ("/0", 200)]


def test_a_veto_that_fails_is_an_error_of_the_request(make_site: MakeSite) -> None:
    def veto(request: Request, response: Response) -> bool:
        raise KeyError

    site = make_site(DBPool(commit_veto=veto))

    @site.app.post("/")
    def view() -> Any:
        site.write("undone")
        return "ok"

    assert site.client().post("/").status_code == 500
    assert site.database.notes() == []
    assert site.lent() == 0


# -- what queries before the view is known: URL converters, and sessions


@pytest.fixture
def early(site: Site) -> Site:
    """A site with a URL converter that writes, and so takes the connection before its view."""

    class Noted(BaseConverter):
        def to_python(self, value: str) -> str:
            site.write(f"converted {value}")
            return value

    site.app.url_map.converters["noted"] = Noted
    return site


def test_a_read_only_view_cannot_write_on_a_connection_that_was_taken_before_it(
    early: Site,
) -> None:
    @early.app.get("/<noted:name>")
    @early.db.read_only
    def view(name: str) -> Any:
        with pytest.raises(pg.errors.ReadOnlySqlTransaction):
            early.write("by the view")
        early.db.rollback()
        with pytest.raises(pg.errors.ReadOnlySqlTransaction):
            early.write("by the view")
        early.db.rollback()
        return "ok"

    @early.app.get("/writes/<name>")
    def writes(name: str) -> Any:
        early.write("by the next request")
        return "ok"

    assert early.client().get("/a").status_code == 200
    assert early.database.notes() == ["converted a"]
    assert early.client().get("/writes/a").status_code == 200  # on the same connection
    assert early.database.notes() == ["converted a", "by the next request"]


def test_an_autocommit_view_commits_on_a_connection_that_was_taken_before_it(early: Site) -> None:
    seen: list[list[str]] = []

    @early.app.get("/<noted:name>")
    @early.db.autocommit
    def view(name: str) -> Any:
        early.write("by the view")
        seen.append(early.database.notes())
        return "ok"

    assert early.client().get("/a").status_code == 200
    assert seen == [["converted a", "by the view"]]


def test_other_views_keep_what_was_begun_before_them(early: Site) -> None:
    @early.app.get("/<noted:name>")
    def view(name: str) -> Any:
        abort(409)

    assert early.client().get("/a").status_code == 409
    assert early.database.notes() == []
