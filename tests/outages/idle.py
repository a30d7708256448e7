"""The server is restarted while nobody calls: what the first callers see of it."""

from __future__ import annotations

import logging
import time

from benchmarks._peers import Wanted
from benchmarks._restart import IDLE_FOR, STALE, calls, one_connect
from testproject.postgres import PostgresServer
from tests.outages.load import POOLS
from tests.outages.stages import SETTINGS

__all__ = ["restarted_while_idle"]


def restarted_while_idle(pool: str) -> dict[str, float]:
    """The server is restarted while six connections are idle; then 160 calls, one by one."""
    logging.disable()
    with PostgresServer(conf=SETTINGS) as server:
        peer = POOLS[pool](Wanted(server.dsn(), STALE))
        try:
            peer.fill(STALE)
            time.sleep(IDLE_FOR)
            server.restart()
            one = one_connect(server.dsn())
            errors, slowest = calls(peer)
        finally:
            peer.close()
            logging.disable(logging.NOTSET)
    return {"failed": errors, "connects": slowest / one}
