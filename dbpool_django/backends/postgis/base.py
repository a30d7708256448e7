"""The wrapper that Django loads for `"ENGINE": "dbpool_django.backends.postgis"`."""

from __future__ import annotations

from django.contrib.gis.db.backends.postgis import base, features

from dbpool_django._postgres import PooledPostgres
from dbpool_django.backends.postgresql.creation import DatabaseCreation
from dbpool_django.backends.postgresql.features import PooledFeatures
from dbpool_django.backends.postgresql.validation import DatabaseValidation

__all__ = ["DatabaseWrapper"]


class DatabaseFeatures(PooledFeatures, features.DatabaseFeatures):
    """Django's, without the tests of its own suite that assert the contrary of a pool."""


class DatabaseWrapper(PooledPostgres, base.DatabaseWrapper):
    """Django's PostGIS wrapper, with connections out of a pool."""

    creation_class = DatabaseCreation
    features_class = DatabaseFeatures
    validation_class = DatabaseValidation

    def prepare_database(self) -> None:
        """Have the extension, and connections that know its types."""
        super().prepare_database()
        if self.pool is not None:
            self.pool.drain()  # those opened before it was there do not
