"""@db.read_only and its kind hold whatever lies between route and function, or the call raises."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from flask import Blueprint, Response, abort, got_request_exception, redirect, stream_with_context
from flask.views import MethodView, View

from dbpool_flask import DBPool
from tests.web_flask.conftest import MakeSite, Site, pg

KINDS = ("read_only", "manual", "autocommit", "atomic")

# What gives a site a POST view at "/": gets the decorator and the function to decorate.
Way = Callable[[Site, Any, Callable[..., Any]], None]
WAYS: dict[str, Way] = {}


def way(register: Way) -> Way:
    WAYS[register.__name__] = register
    return register


def with_wraps(view: Any) -> Any:
    @functools.wraps(view)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return view(*args, **kwargs)

    return wrapper


def without_wraps(view: Any) -> Any:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return view(*args, **kwargs)

    return wrapper


class Proxy:
    """As wrapt's, which tracers put around views: all attributes are those of what it wraps."""

    def __init__(self, wrapped: Any) -> None:
        self.__dict__["__wrapped__"] = wrapped

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["__wrapped__"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__dict__["__wrapped__"], name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__dict__["__wrapped__"](*args, **kwargs)


def add(site: Site, view: Any, **options: Any) -> None:
    site.app.add_url_rule("/", "view", view, methods=["GET", "POST"], **options)


@way
def below_the_route(site: Site, decorate: Any, body: Any) -> None:
    @site.app.post("/")
    @decorate
    def view() -> Any:
        return body()


@way
def above_the_route(site: Site, decorate: Any, body: Any) -> None:
    @decorate
    @site.app.post("/")
    def view() -> Any:
        return body()


@way
def above_the_route_and_another_decorator(site: Site, decorate: Any, body: Any) -> None:
    @decorate
    @site.app.post("/")
    @with_wraps
    def view() -> Any:
        return body()


@way
def an_async_view(site: Site, decorate: Any, body: Any) -> None:
    pytest.importorskip("asgiref")

    @site.app.post("/")
    @decorate
    async def view() -> Any:
        return body()


@way
def other_decorators_on_both_sides(site: Site, decorate: Any, body: Any) -> None:
    add(site, with_wraps(decorate(with_wraps(body))))


@way
def a_method_of_a_method_view(site: Site, decorate: Any, body: Any) -> None:
    class Resource(MethodView):
        @decorate
        def post(self) -> Any:
            return body()

    add(site, Resource.as_view("resource"))


@way
def an_async_method_of_a_method_view(site: Site, decorate: Any, body: Any) -> None:
    pytest.importorskip("asgiref")

    class Resource(MethodView):
        @decorate
        async def post(self) -> Any:
            return body()

    add(site, Resource.as_view("resource"))


@way
def an_inherited_method_of_a_method_view(site: Site, decorate: Any, body: Any) -> None:
    class Base(MethodView):
        @decorate
        def post(self) -> Any:
            return body()

    class Resource(Base):
        init_every_request = False

    add(site, with_wraps(Resource.as_view("resource")))


@way
def dispatch_request_of_a_method_view(site: Site, decorate: Any, body: Any) -> None:
    class Resource(MethodView):
        dispatch_request = decorate(MethodView.dispatch_request)

        def post(self) -> Any:
            return body()

    add(site, Resource.as_view("resource"))


@way
def dispatch_request_of_a_view(site: Site, decorate: Any, body: Any) -> None:
    class Page(View):
        @decorate
        def dispatch_request(self) -> Any:
            return body()

    add(site, Page.as_view("page"))


@way
def decorators_of_a_class(site: Site, decorate: Any, body: Any) -> None:
    class Resource(MethodView):
        decorators = (with_wraps, decorate, with_wraps)  # type: ignore[assignment]

        def post(self) -> Any:
            return body()

    add(site, Resource.as_view("resource"))


@way
def a_class_of_views(site: Site, decorate: Any, body: Any) -> None:
    @decorate
    class Resource(MethodView):
        def post(self) -> Any:
            return body()

    add(site, Resource.as_view("resource"))


@way
def a_subclass_of_a_class_of_views(site: Site, decorate: Any, body: Any) -> None:
    @decorate
    class Base(MethodView):
        pass

    class Resource(Base):
        def post(self) -> Any:
            return body()

    add(site, Resource.as_view("resource"))


@way
def a_class_view_in_a_decorator_without_wraps(site: Site, decorate: Any, body: Any) -> None:
    class Resource(MethodView):
        decorators = (without_wraps,)  # type: ignore[assignment]

        @decorate
        def post(self) -> Any:
            return body()

    add(site, Resource.as_view("resource"))


@way
def a_partial_of_it(site: Site, decorate: Any, body: Any) -> None:
    def view(number: int) -> Any:
        return body()

    add(site, functools.partial(decorate(view), 1))


@way
def it_of_a_partial(site: Site, decorate: Any, body: Any) -> None:
    def view(number: int) -> Any:
        return body()

    add(site, decorate(functools.partial(view, 1)))


@way
def partials_of_a_partial_in_a_decorator(site: Site, decorate: Any, body: Any) -> None:
    def view(one: int, two: int) -> Any:
        return body()

    inner = functools.partial(functools.partial(decorate(view), 1), 2)
    add(site, with_wraps(inner))


@way
def a_proxy_of_it(site: Site, decorate: Any, body: Any) -> None:
    add(site, Proxy(decorate(body)))


@way
def it_of_a_proxy(site: Site, decorate: Any, body: Any) -> None:
    add(site, decorate(Proxy(body)))


@way
def a_proxy_of_a_class_view(site: Site, decorate: Any, body: Any) -> None:
    class Resource(MethodView):
        @decorate
        def post(self) -> Any:
            return body()

    add(site, Proxy(Resource.as_view("resource")))


@way
def the_call_of_an_object(site: Site, decorate: Any, body: Any) -> None:
    class Page:
        @decorate
        def __call__(self) -> Any:
            return body()

    add(site, Page())


@way
def an_object_that_is_called(site: Site, decorate: Any, body: Any) -> None:
    class Page:
        def __call__(self) -> Any:
            return body()

    add(site, decorate(Page()))


@way
def a_bound_method_of_it(site: Site, decorate: Any, body: Any) -> None:
    class Pages:
        @decorate
        def page(self) -> Any:
            return body()

    add(site, Pages().page)


@way
def it_of_a_bound_method(site: Site, decorate: Any, body: Any) -> None:
    class Pages:
        def page(self) -> Any:
            return body()

    add(site, decorate(Pages().page))


@way
def a_blueprint_that_is_registered_twice(site: Site, decorate: Any, body: Any) -> None:
    pages = Blueprint("pages", "pages")
    pages.add_url_rule("/", "view", decorate(body), methods=["POST"])
    site.app.register_blueprint(pages, url_prefix="/elsewhere")
    site.app.register_blueprint(pages, url_prefix="", name="again")


@way
def a_view_function_that_is_replaced_after_the_first_request(
    site: Site, decorate: Any, body: Any
) -> None:
    add(site, lambda: "plain")
    assert site.client().post("/").text == "plain"
    site.app.view_functions["view"] = decorate(body)


@way
def a_resource_of_flask_restful(site: Site, decorate: Any, body: Any) -> None:
    class Resource(rest()):  # type: ignore[misc]
        @decorate
        def post(self) -> Any:
            return body()

    importlib.import_module("flask_restful").Api(site.app).add_resource(Resource, "/")


@way
def a_resource_of_flask_restx(site: Site, decorate: Any, body: Any) -> None:
    restx = pytest.importorskip("flask_restx")

    class Resource(restx.Resource):  # type: ignore[misc, name-defined]
        @decorate
        def post(self) -> Any:
            return body()

    restx.Api(site.app, doc=False).add_resource(Resource, "/")


@way
def decorators_of_an_api_of_flask_restful(site: Site, decorate: Any, body: Any) -> None:
    class Resource(rest()):  # type: ignore[misc]
        def post(self) -> Any:
            return body()

    api = importlib.import_module("flask_restful").Api(site.app, decorators=[decorate])
    api.add_resource(Resource, "/")


def rest() -> Any:
    return pytest.importorskip("flask_restful").Resource


# Where nothing tells from outside what is inside.
HIDDEN: dict[str, Way] = {}


def hidden(register: Way) -> Way:
    HIDDEN[register.__name__] = register
    return register


@hidden
def a_decorator_without_wraps(site: Site, decorate: Any, body: Any) -> None:
    add(site, without_wraps(decorate(body)))


@hidden
def another_view_that_calls_it(site: Site, decorate: Any, body: Any) -> None:
    called = decorate(body)

    @site.app.post("/")
    def view() -> Any:
        return called()


@hidden
def method_decorators_of_flask_restful(site: Site, decorate: Any, body: Any) -> None:
    class Resource(rest()):  # type: ignore[misc]
        method_decorators = [decorate]  # noqa: RUF012

        def post(self) -> Any:
            return body()

    importlib.import_module("flask_restful").Api(site.app).add_resource(Resource, "/")


def decorated(site: Site, kind: str, register: Way) -> list[BaseException]:
    """Register a view that writes, marked so; return where the errors of its requests go."""
    errors: list[BaseException] = []

    def body() -> Any:
        site.write("written")
        return "ok", 409 if kind == "autocommit" else 200

    # Kept with the site: signals hold their receivers weakly.
    site.app.extensions["errors"] = lambda sender, exception, **_: errors.append(exception)
    got_request_exception.connect(site.app.extensions["errors"], site.app)
    register(site, getattr(site.db, kind), body)
    return errors


def make(make_site: MakeSite, kind: str) -> Site:
    # What @db.atomic says is the default elsewhere.
    return make_site(DBPOOL_TRANSACTION="manual" if kind == "atomic" else "request")


def assert_holds(site: Site, kind: str, errors: list[BaseException]) -> None:
    status = site.client().post("/").status_code
    if kind == "read_only":
        (error,) = errors
        assert isinstance(error, pg.errors.ReadOnlySqlTransaction)
        assert status == 500
    else:
        assert errors == []
        assert status == (409 if kind == "autocommit" else 200)
    kept = kind in ("autocommit", "atomic")
    assert site.database.notes() == (["written"] if kept else [])
    assert site.lent() == 0


@pytest.mark.parametrize("kind", ["read_only", "atomic"])
@pytest.mark.parametrize("name", WAYS)
def test_a_mark_holds(make_site: MakeSite, name: str, kind: str) -> None:
    site = make(make_site, kind)
    errors = decorated(site, kind, WAYS[name])
    assert_holds(site, kind, errors)


@pytest.mark.parametrize("kind", ["manual", "autocommit"])
@pytest.mark.parametrize(
    "name", ["above_the_route", "a_method_of_a_method_view", "a_partial_of_it", "a_proxy_of_it"]
)
def test_the_other_marks_hold_by_the_same_look(make_site: MakeSite, name: str, kind: str) -> None:
    site = make(make_site, kind)
    errors = decorated(site, kind, WAYS[name])
    assert_holds(site, kind, errors)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", HIDDEN)
def test_a_mark_that_cannot_be_seen_from_the_route_refuses_the_call(
    make_site: MakeSite, name: str, kind: str
) -> None:
    site = make(make_site, kind)
    errors = decorated(site, kind, HIDDEN[name])
    if kind == "atomic":  # a block, as around any function that is not the view
        assert_holds(site, kind, errors)
        return
    assert site.client().post("/").status_code == 500
    (error,) = errors
    assert isinstance(error, RuntimeError)
    assert str(error).startswith(f"@db.{kind} on '")
    assert "functools.wraps" in str(error)
    assert site.database.notes() == []
    assert site.pool.get_stats()["requests_num"] == 0, "refused before anything is done"


@pytest.mark.parametrize("kind", KINDS)
def test_other_views_are_as_ever(make_site: MakeSite, kind: str) -> None:
    """A mark on what one class or route does is none of another's."""
    site = make_site()

    class Resource(MethodView):
        def get(self) -> Any:
            site.write("get")
            abort(409)

        def post(self) -> Any:
            site.write("post")
            return "ok"

        @getattr(site.db, kind)  # type: ignore[untyped-decorator]
        def put(self) -> Any:
            return "ok"

    class Marked(MethodView):
        dispatch_request = getattr(site.db, kind)(MethodView.dispatch_request)

        def get(self) -> Any:
            return "ok"

    getattr(site.db, kind)(type("Decorated", (MethodView,), {"get": lambda self: "ok"}))
    site.app.add_url_rule("/", view_func=Resource.as_view("resource"))
    site.app.add_url_rule("/marked", view_func=Marked.as_view("marked"))
    client = site.client()
    assert client.get("/marked").status_code == 200
    assert client.put("/").status_code == 200
    assert client.get("/").status_code == 409
    assert client.post("/").status_code == 200
    assert site.database.notes() == ["post"]


def test_head_is_answered_in_the_mode_of_get_unless_there_is_a_method_for_it(site: Site) -> None:
    class Get(MethodView):
        @site.db.autocommit
        def get(self) -> Any:
            site.write("get")
            return "", 409

    class Head(Get):
        @site.db.manual
        def head(self) -> Any:
            site.write("head")
            return ""

    site.app.add_url_rule("/get", view_func=Get.as_view("get"))
    site.app.add_url_rule("/head", view_func=Head.as_view("head"))
    assert site.client().head("/get").status_code == 409
    assert site.client().head("/head").status_code == 200
    assert site.client().get("/head").status_code == 409
    assert site.database.notes() == ["get", "get"]


def test_a_mark_on_a_method_that_contradicts_its_classs_is_refused(make_site: MakeSite) -> None:
    site = make_site(PROPAGATE_EXCEPTIONS=True)

    class Resource(MethodView):
        decorators = (site.db.manual,)  # type: ignore[assignment]

        @site.db.autocommit
        def post(self) -> Any:
            site.write("never")
            return "ok"

        @site.db.manual
        def put(self) -> Any:
            site.db.connection.cursor().execute("SELECT 1")
            return "ok"

    site.app.add_url_rule("/", view_func=Resource.as_view("resource"))
    assert site.client().put("/").status_code == 200
    with pytest.raises(RuntimeError, match=r"@db\.autocommit on 'Resource\.post'"):
        site.client().post("/")
    assert site.database.notes() == []


def test_marks_add_up_wherever_they_stand(site: Site) -> None:
    class Resource(MethodView):
        decorators = (site.db.read_only,)  # type: ignore[assignment]

        @site.db.autocommit
        def get(self) -> Any:
            assert site.db.connection.autocommit
            with pytest.raises(pg.errors.ReadOnlySqlTransaction):
                site.write("lost")
            return "ok"

    site.app.add_url_rule("/", view_func=Resource.as_view("resource"))

    @site.db.read_only
    @site.db.autocommit
    @site.app.get("/above")
    def above() -> Any:
        return Resource().get()

    assert site.client().get("/").status_code == 200
    assert site.client().get("/above").status_code == 200


def test_a_database_of_a_method_is_that_of_its_stream_too(
    make_site: MakeSite, database: Any
) -> None:
    url = database.url
    site = make_site(DBPOOL_DATABASES={"default": url, "logs": url})

    class Resource(MethodView):
        @site.db.using("logs")
        def get(self) -> Any:
            def rows() -> Any:
                with site.db.connection.cursor() as cursor:
                    cursor.execute("SELECT 'row'")
                    yield cursor.fetchone()[0]

            return Response(stream_with_context(rows()))

    site.app.add_url_rule("/", view_func=Resource.as_view("resource"))
    assert site.client().get("/").text == "row"
    assert site.pools["logs"].get_stats()["requests_num"] == 1
    assert site.pools["default"].get_stats()["requests_num"] == 0


# -- where there is no view


def test_outside_requests_manual_holds_by_nature_and_the_others_are_refused(site: Site) -> None:
    @site.db.manual
    def manual() -> None:
        with site.db.transaction():
            site.write("kept")

    with site.app.app_context():
        manual()
        for kind in ("autocommit", "read_only"):
            with pytest.raises(RuntimeError, match=f"@db.{kind} on 'site.write' cannot hold"):
                getattr(site.db, kind)(_named("site.write"))()
    assert site.database.notes() == ["kept"]


def _named(name: str) -> Any:
    def function() -> None:
        raise AssertionError("called")

    function.__qualname__ = name
    return function


def test_a_function_that_enters_a_context_itself_is_refused_or_manual(site: Site) -> None:
    def job() -> None:
        with site.app.app_context(), site.db.transaction():
            site.write("kept")

    site.db.manual(job)()
    for kind in ("autocommit", "read_only"):
        with pytest.raises(RuntimeError, match="no request and no app context"):
            getattr(site.db, kind)(_named("job"))()
    assert site.database.notes() == ["kept"]


@pytest.mark.parametrize("word", ["manual", "autocommit"])
def test_in_an_app_whose_default_it_is_a_mark_holds_anywhere(
    make_site: MakeSite, word: str
) -> None:
    site = make_site(DBPOOL_TRANSACTION=word)
    hidden = without_wraps(getattr(site.db, word)(lambda: site.write("written") or "ok"))
    add(site, hidden)
    assert site.client().post("/").status_code == 200
    assert site.database.notes() == (["written"] if word == "autocommit" else [])
    with site.app.app_context():
        assert hidden() == "ok"


@pytest.mark.parametrize("word", ["manual", "autocommit"])
def test_each_of_the_two_is_refused_in_an_app_whose_default_is_the_other(
    make_site: MakeSite, word: str
) -> None:
    site = make_site(DBPOOL_TRANSACTION=word)
    other = "autocommit" if word == "manual" else "manual"
    add(site, without_wraps(getattr(site.db, other)(lambda: "never")))
    assert site.client().post("/").status_code == 500


def test_a_stream_of_a_read_only_view_cannot_write_in_a_block_either(site: Site) -> None:
    @site.app.get("/")
    @site.db.read_only
    def view() -> Any:
        def rows() -> Any:
            with pytest.raises(pg.errors.ReadOnlySqlTransaction), site.db.transaction():
                site.write("never")
            yield "row"

        return Response(stream_with_context(rows()))

    assert site.client().get("/").text == "row"
    assert site.database.notes() == []


# -- what is decorated


def test_a_function_that_is_decorated_twice_has_the_one_mark_of_each_route(site: Site) -> None:
    def view() -> Any:
        site.write("written")
        return "", 409

    for name, decorate in (("reads", site.db.read_only), ("each", site.db.autocommit)):
        site.app.add_url_rule(f"/{name}", name, decorate(view), methods=["POST"])
    assert site.client().post("/reads").status_code == 500
    assert site.client().post("/each").status_code == 409
    assert site.database.notes() == ["written"]


def test_a_method_that_a_class_of_views_does_not_call_says_nothing(site: Site) -> None:
    class Page(View):
        @site.db.read_only
        def post(self) -> Any:
            raise AssertionError("called")

        def dispatch_request(self) -> Any:
            site.write("written")
            return "ok"

    add(site, Page.as_view("page"))
    assert site.client().post("/").status_code == 200
    assert site.database.notes() == ["written"]


def test_a_view_that_has_no_hash_has_its_mark(site: Site) -> None:
    class Page:
        __hash__ = None  # type: ignore[assignment]

        @site.db.autocommit
        def __call__(self) -> Any:
            site.write("written")
            return "", 409

    add(site, Page())
    for _ in range(2):
        assert site.client().post("/").status_code == 409
    assert site.database.notes() == ["written"] * 2


def test_a_view_that_a_mock_stands_for_is_plain(site: Site) -> None:
    add(site, lambda: "plain")
    site.app.view_functions["view"] = mock.Mock(side_effect=lambda: site.write("kept") or "ok")
    assert site.client().post("/").text == "ok"
    assert site.database.notes() == ["kept"]


def test_a_method_of_a_base_class_is_marked_for_the_class_that_decorates_it_alone(
    site: Site,
) -> None:
    class Base(MethodView):
        def post(self) -> Any:
            site.write(type(self).__name__)
            return "", 409

    class Manual(Base):
        post = site.db.manual(Base.post)

    class Each(Base):
        post = site.db.autocommit(Base.post)

    for of_class in (Base, Manual, Each):
        site.app.add_url_rule(
            f"/{of_class.__name__}", view_func=of_class.as_view(of_class.__name__), methods=["POST"]
        )
    for name in ("Base", "Manual", "Each"):
        assert site.client().post(f"/{name}").status_code == 409
    assert site.database.notes() == ["Each"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_marked_is_refused_when_it_is_decorated(kind: str) -> None:
    decorate = getattr(DBPool(), kind)
    for thing in (type("Plain", (), {}), 5, "a view"):
        with pytest.raises(TypeError, match="decorate a function"):
            decorate(thing)


@pytest.mark.parametrize("kind", KINDS)
def test_a_marked_function_keeps_its_name_and_its_documentation(kind: str) -> None:
    @getattr(DBPool(), kind)  # type: ignore[untyped-decorator]
    def view(number: int) -> int:
        """Say what it is for."""
        return number + 1

    assert (view.__name__, view.__doc__) == ("view", "Say what it is for.")


@pytest.mark.parametrize("above", [True, False])
def test_an_atomic_view_undoes_a_raised_redirect_wherever_the_mark_stands(
    site: Site, above: bool
) -> None:
    def view() -> Any:
        site.write("undone")
        abort(redirect("/elsewhere"))

    if above:
        site.db.atomic(site.app.post("/")(view))
    else:
        site.app.post("/")(site.db.atomic(view))
    assert site.client().post("/").status_code == 302
    assert site.database.notes() == []


@pytest.mark.parametrize("above", [True, False])
def test_a_redirect_that_is_raised_before_an_atomic_view_is_no_failure(
    site: Site, above: bool
) -> None:
    @site.app.before_request
    def log_in() -> None:
        site.write("a visit")
        abort(redirect("/login"))

    if above:
        site.db.atomic(site.app.post("/")(lambda: "never"))
    else:
        site.app.post("/")(site.db.atomic(lambda: "never"))
    assert site.client().post("/").status_code == 302
    assert site.database.notes() == ["a visit"]
