"""Tests of `dbpool_django`, each in a Django project of its own (see conftest.py)."""
