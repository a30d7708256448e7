"""Django's PostGIS backend on a pool."""

from __future__ import annotations
