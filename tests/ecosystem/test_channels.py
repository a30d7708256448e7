"""Channels: consumers that query in threads of the ASGI server."""

from __future__ import annotations

import asyncio

import pytest

from tests.ecosystem import django_site
from tests.ecosystem.promises import Database

pytestmark = pytest.mark.package("channels", to_set="nothing")


def test_consumers_that_query_by_database_sync_to_async_hold_nothing_afterwards(
    field: Database,
) -> None:
    django_site.configure(field.address("django"), INSTALLED_APPS=["channels"])
    from channels.db import database_sync_to_async
    from channels.generic.websocket import AsyncJsonWebsocketConsumer
    from channels.testing import WebsocketCommunicator

    from dbpool_django.pools import all_pools
    from tests.ecosystem.django_urls import one

    class Echo(AsyncJsonWebsocketConsumer):  # type: ignore[misc]
        async def receive_json(self, content: dict[str, int]) -> None:
            answer = await database_sync_to_async(one)("SELECT %s::int", content["n"])
            await self.send_json({"n": answer})

    async def talk(n: int) -> None:
        client = WebsocketCommunicator(Echo.as_asgi(), "/")
        connected, _ = await client.connect()
        assert connected
        await client.send_json_to({"n": n})
        assert await client.receive_json_from(timeout=20) == {"n": n}
        await client.disconnect()

    async def all_of_them() -> None:
        await asyncio.gather(*map(talk, range(30)))

    asyncio.run(all_of_them())
    (pool,) = all_pools().values()
    stats = pool.get_stats()
    assert stats["pool_size"] == stats["pool_available"] <= 2
