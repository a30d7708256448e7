"""The server is restarted while nobody calls: what the first callers see of it."""

from __future__ import annotations

import logging
import time

from benchmarks._peers import Connects, Wanted
from benchmarks._restart import IDLE_FOR, STALE, calls, one_connect
from testproject.postgres import PostgresServer
from tests.outages.load import POOLS
from tests.outages.stages import SETTINGS

__all__ = ["restarted_while_idle"]


def restarted_while_idle(pool: str) -> tuple[dict[str, float], str]:
    """The server is restarted while six connections are idle; then 160 calls, one by one."""
    logging.disable()
    with PostgresServer(conf=SETTINGS) as server:
        made = len(Connects.made)
        peer = POOLS[pool](Wanted(server.dsn(), STALE))  # which may connect already
        try:
            peer.fill(STALE)
            opened = len(Connects.made) - made
            time.sleep(IDLE_FOR)
            server.restart()
            one = one_connect(server.dsn())
            made = len(Connects.made)
            errors, slowest = calls(peer)
            renewed = len(Connects.made) - made
        finally:
            peer.close()
            logging.disable(logging.NOTSET)
    unproved = ""
    if opened < STALE:
        unproved = f"{opened} connections were open, not {STALE}"
    elif not errors and not renewed:
        unproved = "the fault did not show"
    return {"failed": errors, "connects": slowest / one}, unproved
