"""Django's SQLite backend on a pool."""

from __future__ import annotations
