"""procrastinate keeps its queue in the database; its tasks use the ORM in threads."""

from __future__ import annotations

import asyncio

import pytest

from tests.ecosystem import tasks
from tests.ecosystem.promises import Database

pytestmark = pytest.mark.package("procrastinate", to_set="nothing")


def test_tasks_that_use_the_orm_commit_once(
    field: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIELD_URL", field.address("django"))
    tasks.set_up(INSTALLED_APPS=["procrastinate.contrib.django"])
    from django.core.management import call_command
    from procrastinate import PsycopgConnector
    from procrastinate.contrib.django import app

    call_command("migrate", verbosity=0)
    task = app.task(name="work")(tasks.work)
    for n in range(20):
        task.defer(n=n)

    async def run() -> None:
        connector = PsycopgConnector(conninfo=field.address("django"))
        worker_app = app.with_connector(connector)
        async with worker_app.open_async():
            await worker_app.run_worker_async(wait=False, concurrency=4)

    asyncio.run(run())
    assert field.sql("SELECT count(*), count(DISTINCT n) FROM field_row") == "20|20"
