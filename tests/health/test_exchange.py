"""The exchange itself, without a framework: bytes, statuses, settings, and what never gets out."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dbpool import ConnectionPool, health
from dbpool.health import HealthCheck
from tests.health import golden
from tests.health.asking import own
from tests.health.probing import patient
from tests.health.situations import OPTIONS, place, settled
from tests.support import inside
from tests.support.servers import Postgres

LOCAL: tuple[str, dict[str, str], str] = ("", {}, "127.0.0.1")  # query, headers, address


def status_of(check: HealthCheck, path: str = "/healthz/db") -> int:
    return check.respond("GET", path, *LOCAL)[0]


@pytest.mark.parametrize("situation", golden.SITUATIONS)
def test_every_golden_exchange_byte_for_byte(situation: str, postgres: Postgres) -> None:
    with (
        place(situation, postgres) as url,
        ConnectionPool(url, **OPTIONS) as pool,
        settled(situation, pool),
    ):
        # Nobody waits for the one that never answers.
        make = HealthCheck if situation == "black hole" else patient
        check = make(lambda: {"default": pool}, token=golden.TOKEN)
        for exchange in golden.EXCHANGES:
            if exchange.situation != situation:
                continue
            asked = exchange.request
            status, given, body = health.respond(
                asked.method, asked.path, asked.query, asked.headers, "10.0.0.1", check=check
            )
            assert own(status, given, body) == exchange.reply, exchange.name


def test_the_golden_list_covers_every_situation() -> None:
    assert {exchange.situation for exchange in golden.EXCHANGES} == set(golden.SITUATIONS)


def test_the_worst_pool_wins(postgres: Postgres) -> None:
    with ExitStack() as stack:
        refused = stack.enter_context(place("down", postgres))
        good = stack.enter_context(ConnectionPool(postgres.url()))
        full = stack.enter_context(ConnectionPool(postgres.url(), max_size=1))
        down = stack.enter_context(ConnectionPool(refused))
        pools = {"good": good, "full": full}
        check = patient(lambda: pools, warn_status=299)
        assert status_of(check) == 200
        stack.enter_context(settled("saturated", full))
        assert status_of(check) == 299
        pools["down"] = down
        assert status_of(check) == 503
        assert status_of(check, "/healthz/db/good") == 200


def test_going_away_has_a_status_of_its_own_that_illness_overrides(postgres: Postgres) -> None:
    with place("down", postgres) as refused, ConnectionPool(refused) as down:
        gone = ConnectionPool(postgres.url())
        gone.close()
        pools = {"gone": gone}
        check = patient(lambda: pools, drain_status=404)
        status, headers, body = check.respond("GET", "/healthz/db", *LOCAL)
        assert (status, body) == (404, b'{"status":"fail"}\n')
        assert "Retry-After" not in dict(headers)
        pools["down"] = down
        assert status_of(check) == 503
        with settled("draining", down):
            assert status_of(check) == 404


def test_draining_asks_no_database(postgres: Postgres) -> None:
    with ConnectionPool(postgres.url()) as pool, settled("draining", pool):
        assert status_of(patient(lambda: {"default": pool})) == 503
        assert inside.prober(pool) is None


def test_a_pool_that_is_not_open_fails(postgres: Postgres) -> None:
    pool = ConnectionPool(postgres.url(), open=False)
    check = patient(lambda: {"default": pool})
    assert inside.verdicts(check) == {"default": ("fail", ("starting",))}
    pool.open()
    assert status_of(check) == 200
    pool.close()
    assert inside.verdicts(check) == {"default": ("fail", ("closed",))}


@pytest.mark.parametrize("pools", [{}, None, KeyError("hush"), RuntimeError("host=db hush")])
def test_pools_that_cannot_be_asked_are_503_and_logged_once(
    pools: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_unanswerable", False)

    def broken() -> Mapping[str, ConnectionPool]:
        if isinstance(pools, Exception):
            raise pools
        return pools  # type: ignore[no-any-return]

    check = HealthCheck(broken)
    for _ in range(3):
        answer = check.respond("GET", "/healthz/db", *LOCAL)
        assert (answer[0], answer[2]) == (503, b'{"status":"fail"}\n')
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("dbpool.health", logging.ERROR)
    assert "hush" not in record.getMessage()


@pytest.mark.parametrize(
    ("prefix", "ours", "not_ours"),
    [
        ("/healthz/db", ["/healthz/db", "/healthz/db/", "/healthz/db/a"], ["/", "/healthz/dbx"]),
        ("up/", ["/up", "/up/", "/up/a"], ["/", "/upper", "/x/up"]),
        (None, [], ["/", "/healthz/db", "/None"]),
    ],
)
def test_the_prefix_says_which_paths_are_ours(
    prefix: str | None, ours: list[str], not_ours: list[str]
) -> None:
    check = HealthCheck(dict, prefix=prefix)
    assert all(check.matches(path) for path in ours)
    assert not any(check.matches(path) for path in not_ours)
    assert all(check.respond("GET", path, *LOCAL)[0] == 404 for path in not_ours)


@pytest.mark.parametrize(
    "wrong",
    [
        {"prefix": "/"},
        {"prefix": 5},
        {"prefix": "/gesundheit/ü"},
        {"deadline": 0},
        {"deadline": float("inf")},
        {"ttl": -1},
        {"slow": "0.2"},
        {"warn_status": 302},
        {"warn_status": 500},
        {"warn_status": True},
        {"drain_status": 200},
        {"drain_status": "404"},
    ],
)
def test_wrong_values_are_refused_and_named(wrong: dict[str, Any]) -> None:
    ((name, value),) = wrong.items()
    shown = r"\(.* not shown here\)" if str(value).startswith("/") else repr(value)
    with pytest.raises(ValueError, match=f"{name}={shown} is not possible"):
        HealthCheck(dict, **wrong)


def test_settings_of_the_frameworks_become_arguments() -> None:
    check = HealthCheck.configured(
        dict,
        {
            "DEBUG": True,
            "DBPOOL_URL": "…",
            "DBPOOL_HEALTH_PATH": None,
            "DBPOOL_HEALTH_DEADLINE": 2,
            "DBPOOL_HEALTH_WARN_STATUS": 429,
        },
    )
    assert (check.prefix, check.limits.deadline, check.warn_status) == (None, 2, 429)
    with pytest.raises(ValueError, match=r"^DBPOOL_HEALTH_TTL: ttl=0 is not possible"):
        HealthCheck.configured(dict, {"DBPOOL_HEALTH_WARN_STATUS": 429, "DBPOOL_HEALTH_TTL": 0})
    with pytest.raises(ValueError, match="did you mean 'DBPOOL_HEALTH_DEADLINE'"):
        HealthCheck.configured(dict, {"DBPOOL_HEALTH_DEADLIN": 1})


def test_the_words_are_a_closed_list_and_bodies_are_json(postgres: Postgres) -> None:
    assert set(health.REASONS) == {"pass", "warn", "fail"}
    for exchange in golden.EXCHANGES:
        if exchange.reply.body:
            assert json.loads(exchange.reply.body)["status"] in health.REASONS


# Who may read the verbose form.

TOLD = b'"version"'

HERE = [
    *("localhost", "localhost:8000", "LOCALHOST", "localhost.", "shop.localhost:80"),
    *("127.0.0.1", "127.0.0.1:8000", "127.9.9.9", "[::1]", "[::1]:8000", "[::ffff:127.0.0.1]"),
]
ELSEWHERE = [
    *("shop.example", "shop.example:80", "10.0.0.7", "[2001:db8::1]:80", "0.0.0.0", ""),
    *("localhost.example", "localhost, shop.example", "127.0.0.1.example", "mylocalhost"),
]
ADDED_BY_PROXIES = [
    *("cdn_loop", "cf_connecting_ip", "cf_connecting_ipv6", "cf_pseudo_ipv4", "cf_ray"),
    *("client_ip", "do_connecting_ip", "fastly_client_ip", "fly_client_ip", "forwarded_for"),
    *("incap_client_ip", "proxy_client_ip", "true_client_ip", "via", "wl_proxy_client_ip"),
    *("x_amz_cf_id", "x_amzn_trace_id", "x_appengine_user_ip", "x_arr_ssl", "x_azure_clientip"),
    *("x_azure_socketip", "x_client_ip", "x_cloud_trace_context", "x_cluster_client_ip"),
    *("x_envoy_external_address", "x_envoy_peer_metadata", "x_forwarded", "x_forward_for"),
    *("x_forwarded_host", "x_original_forwarded_for", "x_original_host", "x_originating_ip"),
    *("x_proxyuser_ip", "x_real_ip", "x_remote_addr", "x_remote_ip", "x_sucuri_clientip"),
    *("x_varnish", "x_vercel_id"),
]


def is_told(check: HealthCheck, address: str = "10.0.0.1", **headers: str) -> bool:
    """Return whether this request gets detail; fail if who gets none gets other bytes than else."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named = {name: value for name, value in {"host": "localhost", **named}.items() if value}
    answer = check.respond("GET", "/healthz/db", "verbose=1", named, address)
    if TOLD in answer[2]:
        return True
    assert answer == check.respond("GET", "/healthz/db", "", {}, address)
    return False


