"""The wrapper that Django loads for `"ENGINE": "dbpool_django.backends.sqlite3"`."""

from __future__ import annotations

from django.db.backends.sqlite3 import base, creation

from dbpool_django._creation import PooledCreation
from dbpool_django._sqlite import PooledSqlite
from dbpool_django._validation import PooledValidation

from .features import DatabaseFeatures

__all__ = ["DatabaseWrapper"]


class DatabaseCreation(PooledCreation, creation.DatabaseCreation):
    """Django's, after closing the pools that would be in its way."""


class DatabaseWrapper(PooledSqlite, base.DatabaseWrapper):
    """Django's SQLite wrapper, with connections out of a pool where the database is a file."""

    creation_class = DatabaseCreation
    features_class = DatabaseFeatures
    validation_class = PooledValidation
