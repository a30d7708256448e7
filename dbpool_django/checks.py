"""System checks: `manage.py check`, and with the server's answers `check --database default`.

Each has an id, a hint, and a section of that name in docs/django.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from dbpool import options
from dbpool.adapters import shown

from . import _engine_names, _environment, _inspection, _leftovers, _settings

__all__ = ["check_alias", "check_deployment", "check_project", "check_server"]

HEALTH = "dbpool_django.middleware.HealthMiddleware"
UNAVAILABLE = "dbpool_django.middleware.UnavailableMiddleware"
PGBOUNCER_PORT = "6432"


def _message(number: str, text: str, hint: str, about: str) -> CheckMessage:
    kind = {"E": checks.Error, "W": checks.Warning, "I": checks.Info}[number[0]]
    hint = f"{hint} (docs/django.md, {number})"
    return kind(text, hint=hint, obj=about, id=f"dbpool_django.{number}")


def check_alias(alias: str, database: Mapping[str, Any]) -> list[CheckMessage]:
    """Check what one entry of DATABASES says, without asking its server."""
    about = f"DATABASES[{alias!r}]"
    left = _leftovers.of_alias(alias, database)
    found = [_message("W006", text, hint, about) for text, hint in left]
    unknown = _engine_names.unknown_to(alias, database["ENGINE"])
    found += [_message("W010", text, hint, about) for text, hint in unknown]
    if not _settings.wants_pool(database):
        return found
    try:
        given = _settings.pool_options(database, alias)
    except ImproperlyConfigured as error:
        hint = "The options are those of dbpool.ConnectionPool."
        number = "E002" if _contradict(database["OPTIONS"].get("pool")) else "E001"
        return [*found, _message(number, str(error), hint, about)]
    _, max_size = options.sizes(given.get("min_size", 0), given.get("max_size"))
    found += _about_age(about, database, given)
    found += _about_threads(about, max_size)
    found += _about_port(about, database)
    found += _about_ignored(about, database)
    return found


def _contradict(given: Any) -> bool:
    """Return whether both sizes are possible, but not together."""
    if not isinstance(given, Mapping):
        return False
    sizes = [given.get("min_size"), given.get("max_size")]
    known = options.OPTIONS
    return (
        known["min_size"].check(sizes[0])
        and sizes[1] is not None
        and known["max_size"].check(sizes[1])
        and sizes[1] < sizes[0]
    )


def _about_age(
    about: str, database: Mapping[str, Any], given: Mapping[str, Any]
) -> Iterator[CheckMessage]:
    age = database["CONN_MAX_AGE"]
    if age == 0:
        return
    if age is None or given["max_lifetime"] != age:
        text = (
            f"CONN_MAX_AGE={shown(age)} has no effect: the pool decides how long connections live."
        )
    else:
        text = f"CONN_MAX_AGE={shown(age)} is how long a pooled connection lives, in any thread."
    hint = 'Remove it; OPTIONS["pool"]["max_lifetime"] says the same.'
    yield _message("W001", text, hint, about)


def _about_threads(about: str, max_size: int) -> Iterator[CheckMessage]:
    threads = _environment.threads()
    if threads is not None and threads > max_size:
        text = f"{threads} threads of a process share max_size={max_size} connections."
        hint = "That is well if requests query for part of their time; else raise max_size."
        yield _message("W003", text, hint, about)


def _about_port(about: str, database: Mapping[str, Any]) -> Iterator[CheckMessage]:
    if str(database["PORT"]) == PGBOUNCER_PORT and not database.get("DISABLE_SERVER_SIDE_CURSORS"):
        yield _pooler(about, f"Port {PGBOUNCER_PORT} is PgBouncer's.")


def _pooler(about: str, why: str) -> CheckMessage:
    text = f"{why} In transaction mode, server-side cursors fail."
    hint = "Set DISABLE_SERVER_SIDE_CURSORS to True, unless it runs in session mode."
    return _message("W004", text, hint, about)


def _about_ignored(about: str, database: Mapping[str, Any]) -> Iterator[CheckMessage]:
    given = database["OPTIONS"].get("pool")
    ignored = sorted(_settings.IGNORED & set(given)) if isinstance(given, dict) else []
    if ignored:
        text = f"{', '.join(ignored)} of psycopg_pool: no effect here."
        hint = "Remove it: connects have threads of their own, and a pool opens when first used."
        yield _message("W005", text, hint, about)


def check_project() -> list[CheckMessage]:
    """Check what concerns the project as a whole, without asking any server."""
    left = _leftovers.of_project()
    found = [_message("W006", text, hint, "settings") for text, hint in left]
    found += _same_database_twice()
    middleware = list(settings.MIDDLEWARE)
    if HEALTH in middleware[1:]:
        text = f"{HEALTH} is number {middleware.index(HEALTH) + 1} in MIDDLEWARE."
        hint = "Put it first: what stands before it can answer a load balancer in its place."
        found.append(_message("W008", text, hint, "MIDDLEWARE"))
    place = middleware.index(UNAVAILABLE) if UNAVAILABLE in middleware else 0
    above = [name for name in middleware[:place] if not name.startswith("dbpool_django.")]
    if above:
        text = f"{UNAVAILABLE} stands below {above[0]}."
        hint = "Put it above: what gets no connection there is answered with 500."
        found.append(_message("W009", text, hint, "MIDDLEWARE"))
    return found


def check_deployment() -> list[CheckMessage]:
    """Check what matters where a site is served: `manage.py check --deploy`."""
    if UNAVAILABLE in settings.MIDDLEWARE:
        return []
    text = "A request that gets no connection is answered with 500: the pool is busy, or down."
    hint = f"Put {UNAVAILABLE} into MIDDLEWARE, after HealthMiddleware: 503 and Retry-After."
    return [_message("I002", text, hint, "MIDDLEWARE")]


def _same_database_twice() -> Iterator[CheckMessage]:
    seen: dict[tuple[str, ...], tuple[str, Any]] = {}
    for alias in connections:
        wrapper: Any = connections.create_connection(alias)
        if not hasattr(type(wrapper), "_dbpool_stamp"):
            continue
        database = wrapper.settings_dict
        if not _settings.wants_pool(database) or database["TEST"].get("MIRROR"):
            continue
        place = tuple(str(database[name]) for name in ("ENGINE", "HOST", "PORT", "NAME"))
        stamp = wrapper._dbpool_stamp()
        other, its_stamp = seen.setdefault(place, (alias, stamp))
        if its_stamp != stamp:
            text = f"{other!r} and {alias!r} are one database with two pools."
            hint = "Give both the same settings, so that they share one, or allow for both sizes."
            yield _message("W007", text, hint, f"DATABASES[{alias!r}]")


def check_server(wrapper: Any) -> list[CheckMessage]:
    """Check a PostgreSQL alias against its server, which is asked once."""
    about = f"DATABASES[{wrapper.alias!r}]"
    database = wrapper.settings_dict
    if wrapper.pool is None:
        return []
    facts = _inspection.server_facts(wrapper)
    processes, most = _inspection.sessions_at_most(wrapper)
    found = []
    if most > facts.room:
        text = (
            f"{processes} processes x max_size={wrapper.pool.max_size} can open {most} sessions; "
            f"the server has room for {max(facts.room, 0)} (max_connections "
            f"{facts.max_connections}, {facts.reserved} reserved, {facts.others} others open)."
        )
        hint = "Lower max_size or the number of processes, or raise max_connections."
        found.append(_message("W002", text, hint, about))
    disabled = database.get("DISABLE_SERVER_SIDE_CURSORS")
    if facts.pooler and not disabled and str(database["PORT"]) != PGBOUNCER_PORT:
        found.append(_pooler(about, "A connection pooler stands before the server."))
    if facts.time_zone != wrapper.timezone_name:
        text = (
            f"The server's time zone is {facts.time_zone}, the connections' "
            f"{wrapper.timezone_name}: one more round trip for each new connection."
        )
        zone = f"ALTER ROLE {database['USER'] or 'app'} SET timezone = '{wrapper.timezone_name}'"
        found.append(_message("I001", text, f"{zone} spares it.", about))
    return found