def test_nobody_gets_detail_unless_said(postgres: Postgres) -> None:
    with ConnectionPool(postgres.url()) as pool:
        check = patient(lambda: {"default": pool})
        assert not is_told(check, "127.0.0.1", authorization="Bearer None")


@pytest.mark.parametrize(
    ("address", "headers", "told"),
    [
        ("127.0.0.1", {}, True),
        *(("127.8.9.10", {"host": here}, True) for here in HERE),
        # Behind waitress, say, which takes off the headers of a proxy that it does not trust.
        *(("127.0.0.1", {"host": elsewhere}, False) for elsewhere in ELSEWHERE),
        *(("127.0.0.1", {name: "203.0.113.7"}, False) for name in ADDED_BY_PROXIES),
        ("127.0.0.1", {"user_agent": "curl/8", "accept": "*/*", "x_request_id": "7"}, True),
        ("::1", {}, True),
        ("::ffff:127.0.0.1", {}, True),
        ("10.0.0.1", {}, False),
        ("::ffff:10.0.0.1", {}, False),
        ("", {}, False),  # a unix socket
        ("localhost", {}, False),
        ("127.0.0.1", {"x_forwarded_for": "127.0.0.1"}, False),
        ("127.0.0.1", {"forwarded": "for=127.0.0.1"}, False),
        ("::1", {"x_real_ip": "127.0.0.1"}, False),
        ("127.0.0.1", {"via": "1.1 proxy"}, False),
    ],
)
def test_loopback_is_this_machine_itself_and_no_proxy_on_it(
    address: str, headers: dict[str, str], told: bool, postgres: Postgres
) -> None:
    with ConnectionPool(postgres.url()) as pool:
        check = patient(lambda: {"default": pool}, detail="loopback")
        assert is_told(check, address, **headers) is told


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (f"Bearer {golden.TOKEN}", True),
        (f"bearer  {golden.TOKEN} ", True),
        (f"Basic {golden.TOKEN}", False),
        (golden.TOKEN, False),
        (f"Bearer {golden.TOKEN}x", False),
        (f"Bearer {golden.TOKEN[:-1]}", False),
        ("Bearer", False),
        ("Bearer \udcff", False),
        ("", False),
    ],
)
def test_the_token_lets_in_who_repeats_it(sent: str, told: bool, postgres: Postgres) -> None:
    with ConnectionPool(postgres.url()) as pool:
        check = patient(lambda: {"default": pool}, token=golden.TOKEN)
        assert is_told(check, authorization=sent) is told


