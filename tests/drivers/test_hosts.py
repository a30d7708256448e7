"""The order in which several hosts of one conninfo are tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support import inside


@pytest.mark.parametrize(
    ("given", "last", "changed"),
    [
        ({"host": "a,b", "port": "1,2"}, ("b", "2"), {"host": "b,a", "port": "2,1"}),
        ({"host": "a,b,c", "port": "1,2,3"}, ("c", "3"), {"host": "c,a,b", "port": "3,1,2"}),
        ({"host": "a,b", "port": "7"}, ("b", "7"), {"host": "b,a", "port": "7,7"}),
        ({"host": "a,b"}, ("b", "5432"), {"host": "b,a", "port": "5432,5432"}),
        ({"host": "a,b", "port": ",9"}, ("b", "9"), {"host": "b,a", "port": "9,"}),
        (
            {"host": "a,b", "hostaddr": "10.0.0.1,10.0.0.2"},
            ("b", "5432"),
            {"host": "b,a", "hostaddr": "10.0.0.2,10.0.0.1", "port": "5432,5432"},
        ),
        (
            {"hostaddr": "10.0.0.1,10.0.0.2"},
            ("10.0.0.2", "5432"),
            {"hostaddr": "10.0.0.2,10.0.0.1", "port": "5432,5432"},
        ),
        # As it is: the first one served, nobody did, one that is not there, one host, or none.
        ({"host": "a,b"}, ("a", "5432"), {}),
        ({"host": "a,b"}, None, {}),
        ({"host": "a,b"}, ("c", "5432"), {}),
        ({"host": "a,b", "port": "1,2"}, ("b", "1"), {}),
        ({"host": "a"}, ("a", "5432"), {}),
        ({}, ("a", "5432"), {}),
        # The user's own wish, and what libpq will refuse.
        ({"host": "a,b", "load_balance_hosts": "random"}, ("b", "5432"), {}),
        ({"host": "a,b", "port": "1,2,3"}, ("b", "2"), {}),
    ],
)
def test_the_host_that_served_last_comes_first(
    given: dict[str, Any], last: Any, changed: dict[str, str]
) -> None:
    assert inside.in_order(given, last) == changed


def test_a_primary_is_looked_for_among_several_unless_the_user_says_what_for() -> None:
    several: dict[str, Any] = {"host": "a,b"}
    assert inside.routed(several, {}, None, True, {}) == {"target_session_attrs": "read-write"}
    assert inside.routed(several, {}, None, False, {}) == {}
    assert inside.routed({"host": "a"}, {"x": 1}, None, True, {}) == {"x": 1}
    own = {**several, "target_session_attrs": "any"}
    assert inside.routed(own, {}, None, True, {}) == {}


def test_hosts_of_the_environment_or_a_service_file_are_routed_as_those_of_a_conninfo(
    tmp_path: Path,
) -> None:
    last = ("b", "5432")
    moved = {"host": "b,a", "port": "5432,5432", "target_session_attrs": "read-write"}
    hosts = {"PGHOST": "a,b"}
    assert inside.routed({}, {}, last, True, hosts) == moved
    assert inside.routed({"host": "c"}, {}, last, True, hosts) == {}
    file = tmp_path / "services"
    file.write_text("[shop]\nhost=a,b\n")
    service = {"PGSERVICEFILE": str(file), "PGSERVICE": "shop", "PGHOST": "c"}
    assert inside.routed({}, {}, last, True, service) == moved
    wanted = {**hosts, "PGTARGETSESSIONATTRS": "any"}
    assert "target_session_attrs" not in inside.routed({}, {}, last, True, wanted)
    balanced = {**hosts, "PGLOADBALANCEHOSTS": "random"}
    assert inside.routed({}, {}, last, False, balanced) == {}
