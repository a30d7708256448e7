"""django-pglock: advisory locks and lock timeouts around blocks."""

from __future__ import annotations

import pytest

from tests.ecosystem import django_site
from tests.ecosystem.promises import Database

pytestmark = pytest.mark.package("django-pglock", to_set="nothing")


def test_locks_and_timeouts_hold_in_their_block_and_end_with_the_request(field: Database) -> None:
    apps = ["django.contrib.contenttypes", "pgactivity", "pglock"]
    django_site.configure(field.address("django"), INSTALLED_APPS=apps)
    import pglock
    from django.db import connection

    def held() -> str:
        return field.sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")

    def lock_timeout() -> str:
        with connection.cursor() as cursor:
            cursor.execute("SHOW lock_timeout")
            return str(cursor.fetchone()[0])

    with pglock.advisory("field"):
        assert held() == "1"
    assert held() == "0"
    with pglock.timeout(seconds=3):
        assert lock_timeout() == "3s"
    assert lock_timeout() == "0"
    lock = pglock.advisory("left")
    lock.acquire()
    assert held() == "1"
    connection.close()  # a request's end
    assert (lock_timeout(), held()) == ("0", "0")
