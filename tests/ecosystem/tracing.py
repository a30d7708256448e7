"""Checks for tracers, which put objects of their own in the place of connections and cursors."""

from __future__ import annotations

from dbpool import ConnectionPool
from tests.ecosystem import django_site
from tests.ecosystem.flask_site import create_app
from tests.ecosystem.promises import DRIVER, Ask, Database, by_test_client

__all__ = [
    "a_plain_pool_commits_and_cleans",
    "django_client",
    "flask_client",
    "flask_client_of",
]


def a_plain_pool_commits_and_cleans(field: Database, *, proxied: bool = False) -> None:
    """Check the pool alone: a commit, a rollback, a cleaning, and one connection for all of it.

    Arguments: `proxied`, whether the tracer hands out proxies: else it is not at work.
    """
    with ConnectionPool(field.url, max_size=1, reset="discard") as pool:
        with pool.connection() as conn:
            assert hasattr(conn, "__wrapped__") is proxied
            conn.cursor().execute("INSERT INTO field_row VALUES (3)")
        try:
            with pool.connection() as conn:
                conn.cursor().execute("INSERT INTO field_row VALUES (4)")
                raise LookupError
        except LookupError:
            pass
        with pool.connection() as conn:
            conn.cursor().execute("SET search_path = pg_catalog")
        with pool.connection() as conn:
            cursor = conn.cursor()
            cursor.execute("SELECT current_setting('search_path')")
            assert cursor.fetchone()[0] == '"$user", public'
        stats = pool.get_stats()
        assert (stats["connections_num"], stats["returns_bad"]) == (1, 0)
    assert (field.rows(3), field.rows(4)) == (1, 0)


def flask_client(field: Database) -> Ask:
    """Return a client of the Flask site, in this process."""
    return flask_client_of(field.url)


def flask_client_of(url: str, **options: object) -> Ask:
    """Return a client of the Flask site on a database of that URL or libpq string."""
    return by_test_client(create_app(url, driver=DRIVER, **options).test_client())


def django_client(field: Database, **settings: object) -> Ask:
    """Set Django up in this process, once, and return a client of the site."""
    django_site.configure(field.address("django"), **settings)
    from django.core.wsgi import get_wsgi_application
    from werkzeug.test import Client  # Django's own does without the signals of a request's end

    return by_test_client(Client(get_wsgi_application()))
