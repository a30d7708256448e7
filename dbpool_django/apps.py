"""The app, for those who want its checks without a database, and its command."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, register
from django.db import connections

__all__ = ["DbpoolConfig"]


class DbpoolConfig(AppConfig):
    """Nothing needs it: the ENGINE line alone gives a project its pool."""

    name = "dbpool_django"
    verbose_name = "Connection pool"

    def ready(self) -> None:
        """Have the settings checked by `manage.py check` and whatever runs it."""
        register(_check_settings)
        register(_check_deployment, deploy=True)


def _check_settings(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    from .checks import check_alias, check_project

    found = check_project()
    for alias in connections:
        wrapper = connections.create_connection(alias)
        if hasattr(type(wrapper), "_dbpool_stamp"):
            found += check_alias(alias, wrapper.settings_dict)
    return found


def _check_deployment(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    from .checks import check_deployment

    return check_deployment()