@pytest.mark.parametrize("around", ["{}\n", "{}\r\n", " {}", "\t{} \n"])
def test_white_space_around_the_token_is_none_of_it(around: str, postgres: Postgres) -> None:
    """One that is read from a file has a line's end, which no header can repeat."""
    with ConnectionPool(postgres.url()) as pool:
        check = patient(lambda: {"default": pool}, token=around.format(golden.TOKEN))
        assert is_told(check, authorization=f"Bearer {golden.TOKEN}")
        assert not is_told(check, authorization=f"Bearer {golden.TOKEN}x")


def test_white_space_makes_no_token_long_enough() -> None:
    with pytest.raises(ValueError, match="16 characters or more"):
        HealthCheck(dict, token="fifteen letters\n")


def test_a_callable_decides_and_its_errors_are_a_no(
    postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    def known(headers: Mapping[str, str], address: str) -> bool:
        if address == "10.0.0.3":
            raise KeyError("hush")
        return headers.get("x-team") == "ops"

    with ConnectionPool(postgres.url()) as pool:
        check = patient(lambda: {"default": pool}, detail=known)
        assert is_told(check, x_team="ops")
        assert not is_told(check, x_team="shop")
        assert not is_told(check, "10.0.0.3", x_team="ops")
        assert not is_told(check, "10.0.0.3", x_team="ops")
    (record,) = caplog.records
    assert "KeyError" in record.getMessage()
    assert "hush" not in record.getMessage()


@pytest.mark.parametrize(
    "wrong",
    [
        *({"detail": "everybody"}, {"detail": True}, {"token": "short"}, {"token": b"x" * 20}),
        # What a server makes of such a header is Latin-1, UTF-8 or nothing: it would never match.
        *({"token": "schlüssel für alle"}, {"token": "sixteen letters\0and more"}),
    ],
)
def test_wrong_ways_to_give_the_right_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}.* is not possible") as refused:
        HealthCheck(dict, **wrong)
    assert "short" not in str(refused.value)


