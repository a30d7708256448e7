"""Options: their defaults, and wrong ones refused when the pool is made, in words that help."""

from __future__ import annotations

import math
import re
import threading
import time
from typing import Any

import pytest

from dbpool import ConnectionPool
from dbpool.options import OPTIONS, PoolOptions
from tests.support import inside
from tests.support.callers import PATIENCE, MakePool, expect_full_capacity, in_thread
from tests.support.stub_driver import StubDriver

DEFAULTS = {
    "min_size": 0,
    "timeout": 10.0,
    "max_waiting": 0,
    "admission": "fifo",
    "admission_target": 0.05,
    "admission_interval": 2.0,
    "max_lifetime": 3600.0,
    "max_idle": 600.0,
    "validate": "poll",
    "validate_after": 0.1,
    "ping_after": 30.0,
    "ping_timeout": 2.0,
    "max_connecting": 2,
    "connect_timeout": 5.0,
    "down_wait": 1.0,
    "reconnect_timeout": 300.0,
    "reconnect_failed": None,
    "configure": None,
    "check": None,
    "reset": None,
    "close_returns": False,
    "max_use": None,
    "statement_timeout": None,
    "idle_in_transaction_session_timeout": None,
    "role": None,
    "reuse": "lifo",
    "name": None,
    "background": True,
    "open": True,
}


@pytest.mark.parametrize(("name", "default"), DEFAULTS.items())
def test_an_option_has_the_default_that_is_written_down(name: str, default: object) -> None:
    assert OPTIONS[name].default == default
    assert type(OPTIONS[name].default) is type(default)


def test_every_option_is_known_once_and_explained() -> None:
    assert set(OPTIONS) == set(PoolOptions.__annotations__) == {*DEFAULTS, "max_size"}
    assert all(option.meaning and option.allowed for option in OPTIONS.values())


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        ({}, (0, 10)),
        ({"min_size": 3}, (3, 10)),
        ({"min_size": 20}, (20, 20)),
        ({"max_size": 4}, (0, 4)),
        ({"min_size": 4, "max_size": 4}, (4, 4)),
        ({"min_size": 12, "max_size": None}, (12, 12)),
    ],
)
def test_max_size_is_10_or_min_size_if_that_alone_is_given_and_larger(
    given: dict[str, Any], sizes: tuple[int, int], stub_pool: MakePool
) -> None:
    pool = stub_pool(open=False, **given)
    assert (pool.min_size, pool.max_size) == sizes


@pytest.mark.parametrize(
    "sizes", [(0, 0), (-1, 5), (5, 4), (1.0, 5), (True, 5), (0, True), ("1", 5)]
)
def test_impossible_sizes_are_refused_by_the_constructor_and_by_resize(
    sizes: tuple[Any, Any], stub_pool: MakePool
) -> None:
    with pytest.raises(ValueError, match="_size"):
        stub_pool(min_size=sizes[0], max_size=sizes[1])
    pool = stub_pool(min_size=1, max_size=3)
    with pytest.raises(ValueError, match="_size"):
        pool.resize(*sizes)
    assert (pool.min_size, pool.max_size) == (1, 3)


def test_what_psycopg_pool_shows_of_its_options_is_shown_here_too(stub_pool: MakePool) -> None:
    given: dict[str, Any] = {
        "name": "shop",
        "min_size": 1,
        "max_size": 3,
        "timeout": 4.0,
        "max_waiting": 5,
        "max_lifetime": 6.0,
        "max_idle": 7.0,
        "reconnect_timeout": 8.0,
    }
    pool = stub_pool(open=False, **given)
    assert {name: getattr(pool, name) for name in given} == given
    pool = stub_pool(open=False, max_lifetime=None, max_idle=None)
    assert (pool.max_lifetime, pool.max_idle) == (None, None)


class Awaited:
    async def __call__(self, *_: object) -> None:
        """Like a coroutine function, without being one."""


async def coroutine(*_: object) -> None:
    """What nobody would await."""


