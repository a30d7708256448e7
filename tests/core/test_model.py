"""A pool does at every step what a small model of it says, whatever order the steps come in.

The pool is real, with no thread of its own, so that one caller's steps decide everything; the
clock is put on by hand. After each step the model knows every connection: where it is, whether the
server still has it, when it ends and why; what the pool has opened, closed, lent, refused and
counted must follow from that.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dbpool import (
    CommitUnknown,
    ConnectFailed,
    ConnectionPool,
    PoolClosed,
    PoolTimeout,
    TransactionAborted,
)
from dbpool.drivers.base import ACTIVE, IDLE, INERROR, INTRANS
from tests.support import inside
from tests.support.clock import FakeClock
from tests.support.stub_driver import StubError
from tests.support.wired_driver import Wire, WiredDriver

# All computing, and so as slow as whatever runs beside it lets it be.
pytestmark = pytest.mark.computes

VALIDATE_AFTER, PING_AFTER, LIFETIME, MAX_IDLE = 0.1, 30.0, 200.0, 60.0
LONGEST_BACKOFF = 5.0
STATES = ("clean", "open", "failed", "active", "changed", "closed")
sizes = st.tuples(st.integers(0, 3), st.integers(1, 4)).map(lambda s: (min(s), max(s)))


@dataclass(eq=False)
class Known:
    """What the model knows of one connection."""

    number: int
    ends: float
    since: float  # idle, or lent, since then
    unseen_until: float  # before that it may be lent without a look
    wire: Wire | None = None  # held while it is lent, as a borrower does
    lease: Any = None  # or the block that holds it
    alive: bool = True  # the server has it
    open: bool = True  # its borrower has not closed it
    doomed: str = ""  # why it goes when it comes back; the first reason counts


class Machine(RuleBasedStateMachine):
    @initialize(sizes=sizes, reuse=st.sampled_from(["lifo", "fifo"]))
    def make(self, sizes: tuple[int, int], reuse: str) -> None:
        self.patch = pytest.MonkeyPatch()
        self.clock = FakeClock()
        self.clock.install(self.patch)
        wait = inside.Waiter.wait

        def wait_alone(waiter: Any, seconds: float) -> bool:
            if not wait(waiter, 0.0):
                self.clock.sleep(seconds)  # nobody else is there who could answer
            return wait(waiter, 0.0)

        inside.patch(self.patch, "Waiter.wait", wait_alone)
        inside.patch(self.patch, "collect_garbage", lambda now: None)
        self.driver = WiredDriver()
        self.driver.hooks["connect"] = self._expect_room
        self.was_down = False
        self.reuse = reuse
        self.pool = ConnectionPool(
            driver=self.driver,
            min_size=sizes[0],
            max_size=sizes[1],
            background=False,
            reuse=reuse,  # type: ignore[arg-type]
            timeout=10.0,
            validate_after=VALIDATE_AFTER,
            ping_after=PING_AFTER,
            max_lifetime=LIFETIME,
            max_idle=MAX_IDLE,
        )
        self.reasons: list[str] = []
        inside.patch_of(self.patch, self.pool, "event", self._note_event)
        self.idle: list[Known] = []
        self.lent: list[Known] = []
        self.closed: Counter[str] = Counter()
        self.seen = (0, 0)  # of the driver's lists
        self.failed_at, self.failure = -math.inf, ""
        self.requests = self.errors = self.timeouts = self.bad = self.dropped = self.uses = 0
        self.used = 0.0
        self.popped = 0

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.lent.clear()
        self.pool.close(0)
        inside.find_lost(self.pool)
        assert self.driver.attempts >= len(self.driver.opened)
        self.patch.undo()

    def _expect_room(self, _: object) -> None:
        assert not self.pool.closed, "connects although it is closed"
        assert len(inside.entries(self.pool)) < self.pool.max_size, "opens more than max_size"
        if self.driver.refusing:
            self.failed_at, self.failure = self.clock.now, self.driver.refusing

    def _note_event(self, event: str, reason: str = "") -> None:
        if event == "closed" and reason != "lost":
            self.reasons.append(reason)

    # What the pool did in a step, held against what it might do.

    def _follow(self, must: dict[Known, set[str]] | None = None, *, connects: int = 0) -> set[int]:
        """Take over what was opened and closed; return what is new.

        `must` are those that have to be closed in this step, with the reasons that are right;
        `connects` how many beyond the minimum may be opened.
        """
        must = must or {}
        now, known = self.clock.now, {c.number: c for c in [*self.idle, *self.lent, *must]}
        opened = set(self.driver.opened[self.seen[0] :])
        closed = self.driver.closed[self.seen[1] :]
        self.seen = len(self.driver.opened), len(self.driver.closed)
        assert len(closed) == len(set(closed)) == len(self.reasons)
        before = len(known)
        unneeded = max(0, before + len(opened) - self.pool.min_size)
        assert self.reasons.count("max_idle") <= unneeded, "the minimum was closed as unused"
        for number, reason in zip(closed, self.reasons, strict=True):
            self.closed[reason] += 1
            conn = known.pop(number, None)
            if conn is None:
                assert number in opened, f"{number} was closed before"
                opened.discard(number)
                continue
            assert conn not in self.lent, f"{number} is closed in its borrower's hands"
            assert reason in must.get(conn, self._reasons_for(conn, now)), (number, reason)
            if reason == "broken" and not (conn.alive and conn.open):
                self._one_was_dead()
        self.reasons.clear()
        left = [conn.number for conn in must if conn.number in known]
        assert not left, f"{left} should have been closed"
        soon = sum(bool(c.doomed) or c.ends <= now + 1.0 for c in known.values())
        most = max(before, self.pool.min_size + soon) + connects
        most += self.was_down  # its prober connects, whether anybody wants that or not
        assert len(known) + len(opened) <= max(most, before), "connects that nobody wants"
        self._follow_idle(known, opened)
        return opened

    def _follow_idle(self, known: dict[int, Known], opened: set[int]) -> None:
        """The idle ones are in their order, and the new ones are among them or lent."""
        stack = [(conn.number, entry) for conn, entry in inside.idle(self.pool)]
        numbers = [number for number, _ in stack]
        stayed = [conn.number for conn in self.idle if conn.number in numbers]
        assert [number for number in numbers if number not in opened] == stayed, "out of order"
        for number, entry in stack:
            if number in opened:
                known[number] = self._born(number, entry)
        self.idle = [known[number] for number in numbers]

    def _born(self, number: int, entry: Any) -> Known:
        assert 0.75 * LIFETIME <= entry.expires_at - entry.born <= LIFETIME
        return Known(number, entry.expires_at, entry.since, entry.since + VALIDATE_AFTER)

    def _reasons_for(self, conn: Known, now: float) -> set[str]:
        """Why an idle connection may be closed at this moment."""
        found = {conn.doomed} - {""}
        if not conn.alive:
            found.add("broken")
        if now >= conn.ends:
            found.add("max_lifetime")
        if now - conn.since >= MAX_IDLE:
            found.add("max_idle")
        return found

    def _may_be_lent(self, conn: Known, now: float) -> bool:
        return now < conn.ends and (conn.alive or now < conn.unseen_until)

    def _one_was_dead(self) -> None:
        """From now on none is trusted before it has been asked."""
        for conn in [*self.idle, *self.lent]:
            conn.unseen_until = -math.inf

    # Acquire

    @rule(timeout=st.sampled_from([0, 0.05, 1.0, None]), block=st.booleans())
    def acquire(self, timeout: float | None, block: bool) -> None:
        pool, started = self.pool, self.clock.now
        order = self.idle if self.reuse == "fifo" else self.idle[::-1]
        good = [conn for conn in order if self._may_be_lent(conn, started)]
        surprise = bool(order) and not self._may_be_lent(order[0], started)
        found_dead = inside.counters(pool).found_dead
        room = len(self.lent) < pool.max_size
        put_off = self.clock.now - self.failed_at < LONGEST_BACKOFF
        lease = pool.connection(timeout) if block else None
        error: Exception | None = None
        wire: Any = None
        try:
            wire = lease.__enter__() if lease is not None else pool.getconn(timeout)
        except (PoolTimeout, PoolClosed, ConnectFailed) as caught:
            error = caught
        now, seconds = self.clock.now, 10.0 if timeout is None else float(timeout)
        self.requests += 1
        if error is not None:
            self._refused(error, good, room and seconds > 0 and not put_off, seconds, now - started)
            self._follow(connects=1)
            return
        assert wire.status == IDLE
        assert wire.setting == "default"
        assert not pool.closed, "lent by a closed pool"
        assert wire.number not in {conn.number for conn in self.lent}, "lent to two"
        entry = inside.in_use(pool)[id(wire)]
        conn = next((conn for conn in self.idle if conn.number == wire.number), None)
        if conn is None:
            assert room, "more than max_size are lent"
            alive = [conn for conn in good if conn.alive]
            # Where one was found dead the minimum is filled again, among those that are good.
            surprise = surprise or inside.counters(pool).found_dead > found_dead
            assert not alive or surprise, "a new one, although an idle one was good"
            conn = self._born(wire.number, entry)
            self.idle.append(conn)  # for the moment: it has never been anywhere else
        else:
            assert conn in good, "lent past its end, or after the server has hung up"
            assert conn is good[0] or surprise or not good[0].alive, f"out of order ({self.reuse})"
        self.idle.remove(conn)
        conn.wire, conn.lease, conn.since = wire, lease, now
        self.lent.append(conn)
        self.uses += 1
        self._follow(connects=1)

    def _refused(
        self, error: Exception, good: list[Known], possible: bool, seconds: float, waited: float
    ) -> None:
        pool = self.pool
        self.errors += 1
        self.timeouts += isinstance(error, PoolTimeout)
        assert waited <= seconds + 0.05 + 1e-6, f"waited {waited} s of {seconds} s"
        if pool.closed:
            assert isinstance(error, PoolClosed)
            return
        alive = [conn for conn in good if conn.alive]
        assert not alive, f"refused, although {len(alive)} idle ones are good"
        if isinstance(error, ConnectFailed):
            assert self.failure == "auth"
            return
        assert isinstance(error, PoolTimeout)
        assert not possible or self.driver.refusing, "refused, although it could connect"
        if not possible and not self.failure:
            assert waited >= seconds - 1e-6, f"gave up after {waited} s of {seconds} s"

    # Return

    @precondition(lambda self: self.lent)
    @rule(
        pick=st.integers(0, 7),
        state=st.sampled_from(STATES),
        how=st.sampled_from(["put", "put", "close", "fail", "interrupted"]),
        twice=st.booleans(),
    )
    def give_back(self, pick: int, state: str, how: str, twice: bool) -> None:
        conn = self.lent.pop(pick % len(self.lent))
        wire, lease = conn.wire, conn.lease
        conn.wire = conn.lease = None
        assert wire is not None
        self._use(wire, state)
        conn.open = state != "closed"
        if lease is not None:
            kept, reasons, expected = self._after_block(conn, state, how)
        else:
            kept, reasons, expected = self._after_return(conn, state, how == "close")
        now = self.clock.now
        self.used += now - conn.since
        raised: BaseException | None = None
        try:
            if lease is None:
                self.pool.putconn(wire, close=how == "close")
            else:
                error = {"fail": StubError(), "interrupted": KeyboardInterrupt()}.get(how)
                lease.__exit__(type(error) if error else None, error, None)
        except Exception as caught:  # noqa: BLE001 - compared with what should come
            raised = caught
        assert isinstance(raised, expected) if expected else raised is None, raised
        raised = None  # its frames hold the connection
        if kept and (conn.doomed or now >= conn.ends):
            kept, reasons = False, {conn.doomed or "max_lifetime"}
        if kept:
            conn.since, conn.unseen_until = now, now + VALIDATE_AFTER
            self.idle.append(conn)
            self._follow()
        else:
            self.bad += reasons == {"broken"}
            self._follow({conn: reasons})
        if twice and lease is None:
            with pytest.raises(ValueError, match="has not lent this connection"):
                self.pool.putconn(wire)

    def _use(self, wire: Wire, state: str) -> None:
        """Leave it behind as borrowers do."""
        wire.status = {"open": INTRANS, "failed": INERROR, "active": ACTIVE}.get(state, IDLE)
        if state == "changed":
            wire.setting = "changed"
        if state == "closed":
            wire.closed = True

    def _after_return(
        self, conn: Known, state: str, close: bool
    ) -> tuple[bool, set[str], type[Exception] | None]:
        if close:
            return False, {"returned_closed"}, None
        lost = state in ("active", "closed")
        kept = not lost and (conn.alive or state == "clean")
        return kept, {"broken"}, None

    def _after_block(
        self, conn: Known, state: str, how: str
    ) -> tuple[bool, set[str], type[Exception] | None]:
        """What becomes of it at the end of a `with pool.connection()`, and what that raises."""
        ends = {"returned_closed"}
        if how == "interrupted":
            return False, ends, None
        if how == "fail":
            kept = conn.alive and state not in ("active", "closed")
            return kept, ends, None
        if state == "closed":
            return False, ends, TransactionAborted
        if state == "active":  # the stub's commit ends it, as no query is under way in truth
            return conn.alive, ends, None if conn.alive else CommitUnknown
        if state == "failed":
            return conn.alive, ends, TransactionAborted
        if conn.alive:
            return True, set(), None
        return False, ends, TransactionAborted if state == "open" else StubError

    @precondition(lambda self: self.lent)
    @rule(pick=st.integers(0, 7), asks=st.booleans())
    def drop(self, pick: int, asks: bool) -> None:
        """Forget a connection: the next caller who has to wait finds its slot, or a look does."""
        conn = self.lent.pop(pick % len(self.lent))
        conn.wire = conn.lease = None
        self.dropped += 1
        self.closed["lost"] += 1
        self.used += self.clock.now - conn.since  # until now, when that is noticed
        if asks and not self.idle and not self.pool.closed:
            self.acquire(None, False)
        else:
            inside.find_lost(self.pool)
            self._follow()

    @rule()
    def return_a_stranger(self) -> None:
        with pytest.raises(ValueError, match="has not lent this connection"):
            self.pool.putconn(Wire(1))

    # What happens most

    @rule(seconds=st.sampled_from([0.0, 0.2]))
    def use_once(self, seconds: float) -> None:
        before = len(self.lent)
        self.acquire(None, False)
        if len(self.lent) > before:
            self.clock.sleep(0.001 + seconds)
            self.give_back(len(self.lent) - 1, "clean", "put", False)

    @rule(block=st.booleans())
    def use_after_a_restart(self, block: bool) -> None:
        self.use_once(0.0)
        self.server_restarts()
        self.time_passes(0.2)
        self.acquire(None, block)

    # Administration, the server, and time

    @rule(sizes=sizes)
    def resize(self, sizes: tuple[int, int]) -> None:
        surplus = max(0, len(self.idle) + len(self.lent) - sizes[1])
        self.pool.resize(*sizes)
        assert (self.pool.min_size, self.pool.max_size) == sizes
        by_age = sorted(conn.since for conn in self.idle)
        limit = by_age[min(surplus, len(by_age)) - 1] if surplus and by_age else -math.inf
        for conn in self.idle:  # of several of one age it does not matter which
            conn.doomed = "excess" if conn.since <= limit else ""
        gone = [conn for conn in self.idle if conn.since < limit]
        for conn in self.lent:
            entry = inside.in_use(self.pool)[id(conn.wire)]
            if not entry.expires_at:
                conn.doomed = conn.doomed or "excess"
        leaving = sum(bool(conn.doomed) for conn in self.lent)
        assert leaving >= surplus - len(by_age), "too few of the lent ones go"
        self._follow({conn: {"excess", *self._reasons_for(conn, self.clock.now)} for conn in gone})
        for conn in self.idle:
            conn.doomed = ""
        assert len(self.idle) <= max(0, sizes[1] - len(self.lent)), "too few of the idle ones went"

    @rule()
    def drain(self) -> None:
        self.pool.drain()
        for conn in [*self.idle, *self.lent]:
            conn.doomed = conn.doomed or "drained"
        self._follow({conn: {"drained"} for conn in self.idle})

    @rule()
    def check(self) -> None:
        self.pool.check()
        self._follow({conn: {"broken"} for conn in self.idle if not conn.alive})

    @rule()
    def upkeep(self) -> None:
        now, pool = self.clock.now, self.pool
        inside.put(pool, due=inside.upkeep(pool, now))
        dead = [conn for conn in self.idle if not conn.alive and now < conn.ends]
        self._follow({conn: self._reasons_for(conn, now) for conn in dead})
        late = [c for c in self.idle if now - c.since >= MAX_IDLE and now < c.ends]
        # One past its end stays until its successor is there, which is seen by the next look.
        left = [c for c in [*self.idle, *self.lent] if now < c.ends]
        assert not late or len(left) <= pool.min_size
        healthy = not self.driver.refusing and now - self.failed_at >= LONGEST_BACKOFF
        if healthy and not pool.closed and not inside.outage(pool).given_up:
            there = [c for c in [*self.idle, *self.lent] if now < c.ends]
            room = pool.max_size - len(self.idle) - len(self.lent)
            assert len(there) >= pool.min_size or room <= 0, "fewer than min_size"

    @rule()
    def server_restarts(self) -> None:
        for wire, _ in inside.idle(self.pool):
            wire.server_ends()
        for conn in [*self.idle, *self.lent]:
            conn.alive = False
            if conn.wire is not None:
                conn.wire.server_ends()

    @rule(reason=st.sampled_from(["", "", "connect_refused", "auth"]))
    def server_refuses(self, reason: str) -> None:
        self.driver.refusing = reason

    @rule(seconds=st.sampled_from([0.05, 0.2, 6.0, 31.0, 61.0, 201.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.sleep(seconds)

    @precondition(lambda self: self.requests > 8)
    @rule()
    def close(self) -> None:
        self.pool.close(0)
        for conn in self.lent:
            conn.doomed = conn.doomed or "closed"
        self._follow({conn: {"closed"} for conn in self.idle})
        assert not self.idle

    @rule()
    def statistics_are_popped(self) -> None:
        since = self.pool.pop_stats()
        assert since["requests_num"] == self.requests - self.popped
        self.popped = self.requests

    # After each step

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.clock.sleep(0.001)  # two steps never fall on one moment
        pool = self.pool
        self.was_down = pool.state == "down"
        inside.audit(pool)
        assert {id(conn.wire) for conn in self.lent} == set(inside.in_use(pool))
        stats = pool.get_stats()
        expected = {
            "pool_min": pool.min_size,
            "pool_max": pool.max_size,
            "pool_size": len(self.idle) + len(self.lent),
            "pool_available": len(self.idle),
            "requests_waiting": 0,
            "requests_num": self.requests,
            "requests_errors": self.errors,
            "timeouts": self.timeouts,
            "returns_bad": self.bad,
            "connections_num": self.driver.attempts,
            "connections_errors": self.driver.attempts - len(self.driver.opened),
            "connections_closed": dict(self.closed),
            "connections_dropped": self.dropped,
            "connections_lost": self.closed["broken"] - self.bad,
        }
        assert {key: stats[key] for key in expected} == expected
        assert sum(stats["use_time"]["counts"]) == self.uses - len(self.lent)
        assert stats["usage_ms"] == pytest.approx(self.used * 1000, abs=1)
        oldest = max((self.clock.now - conn.since for conn in self.lent), default=0.0)
        assert stats["oldest_use"] == pytest.approx(oldest)


def _run(examples: int, steps: int, *, same: bool) -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=same,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[phase for phase in Phase if phase is not Phase.explain],
        ),
    )


def test_the_pool_does_what_the_model_says() -> None:
    # The same runs each time: whoever changes something else must not be stopped by chance.
    _run(examples=200, steps=50, same=True)


@pytest.mark.long
def test_the_pool_does_what_the_model_says_in_thousands_of_runs() -> None:
    _run(examples=3_000, steps=100, same=False)


# Found by the above


def test_making_a_pool_smaller_closes_no_more_than_needed() -> None:
    """Whichever it picks, and in whichever order it comes upon them."""
    with ConnectionPool(driver=WiredDriver(), max_size=3, background=False) as pool:
        wires = [pool.getconn() for _ in range(3)]
        while wires:
            pool.putconn(wires.pop())
        ages = [entry.since for _, entry in inside.idle(pool)]
        for (_, entry), since in zip(list(inside.idle(pool)), reversed(ages), strict=True):
            entry.since = since
        pool.resize(0, 2)
        assert pool.get_stats()["pool_available"] == 2
