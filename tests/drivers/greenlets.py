"""What greenlets do with a pool; each function is a program of its own for test_gevent.py.

`python -m tests.drivers.greenlets FUNCTION DRIVER ORDER CONNINFO`, where ORDER says whether the
monkey-patch comes before or after the import of dbpool. Prints "ok" at its end.
"""

from __future__ import annotations

import itertools
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import gevent
import gevent.monkey

FUNCTION, DRIVER, ORDER, CONNINFO = sys.argv[1:]

if ORDER == "before":
    gevent.monkey.patch_all()

from dbpool import ConnectionPool, PoolTimeout  # noqa: E402

if ORDER == "after":
    gevent.monkey.patch_all()

import greenlet  # noqa: E402
import psycopg2  # noqa: E402
import pytest  # noqa: E402
from gevent.socket import wait_read, wait_write  # noqa: E402
from psycopg2 import extensions  # noqa: E402

from tests.support import inside  # noqa: E402
from tests.support.black_hole import BlackHole  # noqa: E402
from tests.support.waiting import PATIENCE, wait_until  # noqa: E402

SIZE = 4
tokens = itertools.count(1000)


def green(conn: Any) -> None:
    """Wait for psycopg2 without keeping the other greenlets; what psycogreen does."""
    while True:
        state = conn.poll()
        if state == extensions.POLL_OK:
            return
        (wait_read if state == extensions.POLL_READ else wait_write)(conn.fileno())


if DRIVER == "psycopg2":
    extensions.set_wait_callback(green)


def make(conninfo: Any = CONNINFO, **options: Any) -> ConnectionPool:
    return ConnectionPool(conninfo, driver=DRIVER, **{"max_size": SIZE, **options})


def one(conn: Any, sql: str) -> Any:
    cursor = conn.cursor()
    cursor.execute(sql)
    return cursor.fetchone()[0]


def ask(conn: Any) -> int:
    """Ask a question of one's own; return the session that answered."""
    token = next(tokens)
    assert one(conn, f"SELECT {token}") == token, "somebody else's answer"
    return int(conn.info.backend_pid)


def expect_full_capacity(pool: ConnectionPool) -> None:
    """Fail unless max_size clean connections can be had at once, and not one more."""
    with gevent.Timeout(PATIENCE):
        wait_until(lambda: not inside.attempts(pool), PATIENCE, "connects under way end")
        inside.find_lost(pool)
        inside.audit(pool)
        assert not inside.waiters(pool), "somebody waits still"
        taken = [pool.getconn(PATIENCE) for _ in range(pool.max_size)]
        assert len({ask(conn) for conn in taken}) == pool.max_size
        with pytest.raises(PoolTimeout):
            pool.getconn(timeout=0)
        while taken:
            taken[-1].rollback()
            pool.putconn(taken.pop())
        inside.audit(pool)


@contextmanager
def ticking() -> Iterator[None]:
    """Fail unless other greenlets came to their turn meanwhile."""
    ticks = [0]

    def tick() -> None:
        while True:
            gevent.sleep(0.01)
            ticks[0] += 1

    ticker = gevent.spawn(tick)
    yield
    ticker.kill()
    assert ticks[0], "the others were kept waiting"


def waiters_are_served_in_their_order() -> None:
    pool = make(max_size=1)
    order: list[int] = []

    def use(number: int) -> None:
        with pool.connection(PATIENCE) as conn:
            order.append(number)
            ask(conn)
            gevent.sleep(0.001)

    with ticking():
        gevent.joinall([gevent.spawn(use, number) for number in range(30)], raise_error=True)
    assert order == list(range(30))
    expect_full_capacity(pool)


def many_share_few() -> None:
    pool = make()
    users: dict[int, int] = {}

    def use(number: int) -> None:
        for _ in range(10):
            with pool.connection(PATIENCE) as conn:
                session = conn.info.backend_pid
                assert users.setdefault(session, number) == number, "lent to two"
                ask(conn)
                gevent.sleep(0.001)
                del users[session]

    gevent.joinall([gevent.spawn(use, number) for number in range(24)], raise_error=True)
    stats = pool.get_stats()
    assert stats["requests_num"] == 240
    assert stats["requests_errors"] == 0
    assert stats["connections_num"] <= SIZE
    expect_full_capacity(pool)


