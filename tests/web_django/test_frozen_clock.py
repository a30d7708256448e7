"""Tests of a project's own that freeze the clock: its pools serve, meanwhile and after it."""

from __future__ import annotations

from pathlib import Path

from tests.web_django.test_commands import PYTEST_INI, Run, run

__all__ = ["run"]  # a fixture of these tests, too

# One of each way in which people write them.
FROZEN_TESTS = """
from concurrent.futures import ThreadPoolExecutor

import freezegun
import pytest
import time_machine
from django.db import connection
from django.test import TestCase, TransactionTestCase
from django.utils import timezone

from tests.web_django.shelf.models import Book

WAYS = [
    lambda: freezegun.freeze_time("2020-01-01"),
    lambda: freezegun.freeze_time("2100-01-01", tick=True),
    lambda: time_machine.travel("2020-01-01 00:00+0000", tick=False),
    lambda: time_machine.travel("2100-01-01 00:00+0000"),
]

def session():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]

def in_a_thread():
    def work():
        try:
            return session()
        finally:
            connection.close()
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(work).result()

class Served:
    def test_served(self):
        for way in WAYS:
            with way():
                Book.objects.create(title=f"frozen {way!r} {timezone.now()}")
                count = Book.objects.count()
                connections = connection.pool.get_stats()["connections_num"]
                in_a_thread(), in_a_thread()
                assert connection.pool.get_stats()["connections_num"] - connections <= 1
            assert Book.objects.count() == count
        stats = connection.pool.get_stats()
        assert stats["requests_wait_ms"] < 60_000
        assert connection.pool.state == "ok"
        session(), in_a_thread()

class InTestCase(Served, TestCase):
    pass

class InTransactionTestCase(Served, TransactionTestCase):
    pass

@freezegun.freeze_time("2021-06-07")
class FrozenAsAWhole(TransactionTestCase):
    def test_first(self):
        connection.close_pool()
        assert session()
        connection.close()
        assert in_a_thread()
        assert timezone.now().year == 2021

    def test_second(self):
        Book.objects.create(title="frozen")
        assert Book.objects.count() == 1
"""

FOR_PYTEST = """
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("way", WAYS)
def test_plain(way):
    connection.close_pool()
    with way():
        first = session()
        connection.close()
        assert session() == first
        connection.close()
        assert in_a_thread() == first
    assert session() == first
    connection.close()
    assert in_a_thread() == first
"""


def test_all_kinds_of_tests_are_served_under_a_frozen_clock(run: Run, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text(PYTEST_INI)
    (tmp_path / "test_frozen.py").write_text(FROZEN_TESTS + FOR_PYTEST)
    done = run("-W", "ignore", "-m", "pytest", "-p", "no:randomly")
    assert "8 passed" in done.stdout
