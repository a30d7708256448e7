"""uWSGI: it loads the app and then forks its workers in C, without Python's own hooks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testproject.postgres import PostgresServer
from tests.ecosystem.promises import Database, answers_are_its_own, by_http, hold
from tests.ecosystem.serving import program, serving

pytestmark = pytest.mark.package("uwsgi", to_set="nothing")

UWSGI = (program("uwsgi"), "--http=127.0.0.1:{port}", "--need-app", "--die-on-term", "--master")
MODES = {
    "its default": ("--processes=2",),
    "--lazy-apps": ("--processes=2", "--lazy-apps"),
    "threads": ("--processes=2", "--enable-threads", "--threads=4"),
    "--max-requests": ("--processes=2", "--max-requests=25"),
    "without a master's hooks": ("--processes=4", "--enable-threads"),
}


def asked(
    database: Database, framework: str, options: tuple[str, ...], log: Path, address: str = ""
) -> None:
    """Serve a site whose module queries when it is imported, and check every promise."""
    with serving(
        *UWSGI, *options, f"--module=tests.ecosystem.{framework}_site:app",
        url=address or database.address(framework), log=log, framework=framework, FIELD_USED="1",
    ) as (where, _):  # fmt: skip
        ask = by_http(where)
        answers_are_its_own(ask, 400, 16)
        hold(ask, database)
        answers_are_its_own(ask, 100, 16)


@pytest.mark.parametrize("framework", ["flask", "django"])
@pytest.mark.parametrize("mode", MODES)
def test_after_a_query_at_import_400_answers_are_right_and_what_was_answered_201_is_there(
    field: Database, tmp_path: Path, mode: str, framework: str
) -> None:
    asked(field, framework, MODES[mode], tmp_path / "log")


@pytest.fixture
def over_tls() -> Iterator[Database]:
    with PostgresServer(ssl=True) as server:
        yield Database(server)


@pytest.mark.parametrize("framework", ["flask", "django"])
def test_over_tls_workers_share_no_session_either(
    over_tls: Database, tmp_path: Path, framework: str
) -> None:
    asked(over_tls, framework, MODES["its default"], tmp_path / "log")
