"""Checks of settings and server."""

from __future__ import annotations

from django.core.checks import CheckMessage

from dbpool_django import checks
from dbpool_django._validation import PooledValidation

__all__ = ["DatabaseValidation"]


class DatabaseValidation(PooledValidation):
    """Checks of the settings, and of what the server has to say."""

    def _check_server(self) -> list[CheckMessage]:
        return checks.check_server(self.connection)