WRONG: dict[str, list[Any]] = {
    "min_size": [-1, 1.5, "2", None, True],
    "max_size": [0, -3, 2.0, "10", False],
    "timeout": [10**400, 0, -1, None, math.inf, math.nan, "10", True],
    "max_waiting": [-1, 0.5, None, True],
    "admission": ["lifo", None, True],
    "admission_target": [10**400, 0, -1, None, math.inf, "1"],
    "admission_interval": [0, -1, None, math.inf, "1"],
    "max_lifetime": [10**400, 0, -1, math.inf, math.nan, "60"],
    "max_idle": [10**400, 0, -1, math.inf, "60"],
    "validate": ["always", None, True, 0],
    "validate_after": [10**400, -0.1, None, math.inf, "0"],
    "ping_after": [10**400, -1, None, math.inf],
    "ping_timeout": [10**400, 0, None, math.inf],
    "max_connecting": [0, -1, None, 1.5],
    "connect_timeout": [2_147_484, 0, -5, None, math.inf],
    "down_wait": [10**400, -1, None, math.inf, "1"],
    "reconnect_timeout": [10**400, 0, None, math.inf],
    "reconnect_failed": [coroutine, "call me", 1],
    "configure": [coroutine, "SET x = 1", 1],
    "check": [coroutine, Awaited(), "SELECT 1", True],
    "reset": [coroutine, Awaited(), "automatic", "DISCARD ALL", 1, True],
    "close_returns": [0, 1, None, "no"],
    "max_use": [10**400, 0, -1, math.inf, "60", True],
    "statement_timeout": [2_147_484, 10**400, 0, -1, math.inf, "60", True],
    "idle_in_transaction_session_timeout": [2_147_484, 0, -1, math.inf, "60", True],
    "role": ["leader", "", 1, True],
    "reuse": ["stack", None, 1],
    "name": ["", "a\0b", "\ud800", 5, b"shop"],
    "background": [0, 1, None, "no"],
    "open": [0, 1, None, "yes"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_a_wrong_value_is_refused_naming_option_value_and_what_is_allowed(
    name: str, value: object
) -> None:
    with pytest.raises(ValueError) as caught:
        ConnectionPool(driver=StubDriver(), **{name: value})  # type: ignore[arg-type]
    text = str(caught.value)
    assert f"{name}={as_shown(value)} is not possible" in text
    assert OPTIONS[name].allowed in text


def as_shown(value: object) -> str:
    """Return what an error shows of a wrong value: a word or a number, of others the type."""
    if isinstance(value, str):
        return repr(value) if value.isalnum() or not value else "(a string that is not shown here)"
    return (
        repr(value)
        if value is None or isinstance(value, (int, float))
        else (f"(of type {type(value).__name__})")
    )


def test_every_option_has_wrong_values_above() -> None:
    assert set(WRONG) == set(OPTIONS)


def test_never_is_said_by_none(stub_pool: MakePool) -> None:
    pool = stub_pool(max_lifetime=None, max_idle=None)
    pool.putconn(pool.getconn())
    inside.upkeep(pool, time.monotonic() + 1e9)
    assert pool.get_stats()["pool_available"] == 1


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("maxsize", "max_size"),
        ("max_sizes", "max_size"),
        ("Min_Size", "min_size"),
        ("max_life_time", "max_lifetime"),
        ("time_out", "timeout"),
        ("validated", "validate"),
    ],
)
def test_an_unknown_option_names_the_nearest_known_one(wrong: str, right: str) -> None:
    with pytest.raises(TypeError, match=rf"{wrong!r}: did you mean {right!r}\?"):
        ConnectionPool(driver=StubDriver(), **{wrong: 1})  # type: ignore[arg-type]


def test_an_unknown_option_that_resembles_none_gets_the_list() -> None:
    with pytest.raises(TypeError) as caught:
        ConnectionPool(driver=StubDriver(), zzz=1)  # type: ignore[call-arg]
    assert all(name in str(caught.value) for name in OPTIONS)


