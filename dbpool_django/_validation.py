"""What Django runs for `check --database` and before `migrate`, without INSTALLED_APPS."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.core.checks import CheckMessage
from django.db import connections
from django.db.backends.base.validation import BaseDatabaseValidation

from . import checks

__all__ = ["PooledValidation"]


class PooledValidation(BaseDatabaseValidation):
    """What a pooled backend puts before Django's own validation class."""

    def check(self, **kwargs: Any) -> list[CheckMessage]:
        """Check the alias's settings, the project's, and the server's answers."""
        found: list[CheckMessage] = super().check(**kwargs)
        wrapper = self.connection
        if not apps.is_installed("dbpool_django"):  # else they run anyway
            if wrapper.alias == next(iter(connections)):
                found += checks.check_project()
            found += checks.check_alias(wrapper.alias, wrapper.settings_dict)
        if not any(message.is_serious() for message in found):
            found += self._check_server()
        return found

    def _check_server(self) -> list[CheckMessage]:
        return []
