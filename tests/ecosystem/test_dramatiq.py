"""dramatiq's worker threads, with the middleware that Django projects add."""

from __future__ import annotations

import pytest

from tests.ecosystem import tasks
from tests.ecosystem.promises import Database
from tests.ecosystem.queueing import TASKS
from tests.support.waiting import wait_until

pytestmark = pytest.mark.package(
    "dramatiq", to_set="`dbpool_django.released` around the function of an actor"
)


def test_more_threads_than_connections_commit_every_message_once(
    field: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIELD_URL", field.address("django"))
    tasks.set_up()
    import dramatiq
    from dramatiq.brokers.stub import StubBroker

    import dbpool_django

    broker = StubBroker()
    broker.emit_after("process_boot")
    actor = dramatiq.actor(broker=broker, max_retries=0)(dbpool_django.released(tasks.work))
    worker = dramatiq.Worker(broker, worker_threads=6, worker_timeout=100)
    worker.start()
    try:
        for n in range(TASKS):
            actor.send(n)
        wait_until(lambda: int(field.sql("SELECT count(*) FROM field_row")) >= TASKS, 60)
        assert int(field.sql("SELECT count(DISTINCT n) FROM field_row")) == TASKS
        assert field.sessions() <= tasks.MAX_SIZE
    finally:
        worker.stop()
