"""What ASGI does to connections: clients that go away, bodies that raise, threads that live on."""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

from benchmarks._faults_stage import Stage, Verdict, case
from tests.web_django.asgi import answer_of, request

__all__: list[str] = []  # importing it enters the cases


async def _two_more(stage: Stage) -> Verdict:
    return _verdict(stage, [await answer_of("query") for _ in range(2)])


def _verdict(stage: Stage, statuses: list[int]) -> Verdict:
    """Judge by the answers, and by what is open while the event loop still runs."""
    failed = sum(status != 200 for status in statuses)
    if failed:
        return Verdict(False, f"{failed} of {len(statuses)}: 500")
    sessions = stage.sessions()
    return Verdict(sessions <= stage.size, f"{sessions} session{'s' * (sessions != 1)}")


@case("ASGI: four clients go away while answered; two requests")
def asgi_clients_go(stage: Stage) -> Verdict:
    stage.serve("query", lambda: stage.query("SELECT 1"))

    async def gone(message: Any) -> None:
        raise OSError("the client has gone")

    async def run() -> Verdict:
        for _ in range(4):
            try:
                await request("query", gone)
            except OSError:
                pass
        return await _two_more(stage)

    return asyncio.run(run())


@case("ASGI: four streaming bodies query and raise; two requests")
def asgi_stream_raises(stage: Stage) -> Verdict:
    from django.http import StreamingHttpResponse

    stage.serve("query", lambda: stage.query("SELECT 1"))

    @stage.site.view("stream")
    def stream(request: Any) -> Any:
        def rows() -> Any:
            yield str(stage.query("SELECT 1"))
            raise RuntimeError("in the middle of the body")

        return StreamingHttpResponse(rows())

    async def run() -> Verdict:
        for _ in range(4):
            try:
                await answer_of("stream")
            except Exception:  # noqa: BLE001 - its own, or that it got no connection
                pass
        return await _two_more(stage)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return asyncio.run(run())


@case("ASGI: twelve requests, one after the other")
def asgi_in_turn(stage: Stage) -> Verdict:
    stage.serve("query", lambda: stage.query("SELECT 1"))

    async def run() -> Verdict:
        return _verdict(stage, [await answer_of("query") for _ in range(12)])

    return asyncio.run(run())


@case(
    "ASGI: six views in executor threads, then one (release=transaction*)",
    pool={"release": "transaction"},
)
def asgi_executor(stage: Stage) -> Verdict:
    from asgiref.sync import sync_to_async
    from django.http import HttpResponse

    stage.serve("query", lambda: stage.query("SELECT 1"))

    @stage.site.view("threads")
    async def threads(request: Any) -> Any:
        found = await sync_to_async(stage.query, thread_sensitive=False)("SELECT pg_sleep(0.05)")
        return HttpResponse(str(found))

    async def run() -> Verdict:
        statuses = await asyncio.gather(*(answer_of("threads") for _ in range(6)))
        return _verdict(stage, [*statuses, await answer_of("query")])

    return asyncio.run(run())