def test_an_address_that_the_server_does_not_know_is_nobodys(postgres: Postgres) -> None:
    """WSGI servers on a unix socket leave REMOTE_ADDR out, or have None in it."""
    seen: list[str] = []
    with ConnectionPool(postgres.url()) as pool:
        for detail in ("loopback", lambda headers, address: seen.append(address)):
            check = patient(lambda: {"default": pool}, detail=detail)
            status, _, body = check.respond("GET", "/healthz/db", "verbose", {}, None)
            assert (status, json.loads(body)) == (200, {"status": "pass"})
    assert seen == [""]


def test_detail_says_what_is_wrong_in_numbers_and_closed_words_only(postgres: Postgres) -> None:
    with (
        place("down", postgres) as refused,
        ConnectionPool(postgres.url(), max_size=1) as full,
        ConnectionPool(refused) as down,
        settled("saturated", full),
    ):
        check = patient(lambda: {"full": full, "down": down}, token=golden.TOKEN)
        knowing = {"authorization": f"Bearer {golden.TOKEN}"}
        status, _, body = check.respond("GET", "/healthz/db", "verbose", knowing, "10.0.0.1")
        told = json.loads(body)
        assert (status, told["status"]) == (503, "fail")
        (load,), (answer,) = told["checks"]["full:connections"], told["checks"]["down:responseTime"]
        assert (load["observedValue"], load["max"], load["idle"]) == (1, 1, 0)
        assert (load["status"], load["output"]) == ("warn", "saturated")
        assert (answer["status"], answer["output"]) == ("fail", "connect_refused")
        assert "observedValue" not in answer
        assert check.respond("GET", "/healthz/db/full", "verbose", knowing, "")[0] == 200
        for secret in (b"app", b"hush", b"127.0.0.1", b"5432", b"shop"):
            assert secret not in body


def test_pools_that_have_changed_meanwhile_cost_the_detail_and_no_500(postgres: Postgres) -> None:
    with ConnectionPool(postgres.url()) as pool:
        answers = iter([{"default": pool}, {}])
        check = patient(lambda: next(answers), token=golden.TOKEN)
        knowing = {"authorization": f"Bearer {golden.TOKEN}"}
        status, _, body = check.respond("GET", "/healthz/db", "verbose", knowing, "10.0.0.1")
        assert (status, body) == (200, b'{"status":"pass"}\n')


def test_the_docs_list_every_word_that_detail_may_say() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "health.md").read_text()
    listed = page.partition("`output` is")[2].partition("A response time")[0]
    words = {word for reasons in health.REASONS.values() for word in reasons}
    assert set(re.findall(r"`(\w+)`", listed)) == words
