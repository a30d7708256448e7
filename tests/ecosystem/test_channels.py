"""Channels: consumers that query in threads, each consumer in one of its own."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from asgiref.sync import ThreadSensitiveContext
from asgiref.testing import ApplicationCommunicator  # Channels' own closes no old connections

from tests.ecosystem import django_site
from tests.ecosystem.promises import Database

pytestmark = pytest.mark.package("channels", to_set="nothing")


def test_consumers_that_query_by_database_sync_to_async_hold_nothing_afterwards(
    field: Database,
) -> None:
    pool_options = {"max_size": 2, "timeout": 20.0}
    django_site.configure(field.address("django"), INSTALLED_APPS=["channels"], POOL=pool_options)
    from channels.db import database_sync_to_async
    from channels.generic.websocket import AsyncJsonWebsocketConsumer

    from dbpool_django.pools import all_pools
    from tests.ecosystem.django_urls import one

    class Echo(AsyncJsonWebsocketConsumer):  # type: ignore[misc]
        async def receive_json(self, content: dict[str, int]) -> None:
            answer = await database_sync_to_async(one)("SELECT %s::int", content["n"])
            await self.send_json({"n": answer})

    consumer = Echo.as_asgi()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        async with ThreadSensitiveContext():  # a thread of its own, as Django's requests have
            await consumer(scope, receive, send)

    async def talk(n: int) -> None:
        client = ApplicationCommunicator(application, {"type": "websocket", "path": "/"})
        await client.send_input({"type": "websocket.connect"})
        assert (await client.receive_output(20))["type"] == "websocket.accept"
        await client.send_input({"type": "websocket.receive", "text": json.dumps({"n": n})})
        assert json.loads((await client.receive_output(20))["text"]) == {"n": n}
        await client.send_input({"type": "websocket.disconnect", "code": 1000})
        await client.wait(20)

    async def all_of_them() -> None:
        await asyncio.gather(*map(talk, range(30)))

    asyncio.run(all_of_them())
    (pool,) = all_pools().values()
    stats = pool.get_stats()
    assert stats["requests_num"] == 30
    assert 1 <= stats["pool_size"] == stats["pool_available"] <= 2
