"""Django on a dbpool connection pool: `"ENGINE": "dbpool_django.backends.postgresql"`."""

from __future__ import annotations

from ._release import released

__all__ = ["released"]
