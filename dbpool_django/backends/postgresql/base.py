"""The wrapper that Django loads for `"ENGINE": "dbpool_django.backends.postgresql"`."""

from __future__ import annotations

from django.db.backends.postgresql import base

from dbpool_django._postgres import PooledPostgres

from .creation import DatabaseCreation
from .features import DatabaseFeatures
from .validation import DatabaseValidation

__all__ = ["DatabaseWrapper"]


class DatabaseWrapper(PooledPostgres, base.DatabaseWrapper):
    """Django's PostgreSQL wrapper, with connections out of a pool."""

    creation_class = DatabaseCreation
    features_class = DatabaseFeatures
    validation_class = DatabaseValidation
