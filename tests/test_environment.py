"""What the other tests take for granted about the environment that they run in."""

from __future__ import annotations

import importlib.util


def test_psycopg_3_cannot_be_imported() -> None:
    # Django would use it instead of psycopg2 wherever both are there, and the tests of the one
    # would silently be tests of the other.
    assert importlib.util.find_spec("psycopg") is None
    assert importlib.util.find_spec("psycopg2") is not None
