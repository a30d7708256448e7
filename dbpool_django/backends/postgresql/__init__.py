"""Django's PostgreSQL backend on a pool."""

from __future__ import annotations