def test_a_refused_pool_leaves_nothing_behind() -> None:
    threads, pools = set(threading.enumerate()), set(inside.scheduler.pools)
    for options in ({"min_size": -1}, {"pool_size": 1}):
        with pytest.raises((TypeError, ValueError)):
            ConnectionPool(driver=StubDriver(), **options)  # type: ignore[arg-type]
    assert set(threading.enumerate()) <= threads  # those of tests before may end meanwhile
    assert set(inside.scheduler.pools) <= pools


def test_pools_without_a_name_are_numbered(stub_pool: MakePool) -> None:
    first, named, second = stub_pool(), stub_pool(name="shop"), stub_pool()
    assert named.name == "shop"
    numbers = [int(pool.name.removeprefix("pool-")) for pool in (first, second)]
    assert numbers[1] == numbers[0] + 1


@pytest.mark.parametrize("conninfo", [None, 5, b"host=db", {"host": "db"}], ids=repr)
def test_a_conninfo_that_is_no_string_is_refused(conninfo: Any) -> None:
    with pytest.raises(TypeError, match="conninfo"):
        ConnectionPool(conninfo)


@pytest.mark.parametrize("kwargs", [5, "sslmode=require", [("host", "db")]], ids=repr)
def test_kwargs_that_are_no_mapping_are_refused(kwargs: Any) -> None:
    with pytest.raises(TypeError, match="kwargs"):
        ConnectionPool(driver=StubDriver(), kwargs=kwargs)


@pytest.mark.parametrize("driver", [5, object(), StubDriver], ids=["number", "object", "class"])
def test_a_driver_that_is_none_is_refused(driver: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="driver"):
        ConnectionPool("host=db", driver=driver)


@pytest.mark.parametrize("timeout", ["5", math.inf, math.nan, True, [1]], ids=repr)
@pytest.mark.parametrize("there", ["nothing", "a connection", "a connection to look at"])
def test_a_wrong_timeout_is_refused_and_costs_no_connection(
    timeout: Any, there: str, stub_pool: MakePool, stub: StubDriver
) -> None:
    pool = stub_pool(max_size=1, validate_after=0 if "look" in there else 60)
    if there != "nothing":
        pool.putconn(pool.getconn())
    if there == "a connection":  # taken at once: nobody looks at the timeout
        pool.putconn(pool.getconn(timeout=timeout))
    else:
        with pytest.raises(ValueError) as caught:
            pool.getconn(timeout=timeout)
        assert f"timeout={as_shown(timeout)} is" in str(caught.value)
    expect_full_capacity(pool)
    assert len(stub.made) == 1, "a connection was lost over it"


@pytest.mark.parametrize("value", [math.nan, None, "1", True, 10**400])
@pytest.mark.parametrize(
    ("method", "argument"), [("wait", "timeout"), ("close", "timeout"), ("pause", "wait")]
)
def test_a_method_refuses_seconds_that_are_none_and_does_nothing(
    method: str, argument: str, value: object, stub_pool: MakePool, stub: StubDriver
) -> None:
    """To count down from a NaN would be to wait for ever."""
    stub.hooks["connect"] = lambda _: time.sleep(0.2)  # else there is nothing to wait for
    pool = stub_pool(min_size=1)
    asked = in_thread(getattr(pool, method), **{argument: value})
    with pytest.raises(ValueError, match=f"^{argument}={re.escape(repr(value))} is not possible"):
        asked.result(PATIENCE)
    assert pool.state == "ok"
    pool.wait()


@pytest.mark.parametrize("option", ["statement_timeout", "connect_timeout"])
def test_the_longest_that_is_allowed_is_what_a_server_takes(option: str, pg_pool: MakePool) -> None:
    with pg_pool(**{option: 2_147_483}).connection():
        pass


def test_methods_may_wait_for_ever(stub_pool: MakePool) -> None:
    pool = stub_pool(min_size=1)
    pool.wait(math.inf)
    pool.close(math.inf)
    assert pool.closed
