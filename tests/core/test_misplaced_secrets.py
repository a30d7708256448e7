"""A secret under the wrong option: neither the error nor the frames that it came through have it.

A string is quoted only if it is a plain word, or a short number.
"""

from __future__ import annotations

from typing import Any

import pytest

from dbpool import ConnectionPool
from dbpool.health import HealthCheck
from tests.support import inside
from tests.support.callers import MakePool
from tests.support.secrets import leaks

SECRET = "sEcReT!9x"
URL = f"postgresql://app:{SECRET}@127.0.0.1:1/shop"
MISTAKES: dict[str, dict[str, Any]] = {
    "a malformed URL": {"conninfo": f"postgresql://app:{SECRET}@db:{SECRET}/shop"},
    "an unknown scheme": {"conninfo": f"mysql://app:{SECRET}@db/shop"},
    "a URL that SQLite cannot read": {"conninfo": f"sqlite://{SECRET}@/x"},
    "an unescaped @": {"conninfo": f"postgresql://app:p@{SECRET}@db/shop"},
    "a wrong option beside a good URL": {"conninfo": URL, "max_size": -1},
    "an unknown option": {"conninfo": URL, "maxsize": 5},
    "a driver that does not serve it": {"conninfo": URL, "driver": "sqlite3"},
    "an unknown driver": {"conninfo": URL, "driver": URL},
    "kwargs that are none": {"conninfo": URL, "kwargs": [URL]},
    "a second URL": {"conninfo": URL, "kwargs": {"dsn": URL}, "driver": "psycopg2"},
    "an address that is none": {"conninfo": "", "kwargs": {"host": f"app:{SECRET}@db"}},
    "a URL as the key of an option": {"conninfo": URL, URL: 5},
    "bytes": {"conninfo": URL.encode()},
    "a setting that the driver has not": {"conninfo": "sqlite://", "statement_timeout": 5},
    **{
        f"a URL as {name}": {"conninfo": URL, name: URL + ending}
        for name, ending in {
            **dict.fromkeys(("max_size", "min_size", "timeout", "validate", "configure"), ""),
            **dict.fromkeys(("check", "reset", "reuse", "role", "admission", "open"), ""),
            "name": "\0",
        }.items()
    },
}


@pytest.mark.parametrize("given", MISTAKES.values(), ids=MISTAKES)
def test_a_refused_pool_says_nothing_of_a_secret(given: dict[str, Any]) -> None:
    given = dict(given)
    conninfo = given.pop("conninfo")
    with pytest.raises((TypeError, ValueError)) as caught:
        ConnectionPool(conninfo, **given)
    assert leaks(caught.value, SECRET) == []


@pytest.mark.parametrize(
    "given",
    [
        *({name: URL} for name in ("prefix", "deadline", "warn_status", "detail")),
        *({"detail": SECRET * 2}, {"token": SECRET + "ü" * 16}, {"token": SECRET}),
    ],
    ids=str,
)
def test_a_refused_health_check_says_nothing_of_a_secret(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as caught:
        HealthCheck(dict, **given)
    assert leaks(caught.value, SECRET) == []
    settings = {f"DBPOOL_HEALTH_{'PATH' if k == 'prefix' else k.upper()}": given[k] for k in given}
    with pytest.raises(ValueError) as caught:
        HealthCheck.configured(dict, settings)
    assert leaks(caught.value, SECRET) == []


@pytest.mark.parametrize("method", ["resize", "getconn", "wait"])
def test_a_method_says_nothing_of_a_secret_either(method: str, stub_pool: MakePool) -> None:
    pool = stub_pool()
    with pytest.raises(ValueError) as caught:
        getattr(pool, method)(URL)
    assert SECRET not in str(caught.value)


WORDS = [
    *("max_size", "Min_Size", "10", "-0.5", "1e9", "ASC2", "no.such.thing", "replica-1", "straße"),
    *("idle_in_transaction_session_timeout", "DBPOOL_HEALTH_DEADLIN", "analytics_replica_2"),
]
TOKENS = [
    *("p@ss", "s3cr3t/", "1234567890", "9f86d081884c7d659a2feaa0", "Ab3dEf9hIjKlMn0p"),
    *("hY7_kLmN-o8PqRsTu", "deadbeef0deadbeef0abc"),
]


@pytest.mark.parametrize("word", ["", *WORDS])
def test_words_and_short_numbers_are_quoted(word: str) -> None:
    assert inside.is_word(word)
    assert inside.shown(word) == repr(word)


@pytest.mark.parametrize("text", [URL, "host=db", "a b", "\0", "a\nb", "x" * 81, *TOKENS])
def test_whatever_may_be_a_secret_is_not(text: str) -> None:
    assert text not in inside.shown(text)


@pytest.mark.parametrize("thing", [URL.encode(), [URL], {URL: URL}, {"password": SECRET}, object()])
def test_of_an_object_no_more_than_its_type_is_told(thing: object) -> None:
    assert inside.shown(thing) == f"(of type {type(thing).__name__})"