def queries_run_side_by_side() -> None:
    pool = make()

    def use() -> None:
        with pool.connection(PATIENCE) as conn:
            one(conn, "SELECT pg_advisory_xact_lock_shared(4712) IS NULL")

    with psycopg2.connect(CONNINFO) as lock:
        one(lock, "SELECT pg_advisory_xact_lock(4712) IS NULL")
        users = [gevent.spawn(use) for _ in range(2 * SIZE)]
        # Not at all, where the first one keeps the others from their turn.
        wait_until(lambda: waiting_for_locks() == SIZE, PATIENCE, "they ask side by side")
    lock.close()
    gevent.joinall(users, raise_error=True)
    expect_full_capacity(pool)


def waiting_for_locks() -> int:
    with closing(psycopg2.connect(CONNINFO)) as conn:
        count: int = one(conn, "SELECT count(*) FROM pg_locks WHERE NOT granted AND objid = 4712")
    return count


def a_timeout_while_waiting_is_the_pools() -> None:
    pool = make(max_size=1)
    held = pool.getconn(PATIENCE)
    with ticking():
        with pytest.raises(PoolTimeout, match="1 of 1 in use"):
            pool.getconn(timeout=0.5)
    pool.putconn(held)
    expect_full_capacity(pool)


def a_black_hole_keeps_nobody() -> None:
    """Green psycopg2 knows no connect_timeout; the pool keeps it."""
    with BlackHole() as nowhere:
        pool = make(nowhere.url, connect_timeout=2)
        with ticking():
            with pytest.raises(PoolTimeout, match="connecting takes too long"):
                pool.getconn(timeout=0.5)
        wait_until(lambda: inside.outage(pool).failure, PATIENCE, "the connect ends by itself")
        assert inside.outage(pool).failure
        assert inside.outage(pool).failure.reason == "connect_timeout"
        pool.close()


# A greenlet that is ended at each point at which it lets others run


class Switches:
    """Ends a greenlet when it has let others run so many times."""

    def __init__(self, number: int, error: BaseException) -> None:
        self.number, self.error, self.seen = number, error, 0
        self.victim: gevent.Greenlet | None = None

    def __call__(self, event: str, args: tuple[Any, Any]) -> None:
        if event in ("switch", "throw") and args[0] is self.victim is not None:
            self.seen += 1
            if self.seen == self.number and not self.victim.dead:
                self.victim.kill(self.error, block=False)

    def run(self, function: Callable[[], object]) -> gevent.Greenlet:
        self.victim = gevent.Greenlet(function)
        greenlet.settrace(self)
        try:
            self.victim.start()
            self.victim.join(PATIENCE)
        finally:
            greenlet.settrace(None)
        assert self.victim.dead, "it hangs"
        return self.victim


Use = Callable[[ConnectionPool], object]


def until_ended(use: Use, pool: ConnectionPool, kind: type[BaseException]) -> None:
    try:
        use(pool)
    except kind:
        pass


def sweep(use: Use, least: int, prepare: Use = expect_full_capacity, **options: Any) -> None:
    """Run `use` in a greenlet, ended at its first switch, its second, … until it is done."""
    for kind in (gevent.GreenletExit, gevent.Timeout):
        points = 0
        for number in range(1, 200):
            pool = make(**options)
            prepare(pool)
            switches = Switches(number, kind() if kind is gevent.GreenletExit else kind(None))
            victim = switches.run(lambda pool=pool, kind=kind: until_ended(use, pool, kind))
            try:
                expect_full_capacity(pool)
            except BaseException as error:
                raise AssertionError(f"{kind.__name__} at switch {number}: {error!r}") from error
            pool.close()
            if switches.seen < number:
                assert victim.successful(), victim.exception
                break
            points += 1
        else:
            raise AssertionError("it never gets to its end")
        assert points >= least, f"{points} points are too few: nothing was tested"


def in_a_block(pool: ConnectionPool) -> None:
    with pool.connection(PATIENCE) as conn:
        ask(conn)
        one(conn, "SELECT 1 FROM pg_sleep(0.01)")


def by_hand(pool: ConnectionPool) -> None:
    conn = pool.getconn(PATIENCE)
    try:
        ask(conn)
        one(conn, "SELECT 2 FROM pg_sleep(0.01)")
    finally:
        pool.putconn(conn)  # with its transaction open, or its query under way


def nothing(pool: ConnectionPool) -> None:
    pass


def ended_in_a_block() -> None:
    sweep(in_a_block, least=4)


def ended_between_getconn_and_putconn() -> None:
    sweep(by_hand, least=4)


def ended_in_a_first_use() -> None:
    sweep(in_a_block, least=5, prepare=nothing)


def ended_in_a_connect_of_its_own() -> None:
    sweep(by_hand, least=6, prepare=nothing, background=False)


