"""The same site on Django: `promises.py` asks it. FIELD_URL says on what, as a libpq string.

FIELD_ENGINE, FIELD_APPS, FIELD_MIDDLEWARE change the settings for a server of a test.
"""

from __future__ import annotations

import os
from typing import Any

from dbpool.drivers import wait_with_gevent
from tests.ecosystem.flask_site import STATE
from tests.web_django.project import DRIVER, database

__all__ = ["check_names_it_only_where_it_is_missing", "configure", "settings_for"]


def settings_for(dsn: str, **changes: Any) -> dict[str, Any]:
    """Return settings; `changes` replace, and `ENGINE`, `POOL` change the database's entry."""
    pool = changes.pop("POOL", {"max_size": 2, "timeout": 20.0})
    entry = database(dsn, pool, **changes.pop("DATABASE", {}))
    return {
        "DATABASES": {"default": entry},
        "INSTALLED_APPS": [],
        "MIDDLEWARE": [
            "dbpool_django.middleware.HealthMiddleware",
            "dbpool_django.middleware.UnavailableMiddleware",
        ],
        "ROOT_URLCONF": "tests.ecosystem.django_urls",
        "ALLOWED_HOSTS": ["*"],
        "SECRET_KEY": "only for tests",
        "DEFAULT_AUTO_FIELD": "django.db.models.BigAutoField",
        "USE_TZ": True,
        "LOGGING_CONFIG": None,
        "DEBUG_PROPAGATE_EXCEPTIONS": False,
        **changes,
    }


def configure(dsn: str, **changes: Any) -> None:
    """Set Django up in this process, once."""
    import django
    from django.conf import settings

    if os.environ.get("FIELD_GREEN") and DRIVER == "psycopg2":
        wait_with_gevent()
    settings.configure(**settings_for(dsn, **changes))
    django.setup()


def check_names_it_only_where_it_is_missing(setting: str) -> None:
    """Run the checks of an alias with the ENGINE that the setting names, and with another."""
    from django.db import connections

    from dbpool_django.checks import check_alias

    def names(engine: str) -> bool:
        database = {**connections.settings["default"], "ENGINE": engine}
        return any(setting in str(message.hint) for message in check_alias("default", database))

    assert not names("dbpool_django.backends.postgresql")
    assert names("dbpool_django.backends.postgis")


if os.environ.get("FIELD_APP") == "django":
    configure(
        os.environ["FIELD_URL"],
        DATABASE={"ENGINE": os.environ.get("FIELD_ENGINE", "dbpool_django.backends.postgresql")},
    )
    if os.environ.get("FIELD_ASGI"):
        from django.core.asgi import get_asgi_application

        app: Any = get_asgi_application()
    else:
        from django.core.wsgi import get_wsgi_application

        app = get_wsgi_application()
    if os.environ.get("FIELD_USED"):  # a query at import: in the master, where it preloads
        from django.db import connection

        with connection.cursor() as cursor:
            cursor.execute(STATE)
