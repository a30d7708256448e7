"""A page that shows the local variables of an error's frames shows no password."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from dbpool import ConnectionPool, PoolError
from tests.support.callers import MakePool
from tests.support.servers import Postgres
from tests.support.sessions import role_with
from tests.support.stub_driver import StubDriver
from tests.support.waiting import wait_until

SECRET = "sEcReT"


def frames(error: BaseException | None) -> Iterator[FrameType]:
    """Yield what such a page shows: the frames of an error and of its causes, not this file's."""
    while error is not None:
        traceback = error.__traceback__
        while traceback is not None:
            if traceback.tb_frame.f_code.co_filename != __file__:
                yield traceback.tb_frame
            traceback = traceback.tb_next
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def failed(pool: ConnectionPool) -> BaseException:
    """Return what a caller gets once connecting has failed."""

    def asked() -> BaseException | None:
        with pytest.raises(PoolError) as caught:
            pool.getconn(timeout=0.05)
        return caught.value if caught.value.__cause__ is not None else None

    error = wait_until(asked)
    assert error is not None
    return error


def broken(*_: Any) -> Any:
    raise KeyError("no such secret")


def failing_driver() -> StubDriver:
    """Return one whose own frame, with the conninfo in it, is among those of its error."""
    driver = StubDriver()
    driver.hooks["connect"] = broken
    return driver


FAULTS: dict[str, dict[str, Any]] = {
    "an option that libpq does not know": {"kwargs": lambda: {"nonsense": 1}},
    "one that is no number": {"kwargs": lambda: {"keepalives_idle": object()}},
    "a value that libpq refuses": {"kwargs": {"sslmode": "requier"}},
    "a server that is not there": {"kwargs": {"host": "127.0.0.1", "port": 1}},
    "kwargs that fail": {"kwargs": broken},
    "a configure that fails": {"configure": broken},
    "a driver of the user's own that fails": {"driver": failing_driver()},
    "a conninfo that is none": {"password": "x' nonsense='"},
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_the_cause_of_a_callers_error_keeps_no_frame_with_the_password(
    fault: dict[str, Any], new_pool: MakePool, postgres: Postgres
) -> None:
    options = dict(fault)
    good = postgres.dsn(user=role_with(postgres.dsn(), SECRET), password=SECRET)
    conninfo = f"{good} password='{SECRET}{options.pop('password', '')}'"
    pool = new_pool(lambda: conninfo, **options)
    shown = [
        f"{frame.f_code.co_qualname if hasattr(frame.f_code, 'co_qualname') else frame}: {name}"
        for frame in frames(failed(pool))
        for name, value in frame.f_locals.items()
        if SECRET in repr(value)
    ]
    assert shown == []


@pytest.mark.parametrize("option", ["kwargs", "configure", "conninfo"])
def test_where_a_callback_failed_is_told(
    option: str, new_pool: MakePool, postgres: Postgres
) -> None:
    given: dict[str, Callable[..., Any]] = {option: broken}
    pool = new_pool(given.pop("conninfo", postgres.dsn()), **given)
    cause = failed(pool).__cause__
    assert cause is not None
    assert cause.__traceback__ is not None
    assert cause.__traceback__.tb_frame.f_code is broken.__code__
