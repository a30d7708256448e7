"""Who watches while the load runs: the server's view, the load balancer's, the pools' own."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import psycopg2

from testproject.demo.servers import APPS, MOST_SESSIONS, AppServer, get

# What an app has open, but for the spare that its health check may take beside the pool.
SESSIONS = """
    SELECT usename, application_name LIKE 'dbpool-health:%%' AS spare, count(*)
    FROM pg_stat_activity WHERE usename = ANY(%s) GROUP BY 1, 2
"""
# One that serves a request if there is any: the harder case for the pool.
SESSION_TO_END = """
    SELECT pid, usename, state, pg_terminate_backend(pid)
    FROM pg_stat_activity
    WHERE usename = ANY(%s) AND application_name NOT LIKE 'dbpool-health:%%'
    ORDER BY state = 'idle', random() LIMIT 1
"""
COUNT = "SELECT count(*) FROM pg_stat_activity WHERE usename = ANY(%s)"
COUNT_BUSY = COUNT + " AND state <> 'idle'"
ROLES = [app.role for app in APPS]


@dataclass(frozen=True)
class Ended:
    """A session that the demo ended."""

    role: str
    state: str


class SessionWatch(threading.Thread):
    """Counts the apps' sessions in pg_stat_activity, twenty times a second."""

    def __init__(self, dsn: str) -> None:
        super().__init__(name="session-watch", daemon=True)
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.most_spares: Counter[str] = Counter()
        self.error: BaseException | None = None
        self._dsn = dsn
        self._stop_asked = threading.Event()

    def run(self) -> None:
        try:
            with Observer(self._dsn) as observer:
                while not self._stop_asked.wait(0.05):
                    self._sample(observer)
        except psycopg2.Error as error:
            self.error = error

    def stop(self) -> None:
        """End the watch; raise what cut it short, if anything did."""
        self._stop_asked.set()
        self.join()
        if self.error:
            raise self.error

    def _sample(self, observer: Observer) -> None:
        sessions, spares = observer.sessions()
        if max(sessions.values(), default=0) > MOST_SESSIONS:
            # A session that was closed a moment ago may still be listed. One that is really too
            # many is there the next time, too.
            self._stop_asked.wait(0.1)
            sessions &= observer.sessions()[0]
        self.now = sessions
        self.most |= sessions
        self.most_spares |= spares


class Observer:
    """A session of the demo's own, which looks at those of the apps. For one thread."""

    def __init__(self, dsn: str) -> None:
        self._connection = psycopg2.connect(dsn)
        self._connection.autocommit = True

    def __enter__(self) -> Observer:
        return self

    def __exit__(self, *exc: object) -> None:
        self._connection.close()

    def sessions(self) -> tuple[Counter[str], Counter[str]]:
        """Return the number of sessions by role: those of the pools, and the health spares."""
        pools: Counter[str] = Counter()
        spares: Counter[str] = Counter()
        for role, spare, count in self._rows(SESSIONS):
            (spares if spare else pools)[role] = count
        return pools, spares

    def end_one_session(self) -> Ended | None:
        """End a session of one of the pools; None if none is open."""
        for _, role, state, _ in self._rows(SESSION_TO_END):
            return Ended(role, state)
        return None

    def wait_until_idle(self) -> None:
        """Return when no session of the apps does anything, or after 30 s."""
        self._wait_for_none(COUNT_BUSY, 30.0)

    def wait_until_gone(self) -> int:
        """Return how many sessions of the apps are left after at most 5 s."""
        return self._wait_for_none(COUNT, 5.0)

    def _wait_for_none(self, sql: str, seconds: float) -> int:
        until = time.monotonic() + seconds
        while (count := self._rows(sql)[0][0]) and time.monotonic() < until:
            time.sleep(0.02)
        return int(count)

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(sql, [ROLES])
            return cursor.fetchall()


class HealthWatch(threading.Thread):
    """Asks /healthz/db twice a second, as a load balancer would."""

    def __init__(self, server: AppServer) -> None:
        super().__init__(name=f"health-watch-{server.app.name}", daemon=True)
        self.answers: Counter[str] = Counter()
        self._port = server.port
        self._stop_asked = threading.Event()

    def run(self) -> None:
        while True:
            self.answers[self._ask()] += 1
            if self._stop_asked.wait(0.5):
                return

    def stop(self) -> None:
        self._stop_asked.set()
        self.join()

    def _ask(self) -> str:
        try:
            status, body = get(self._port, "/healthz/db", timeout=5.0)
            return f"{status} {json.loads(body)['status']}"
        except (OSError, ValueError, KeyError, TypeError) as error:
            return type(error).__name__


@dataclass(frozen=True)
class PoolEvents:
    """What the pools of one app's workers wrote down themselves."""

    opened: int
    most_open: int

    @classmethod
    def read(cls, folder: Path) -> PoolEvents:
        """Merge the files of all workers by time and count along."""
        lines = [line for file in folder.iterdir() for line in file.read_text().splitlines()]
        return cls.count(map(json.loads, lines))

    @classmethod
    def count(cls, events: Iterable[dict[str, Any]]) -> PoolEvents:
        opened = most = 0
        open_now: dict[tuple[int, str], int] = {}
        for event in sorted(events, key=itemgetter("time")):
            opened += event["event"] == "opened"
            # What the pool says it has, not one more or less than before: of two threads' events
            # the later one may be written first.
            open_now[event["pid"], event["pool"]] = event["open"]
            most = max(most, sum(open_now.values()))
        return cls(opened, most)