def ended_in_callbacks() -> None:
    def query(conn: Any) -> None:
        one(conn, "SELECT 3")
        conn.rollback()

    sweep(by_hand, least=8, validate="ping", check=query, reset=query)
    sweep(by_hand, least=8, prepare=nothing, configure=query, reset="discard", background=False)


def ended_while_waiting() -> None:
    def wait(pool: ConnectionPool) -> None:
        held = [pool.getconn(PATIENCE) for _ in range(SIZE)]

        def give_back() -> None:
            while held:
                pool.putconn(held.pop())
                gevent.sleep(0)

        gevent.spawn_later(0.02, give_back)
        in_a_block(pool)

    sweep(wait, least=3)


SLOW_TO_COMMIT = """
CREATE TABLE IF NOT EXISTS slow_to_commit (i int);
CREATE OR REPLACE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN PERFORM pg_sleep(0.02); RETURN NULL; END';
DROP TRIGGER IF EXISTS dawdle ON slow_to_commit;
CREATE CONSTRAINT TRIGGER dawdle AFTER INSERT ON slow_to_commit
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION dawdle();
"""


def ended_in_a_commit() -> None:
    pool = make(max_size=1)
    with pool.connection(PATIENCE) as conn:
        conn.cursor().execute(SLOW_TO_COMMIT)
    pool.close()

    def write(pool: ConnectionPool) -> None:
        with pool.connection(PATIENCE) as conn:
            conn.cursor().execute("INSERT INTO slow_to_commit VALUES (1)")

    sweep(write, least=2)


def in_a_query_the_connection_is_not_kept() -> None:
    """That of psycopg is open then, with its query under way: the next would read its answer."""
    pool = make(max_size=1)
    for use in (in_a_long_block, long_by_hand):
        with pool.connection(PATIENCE) as conn:
            before = ask(conn)
        del conn
        victim = gevent.spawn(use, pool)
        wait_until(lambda: bool(inside.in_use(pool)), PATIENCE)
        wait_until(in_the_long_query, PATIENCE)
        victim.kill()
        with pool.connection(PATIENCE) as conn:
            assert ask(conn) != before
        del conn
    assert pool.get_stats()["connections_num"] == 3
    expect_full_capacity(pool)


def in_the_long_query() -> bool:
    sql = (
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT 666%'"
    )
    with closing(psycopg2.connect(CONNINFO)) as conn:
        return bool(one(conn, sql))


def in_a_long_block(pool: ConnectionPool) -> None:
    with pool.connection(PATIENCE) as conn:
        one(conn, "SELECT 666 FROM pg_sleep(600)")


def long_by_hand(pool: ConnectionPool) -> None:
    conn = pool.getconn(PATIENCE)
    try:
        one(conn, "SELECT 666 FROM pg_sleep(600)")
    finally:
        pool.putconn(conn)


def dropped_by_greenlets_that_ended() -> None:
    pool = make(name="greenlets")

    def take_and_end() -> None:
        ask(pool.getconn(PATIENCE))

    gevent.joinall([gevent.spawn(take_and_end) for _ in range(3 * SIZE)], raise_error=True)
    wait_until(lambda: pool.get_stats()["connections_dropped"] == 3 * SIZE, PATIENCE)
    expect_full_capacity(pool)


kept: list[Any] = []


def a_process_may_end_while_they_wait() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    pool, nowhere = make(max_size=1), f"host=127.0.0.1 port={listener.getsockname()[1]}"
    kept[:] = [listener, pool, pool.getconn(PATIENCE), make(nowhere, min_size=1)]
    gevent.spawn(pool.getconn, 600)
    wait_until(lambda: inside.waiters(pool) and inside.attempts(kept[3]), PATIENCE)


def a_look_sees_a_hang_up_and_lets_nobody_run() -> None:
    pool = make(max_size=2, validate_after=0)
    with pool.connection(PATIENCE) as conn, pool.connection(PATIENCE) as other:
        poll = inside.poller(pool.driver.fileno(conn) or -1)
        assert inside.look(poll) == inside.ALIVE
        one(other, f"SELECT pg_terminate_backend({conn.info.backend_pid})")
        wait_until(lambda: inside.look(poll) == inside.DEAD, PATIENCE)
    expect_full_capacity(pool)
    switched: list[object] = []
    greenlet.settrace(lambda event, args: switched.append(args))
    for _ in range(10):
        pool.putconn(pool.getconn(PATIENCE))
    greenlet.settrace(None)
    assert switched == []


if __name__ == "__main__":
    globals()[FUNCTION]()
    print("ok")
