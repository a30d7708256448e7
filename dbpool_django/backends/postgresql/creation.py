"""Test databases: one that is about to be copied or dropped must have no idle connection on it."""

from __future__ import annotations

from django.db.backends.postgresql import creation

from dbpool_django._creation import PooledCreation

__all__ = ["DatabaseCreation"]


class DatabaseCreation(PooledCreation, creation.DatabaseCreation):
    """Django's, after closing the pools that would be in its way."""
