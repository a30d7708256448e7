"""Outside requests nothing is committed implicitly: commands, and what click makes of them."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.web_flask.conftest import MakeSite, Site


def test_a_failing_command_commits_nothing(site: Site) -> None:
    """With click up to 8.2.2 teardown is not told that a command has failed."""

    @site.app.cli.command("fails")
    def fails() -> None:
        site.write("undone")
        raise ValueError("bug")

    result = site.app.test_cli_runner().invoke(args=["fails"])
    assert isinstance(result.exception, ValueError)
    assert site.database.notes() == []
    assert site.lent() == 0


def test_a_command_that_succeeds_commits_nothing_by_itself_either(site: Site) -> None:
    @site.app.cli.command("forgets")
    def forgets() -> None:
        site.write("undone")

    assert site.app.test_cli_runner().invoke(args=["forgets"]).exit_code == 0
    assert site.database.notes() == []


@pytest.mark.parametrize("way", ["block", "commit"])
def test_a_command_commits_what_it_says(site: Site, way: str) -> None:
    @site.app.cli.command("imports")
    def imports() -> Any:
        if way == "block":
            with site.db.transaction():
                site.write("kept")
        else:
            site.write("kept")
            site.db.commit()
        raise ValueError("later")

    site.app.test_cli_runner().invoke(args=["imports"])
    assert site.database.notes() == ["kept"]


# -- flask dbpool


def test_status_shows_the_settings_and_nothing_of_the_url(make_site: MakeSite) -> None:
    url = make_site().database.url
    site = make_site(
        DBPOOL_DATABASES={"default": url, "replica": {"url": url, "max_size": 3, "timeout": 2.5}}
    )
    result = site.app.test_cli_runner().invoke(args=["dbpool", "status"])
    assert result.exit_code == 0
    assert result.output == (
        "default: driver psycopg2, min_size 0, max_size 10, timeout 10 s\n"
        "replica: driver psycopg2, min_size 0, max_size 3, timeout 2.5 s\n"
    )


def test_check_connects_to_each_database(make_site: MakeSite) -> None:
    url = make_site().database.url
    site = make_site(DBPOOL_DATABASES={"default": url, "replica": url})
    result = site.app.test_cli_runner().invoke(args=["dbpool", "check"])
    assert result.exit_code == 0
    assert [line.split(",")[0] for line in result.output.splitlines()] == [
        "default: ok",
        "replica: ok",
    ]
    assert site.lent() == 0


def test_check_says_which_database_is_down_and_why_and_where_it_is(
    make_site: MakeSite, scram_postgres: Any
) -> None:
    """On the operator's own terminal, in the driver's words, and without a password."""
    site = make_site(
        DBPOOL_DATABASES={
            "default": make_site().database.url,
            "down": "postgresql://app:sesame@127.0.0.1:1/nowhere",
            "locked": scram_postgres.url(password="sesame"),
            "wrong": "postgresql://app:sesame@127.0.0.1:1/nowhere?sslmode=requier",
            "vault": _sealed,
        },
        DBPOOL_OPTIONS={"timeout": 10, "down_wait": 0},
    )
    result = site.app.test_cli_runner().invoke(args=["dbpool", "check"])
    assert result.exit_code == 2
    lines = result.output.splitlines()
    for line, said in zip(
        lines,
        [
            "default: ok",
            r"down: down \(connect_refused\), host 127\.0\.0\.1, port 1: .*[Cc]onnection refused",
            r"locked: down \(auth\), host .*, port \d+: .*password authentication failed",
            r"wrong: down \(misconfigured\), host 127\.0\.0\.1, port 1: .*sslmode='requier'",
            r"vault: down \(misconfigured\), .*KeyError: 'no url postgresql://app:\*\*\*@h/shop'",
        ],
        strict=True,
    ):
        assert re.match(said, line), line
    assert "sesame" not in result.output


def _sealed() -> str:
    raise KeyError("no url postgresql://app:sesame@h/shop")


def test_check_tells_a_standby_apart(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(site.pool.driver), "probe", lambda self, conn: False)
    result = site.app.test_cli_runner().invoke(args=["dbpool", "check"])
    assert result.exit_code == 1
    assert result.output.startswith("default: read-only")
